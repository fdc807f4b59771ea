import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memoryBroker } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { askOne, type Fault, READ_ORDINAL_MIN, systemClock, WHOLE } from '@tributary/core';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Engine, KpiProjection, KpiStore } from '@tributary/kpi';
import { ProjectionActor } from '@tributary/projection';
import { LakeProjection, LakeStore, OdsProjection } from '@tributary/sink';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Chooser, faulty, SINK_FAULTS } from '../fixtures/faulty-projection.ts';
import { events, type Target, webhook } from '../fixtures/events-target.ts';
import { History, rowText } from '../fixtures/history.ts';
import { TcpProxy } from '../fixtures/tcp-proxy.ts';
import { until } from '../fixtures/wait.ts';
import { seeded } from '../fixtures/workload.ts';

/** Every run prints its seed; TRIBUTARY_SEED repeats one. */
const SEED = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
/** Every run is another history; more of them at once are for a search. */
const ROUNDS = 1;
const UNITS = 80;
/** For those that take long over every group: the same faults and cuts, over half of it. */
const UNITS_SLOW = 40;
/** Nothing is asked by projections that are only filled. */
const NOBODY = {
  ask: () => {
    throw new Error('nobody is to be asked');
  },
};

let postgres: PostgresServer;
let client: Client;

/**
 * An ODS.
 * @param port of the server, or of what stands between
 * @param keeps both of what follows
 * @param versions are they kept? @param marked are deleted rows kept? @param empty at first
 */
async function ods({
  port = postgres.port,
  keeps = false,
  versions = keeps,
  marked = keeps,
  empty = true,
}: {
  port?: number;
  keeps?: boolean;
  versions?: boolean;
  marked?: boolean;
  empty?: boolean;
}): Promise<Target> {
  if (empty) await client.query('DROP SCHEMA IF EXISTS s, s_history, tributary CASCADE');
  const connection = { host: '127.0.0.1', port, user: 'postgres', database: 'ods' };
  const config = {
    type: 'ods',
    name: 'sink',
    from: ['*'],
    postgres: connection,
    onError: 'halt',
    partitions: 1,
    existing: 'refuse',
    foreignKeys: 'check',
    history: versions,
    softDelete: marked,
  } as const;
  const rows = async (sql: string) => {
    const found = await client.query<unknown[]>({ text: sql, rowMode: 'array' });
    return found.rows.map(rowText).toSorted();
  };
  const place = (lsn: string, ordinal: string, at: string) =>
    `(${lsn} - '0/0'::pg_lsn) || CASE WHEN ${ordinal} < 2^32 THEN ' ' || ${ordinal} ELSE ' read' END
       || CASE WHEN extract(epoch FROM ${at}) * 1000000 = ${lsn} - '0/0'::pg_lsn THEN '' ELSE ' at another time' END`;
  const from = `_op || ' ' || ${place('_from_lsn', '_from_ordinal', '_valid_from')}`;
  const version = `${from}, _ended_by || ' ' || ${place('_to_lsn', '_to_ordinal', '_valid_to')}`;
  const mark = place('_deleted_lsn', '_deleted_ordinal', '_deleted_at');
  const there = marked ? 'WHERE _deleted_lsn IS NULL' : '';
  const gone = 'WHERE _deleted_lsn IS NOT NULL';
  return {
    open: (changelogs, cut) =>
      OdsProjection.open({
        config,
        source: 's',
        sourceConnection: connection,
        bus: NOBODY,
        part: WHOLE,
        changelogs,
        overlapBytes: 1,
        cut,
      }),
    ended: async () => {},
    holds: async () => ({
      rows: {
        k: await rows(`SELECT id, v, big, extra FROM s.k ${there}`),
        f: await rows(`SELECT a, b FROM s.f ${there}`),
      },
      versions: versions && [
        ...(await rows(`SELECT 'f', a, b, ${version} FROM s_history.f`)),
        ...(await rows(`SELECT 'k', id, v, big, extra, ${version} FROM s_history.k`)),
      ],
      marks: marked && [
        ...(await rows(`SELECT 'f', a, b, ${mark} FROM s.f ${gone}`)),
        ...(await rows(`SELECT 'k', id, v, big, extra, ${mark} FROM s.k ${gone}`)),
      ],
    }),
    wanted: (history) => ({ rows: history.rows, versions: versions && history.versions, marks: marked && history.marks }),
    remove: async () => {},
  };
}

