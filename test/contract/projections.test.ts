import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memoryBroker } from '@tributary/changelog';
import { type Fault, systemClock, WHOLE } from '@tributary/core';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { type Projection, ProjectionActor } from '@tributary/projection';
import { LakeProjection, LakeStore, OdsProjection } from '@tributary/sink';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Chooser, faulty, SINK_FAULTS } from '../fixtures/faulty-projection.ts';
import { History, type Rows, rowText } from '../fixtures/history.ts';
import { TcpProxy } from '../fixtures/tcp-proxy.ts';
import { until } from '../fixtures/wait.ts';
import { seeded } from '../fixtures/workload.ts';

/** Every run prints its seed; TRIBUTARY_SEED repeats one. */
const SEED = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const ROUNDS = 2;
const UNITS = 80;

type Changelogs = ReturnType<typeof memoryBroker>['changelogs'];

/** One target, empty at first, that outlives the projections which write it. */
interface Target {
  open(changelogs: Changelogs, cut: AbortSignal): Promise<Projection>;
  /** A worker that ends takes with it what it holds in memory. */
  ended(): Promise<void>;
  rows(): Promise<Rows>;
  remove(): Promise<void>;
}

let postgres: PostgresServer;
let client: Client;

const TARGETS: Readonly<Record<string, (port?: number) => Promise<Target>>> = {
  async ods(port = postgres.port) {
    await client.query('DROP SCHEMA IF EXISTS s CASCADE; DROP SCHEMA IF EXISTS tributary CASCADE');
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
    } as const;
    const rows = async (sql: string) => {
      const found = await client.query<unknown[]>({ text: sql, rowMode: 'array' });
      return found.rows.map(rowText).toSorted();
    };
    return {
      open: (changelogs, cut) =>
        OdsProjection.open({ config, source: 's', sourceConnection: connection, part: WHOLE, changelogs, cut }),
      ended: async () => {},
      rows: async () => ({ k: await rows('SELECT id, v, big FROM s.k'), f: await rows('SELECT a, b FROM s.f') }),
      remove: async () => {},
    };
  },
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
      rows: async () => ({
        k: await rows('SELECT id, v, big FROM _current."s.public.k"'),
        f: await rows('SELECT a, b FROM _current."s.public.f"'),
      }),
      async remove() {
        store?.close();
        await rm(folder, { recursive: true, force: true });
      },
    };
  },
};

/** Messages of faults that the tests make; any other is one of ours. */
const WANTED = /as the test wants it|the worker was ended|database_unreachable/;

/** Runs the projection until it holds the whole changelog, starting it again whenever it ends. @returns how often it was started */
async function follow(
  target: Target,
  { changelogs, bus }: ReturnType<typeof memoryBroker>,
  seq: number,
  choose: Chooser,
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
    stop.abort();
    await run;
    await target.ended();
    if (done) return starts;
  }
}

/** Chooses one of every so many: at random, but never leaves out more than `most` in a row, so that a round of some more cannot pass without one. */
function oneIn(most: number, random: () => number): () => boolean {
  const gap = () => Math.floor(random() * (most + 1));
  let left = gap();
  return () => {
    if (left-- > 0) return false;
    left = gap();
    return true;
  };
}

async function written(history: History, cuts: number) {
  const broker = memoryBroker();
  const writer = await broker.changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
  return { broker, seq: await history.write(writer, 's', cuts) };
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

describe.each(Object.entries(TARGETS))(`projection %s (seed ${SEED})`, (_, make) => {
  it.each(SINK_FAULTS)('holds what the changelog says, whatever the target does: %s', async (fault) => {
    for (let round = 0; round < ROUNDS; round++) {
      const random = seeded(SEED + round);
      const history = new History(SEED + round, UNITS);
      const { broker, seq } = await written(history, SEED + round);
      const target = await make();
      let met = 0;
      // A round is 17 groups or more.
      const chosen = oneIn(fault === 'hold' ? 8 : 4, random);
      const starts = await follow(target, broker, seq, () => (chosen() ? (met++, fault) : null));
      expect(met).toBeGreaterThan(0);
      if (fault !== 'slow') expect(starts).toBe(met + 1);
      expect(await target.rows()).toEqual(history.rows);
      await target.remove();
    }
  });

  it('comes to the same however the history was cut, wherever it was ended, and when it is told again', async () => {
    for (let round = 0; round < ROUNDS; round++) {
      const random = seeded(SEED * 7 + round);
      const history = new History(SEED + round, UNITS);
      for (const cuts of [1, 2]) {
        const { broker, seq } = await written(history, SEED + round * 10 + cuts);
        const target = await make();
        const end: Chooser = () => (cuts === 2 && random() < 0.03 ? 'hold' : null);
        await follow(target, broker, seq, end);
        expect(await target.rows()).toEqual(history.rows);
        // Told again, from its beginning.
        const projection = await target.open(broker.changelogs, new AbortController().signal);
        await projection.position();
        await projection.reset();
        await projection.close();
        await target.ended();
        await follow(target, broker, seq, end);
        expect(await target.rows()).toEqual(history.rows);
        await target.remove();
      }
    }
  });
});

it(`projection ods (seed ${SEED}) commits rows and position together: the connection breaks at a commit, or its answer is lost`, async () => {
  for (let round = 0; round < ROUNDS; round++) {
    const random = seeded(SEED + round);
    const history = new History(SEED + round, UNITS);
    const { broker, seq } = await written(history, SEED + round);
    const met = { break: 0, 'lose the answer': 0 };
    const chosen = oneIn(4, random);
    const proxy = await TcpProxy.start(postgres.port, (sent) => {
      if (!sent.includes('COMMIT') || !chosen()) return 'pass';
      const passage = met.break > met['lose the answer'] ? 'lose the answer' : 'break';
      met[passage]++;
      return passage;
    });
    const target = await (TARGETS['ods'] as (port: number) => Promise<Target>)(proxy.port);
    await follow(target, broker, seq, () => null);
    expect(met.break).toBeGreaterThan(0);
    expect(met['lose the answer']).toBeGreaterThan(0);
    expect(await target.rows()).toEqual(history.rows);
    await proxy.stop();
  }
});