/** Over the table with a key: what deltas keep, and what is computed anew. */
const KPI = `kind: Kpi
name: texts
from: { k: s.public.k }
dimensions: { first: "left(k.v, 1)" }
measures: { n: { sql: "count(*)" }, chars: { sql: "sum(length(k.big))" }, ids: { sql: "count(DISTINCT k.id)" }, last: { sql: "max(k.v)" } }
---
kind: Kpi
name: pairs
from: { f: s.public.f, k: { table: s.public.k, on: "k.v = f.a", as: dimension } }
measures: { n: { sql: "count(*)" }, met: { sql: "count(k.id)" } }
`;

/** An engine of KPIs: its rows, and what it keeps of two KPIs is what their definitions say over these. */
async function kpi(): Promise<Target> {
  const folder = await mkdtemp(join(tmpdir(), 'tributary-contract-kpi-'));
  const { kpisOf } = await configReading();
  const kpis = kpisOf({ name: 'kpi', text: KPI }, ['s']);
  const { bus } = memoryBroker();
  // Complete from its first message on, so that deltas keep the KPIs through all that comes.
  await bus.serve('tributary.source.s.barrier', async function* () {
    yield { seq: 0 };
  });
  const common = { warn: () => {}, memoryBytes: 2 ** 28, threads: 1 };
  let engine: Engine | null = null;
  let checked = 0;
  const opened = async (): Promise<Engine> => {
    if (engine) return engine;
    const store = await KpiStore.open({ ...common, folder, engine: 'kpi' });
    return (engine = await Engine.open({ name: 'kpi', kpis, sources: ['s'], store, clock: systemClock, warn: () => {} }));
  };
  const rows = async (sql: string) =>
    (await opened()).store.read(async (duck) =>
      (await duck.rows<Record<string, unknown>>(sql)).map((row) => rowText(Object.values(row))).toSorted(),
    );
  const ended = async () => {
    await engine?.store.close();
    engine = null;
  };
  return {
    open: async () => KpiProjection.open({ engine: await opened(), source: 's', bus, lakes: [], warn: () => {} }),
    ended,
    wanted: ({ rows: current }) => current,
    async holds() {
      const { kpis: kept, store } = await opened();
      const release = await store.lock();
      try {
        for (const one of kept.values()) {
          await (await opened()).define(one);
          // Behind a replay an engine is complete again only with the next message.
          if ((await opened()).lack(one)) continue;
          expect(await (await opened()).check(one, true), `${one.config.name} is what its definition says`).toBe(0);
          checked++;
        }
      } finally {
        release();
      }
      return {
        k: await rows('SELECT id, v, big, extra FROM _cur."s.public.k"'),
        f: await rows('SELECT a, b FROM _cur."s.public.f"'),
      };
    },
    async remove() {
      expect(checked).toBeGreaterThan(0);
      await ended();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

const KEEPS_VERSIONS = 'ods that keeps versions';
/** One of both alone, by seed. */
const KEPT_ALONE = SEED % 2 === 0 ? KEEPS_VERSIONS : 'ods that keeps deleted rows';

const TARGETS: Readonly<Record<string, () => Promise<Target>>> = {
  ods: () => ods({}),
  'ods that keeps versions and deleted rows': () => ods({ keeps: true }),
  [KEPT_ALONE]: () => ods({ versions: KEPT_ALONE === KEEPS_VERSIONS, marked: KEPT_ALONE !== KEEPS_VERSIONS }),
  events,
  'events to a webhook': webhook,
  kpi,
  async lake() {
    const folder = await mkdtemp(join(tmpdir(), 'tributary-contract-lake-'));
    let store: LakeStore | null = null;
    const opened = async () => (store ??= await LakeStore.open(join(folder, 'state'), 'sink', () => {}));
    const config = {
      type: 'lake',
      name: 'sink',
      from: ['*'],
      flush: { everyMs: 0, bytes: 1 },
      compact: { everyMs: 100 },
    } as const;
    const rows = async (sql: string) => {
      const duck = await (await opened()).connect();
      try {
        return (await duck.rows<Record<string, unknown>>(sql)).map((row) => rowText(Object.values(row))).toSorted();
      } finally {
        duck.close();
      }
    };
    return {
      open: async (_, cut) =>
        LakeProjection.open({
          config,
          source: 's',
          sourceConnection: null,
          bus: NOBODY,
          store: await opened(),
          folder: join(folder, 'lake'),
          now: () => performance.now(),
          warn: () => {},
          cut,
        }),
      async ended() {
        store?.close();
        store = null;
      },
      holds: async () => ({
        k: await rows('SELECT id, v, big, extra FROM _current."s.public.k"'),
        f: await rows('SELECT a, b FROM _current."s.public.f"'),
      }),
      wanted: ({ rows: current }) => current,
      async remove() {
        store?.close();
        await rm(folder, { recursive: true, force: true });
      },
    };
  },
};

/** They take long over every group, and at every end. */
const SLOW: ReadonlySet<string> = new Set(['kpi', 'lake']);

/** Messages of faults that the tests make; any other is one of ours. */
const WANTED = /as the test wants it|the worker was ended|database_unreachable/;

/**
 * Runs the projection until it holds the whole changelog, starting it again whenever it ends.
 * @param from once it does, it is set back there and told the rest again
 * @returns how often it was started
 */
async function follow(
  target: Target,
  { changelogs, bus }: ReturnType<typeof memoryBroker>,
  seq: number,
  choose: Chooser,
  from: string | null = null,
): Promise<number> {
  for (let starts = 1; ; starts++) {
    const stop = new AbortController();
    const open = async (cut: AbortSignal) =>
      faulty(await target.open(changelogs, cut), { choose, cut, held: () => stop.abort(new Error('the worker was ended')) });
    const given = {
      sink: 'sink',
      source: 's',
      part: WHOLE,
      changelogs,
      bus,
      clock: systemClock,
      groupBytes: 4_000,
      restMs: 0,
      open,
    };
    const actor = new ProjectionActor(given);
    let ended = false;
    const run = actor
      .run(
        stop.signal,
        () => {},
        async (fault) => {
          throw fault;
        },
      )
      .catch((error: unknown) => {
        if (!WANTED.test(`${(error as Error).message} ${(error as Fault).kind}`)) throw error;
      })
      .finally(() => (ended = true));
    const at = () => (actor.facts()['position'] as { seq: number } | null)?.seq ?? 0;
    await until('the end of the changelog, or of the actor', async () => ended || at() >= seq, 120_000);
    const done = !ended && at() >= seq;
    if (done && from !== null) await askOne(bus, 'tributary.projection.sink.s.replay', { from });
    stop.abort();
    await run;
    await target.ended();
    if (done) return starts;
  }
}

/**
 * Chooses one of every so many: at random, but leaves out no more than `most` in a row at first, so that a round of some more cannot
 * pass without one; then one more each time, so that a transaction of many groups gets through in the end.
 */
function oneIn(most: number, random: () => number): () => boolean {
  let gaps = most;
  const gap = () => Math.floor(random() * ++gaps);
  let left = gap();
  return () => {
    if (left-- > 0) return false;
    left = gap();
    return true;
  };
}

/** A place of the history; where rows were swept it is in the middle of that snapshot, behind its beginning. */
function somewhere(history: History, random: () => number): string {
  const place = (lsn: number) => `0/${lsn.toString(16)}`;
  const swept = history.versions
    .map((text) => /"s (\d+) read"\]$/.exec(text)?.[1] ?? '')
    .find((lsn) => lsn !== '' && random() < 0.5);
  return swept
    ? `${place(Number(swept))}+${READ_ORDINAL_MIN + 1}`
    : place(16 * (1 + Math.floor(random() * (history.units.length - 4))));
}

/** @param again parts of the history were told more than once */
async function expectHolds(target: Target, history: History, again = false): Promise<void> {
  expect(await target.holds(again)).toEqual(target.wanted(history, again));
}

/** @param until how much of the history is written; default: all */
async function written(history: History, cuts: number, until?: number) {
  const broker = memoryBroker();
  const writer = await broker.changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
  const write = history.writing(writer, 's', cuts);
  return { broker, write, seq: await write(until) };
}

beforeAll(async () => {
  postgres = await startPostgres({ dir: join(await temporaryFolder('projections'), 'postgres'), databases: ['ods'] });
  client = new Client({ connectionString: postgres.url('ods') });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await postgres.stop();
});

describe.each(Object.entries(TARGETS))(`projection %s (seed ${SEED})`, (name, make) => {
  const units = SLOW.has(name) ? UNITS_SLOW : UNITS;

  it.each(SINK_FAULTS)('holds what the changelog says, whatever the target does: %s', async (fault) => {
    for (let round = 0; round < ROUNDS; round++) {
      const random = seeded(SEED + round);
      const history = new History(SEED + round, units);
      const { broker, seq } = await written(history, SEED + round);
      const target = await make();
      let met = 0;
      // A round is 17 groups or more, of the slow ones 8.
      const chosen = oneIn(fault === 'hold' ? units / 10 : 4, random);
      const starts = await follow(target, broker, seq, () => (chosen() ? (met++, fault) : null));
      expect(met).toBeGreaterThan(0);
      if (fault !== 'slow') expect(starts).toBe(met + 1);
      await expectHolds(target, history);
      await target.remove();
    }
  });

  it('comes to the same however the history was cut, wherever it was ended, and when it is told again', async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const random = seeded(SEED * 7 + round);
      const history = new History(SEED + round, units);
      for (const cuts of [1, 2]) {
        const { broker, seq } = await written(history, SEED + round * 10 + cuts);
        const target = await make();
        const end: Chooser = () => (cuts === 2 && random() < 0.03 ? 'hold' : null);
        await follow(target, broker, seq, end);
        await expectHolds(target, history);
        await follow(target, broker, seq, () => null, somewhere(history, random));
        await expectHolds(target, history, true);
        // Told again, from its beginning.
        const projection = await target.open(broker.changelogs, new AbortController().signal);
        await projection.position();
        await projection.reset();
        await projection.close();
        await target.ended();
        await follow(target, broker, seq, end);
        await expectHolds(target, history, true);
        await target.remove();
      }
    }
  });
});

it(`projection ods (seed ${SEED}) commits rows and position together: the connection breaks at a commit, or its answer is lost`, async () => {
  for (const keeps of [false, true]) {
    const random = seeded(SEED);
    const history = new History(SEED, UNITS);
    const { broker, seq } = await written(history, SEED);
    const met = { break: 0, 'lose the answer': 0 };
    const chosen = oneIn(4, random);
    const proxy = await TcpProxy.start(postgres.port, (sent) => {
      if (!sent.includes('COMMIT') || !chosen()) return 'pass';
      const passage = met.break > met['lose the answer'] ? 'lose the answer' : 'break';
      met[passage]++;
      return passage;
    });
    const target = await ods({ port: proxy.port, keeps });
    await follow(target, broker, seq, () => null);
    expect(met.break).toBeGreaterThan(0);
    expect(met['lose the answer']).toBeGreaterThan(0);
    await expectHolds(target, history);
    await proxy.stop();
  }
});

it(`projection ods (seed ${SEED}) begins to keep versions and deleted rows with the rows as they are, whenever it is asked to`, async () => {
  const history = new History(SEED, UNITS);
  const { broker, write, seq } = await written(history, SEED, 30);
  await follow(await ods({}), broker, seq, () => null);
  const rows = async (sql: string) => (await client.query<{ row: string }>(sql)).rows.map(({ row }) => row);
  const [known] = await rows(`SELECT format('(%L::pg_lsn, %s)', lsn, ordinal) AS row FROM tributary.position`);
  const all = 'SELECT k::text AS row FROM (SELECT id, v, big';
  for (const [until, keeps] of [
    [50, true],
    [65, false],
    [80, true],
  ] as const) {
    await follow(await ods({ keeps, empty: false }), broker, await write(until), () => null);
    const current = await rows(`${all} FROM s.k ${keeps ? 'WHERE _deleted_lsn IS NULL' : ''}) k ORDER BY 1`);
    const open = await rows(`${all} FROM s_history.k WHERE _to_lsn IS NULL) k ORDER BY 1`);
    if (keeps) expect(open).toEqual(current);
    else expect(open).not.toEqual(current);
  }
  // What is not known is not told.
  expect(await rows(`SELECT _op AS row FROM s_history.k WHERE (_from_lsn, _from_ordinal) < ${known}`)).toEqual([]);
});
