import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual, promisify } from 'node:util';
import { memoryBroker } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { askOne, type Fault, Op, systemClock, WHOLE } from '@tributary/core';
import { Engine, KpiProjection, KpiStore, startKpis } from '@tributary/kpi';
import { type Projection, ProjectionActor } from '@tributary/projection';
import { LakeProjection, LakeStore } from '@tributary/sink';
import { afterEach, describe, expect, it } from 'vitest';
import { History, rowText, text, Written } from '../fixtures/history.ts';
import { until } from '../fixtures/wait.ts';

/** Every run prints its seed; TRIBUTARY_SEED repeats one. */
const SEED = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const UNITS = 40;

const TEXTS = `kind: Kpi
name: texts
from: { k: s.public.k }
dimensions: { first: "left(k.v, 1)" }
measures: { n: { sql: "count(*)" }, chars: { sql: "sum(length(k.big))" } }
`;
const PAIRS = `kind: Kpi
name: pairs
from: { f: s.public.f, k: { table: s.public.k, on: "k.v = f.a", as: dimension } }
measures: { n: { sql: "count(*)" }, last: { sql: "max(f.b)" } }
`;
const LAST = `kind: Kpi
name: last
from: { k: s.public.k }
dimensions: { first: "left(k.v, 1)" }
measures: { n: { sql: "count(*)" }, last: { sql: "max(k.big)" } }
`;

const ORDERS = {
  schema: 'public',
  table: 'orders',
  identity: 'default' as const,
  columns: [text('id', 1), text('country'), text('paid')],
};
const SALES = `kind: Source
name: s
postgres: "postgres://u:p@nowhere/s"
---
kind: Kpi
name: sales
from: { o: s.public.orders }
dimensions: { country: o.country }
measures: { paid: { sql: "sum(o.paid::INT)" }, most: { sql: "max(o.id)" } }
`;
const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** A condition that others wait for. */
const gate = () => {
  let open = () => {};
  const passed = new Promise<void>((resolve) => (open = resolve));
  return { passed, open };
};

describe(`an engine of KPIs (seed ${SEED})`, () => {
  const closing: (() => Promise<unknown>)[] = [];
  afterEach(async () => {
    for (const close of closing.splice(0).toReversed()) await close();
  });

  const temporary = async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tributary-contract-engine-'));
    closing.push(() => rm(folder, { recursive: true, force: true }));
    return folder;
  };

  /** A changelog that holds so many units of a history, and goes on when it is told to. */
  const written = async (units?: number) => {
    const broker = memoryBroker();
    const history = new History(SEED, UNITS);
    const writer = await broker.changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
    const write = history.writing(writer, 's', SEED);
    await write(units);
    await broker.bus.serve('tributary.source.s.barrier', async function* () {
      yield { seq: 0 };
    });
    return { ...broker, history, write };
  };
  type World = Awaited<ReturnType<typeof written>>;

  /** Runs a projection until it holds all of the changelog. @returns the function that ends it */
  const run = async (world: World, sink: string, open: () => Promise<Projection>): Promise<() => Promise<void>> => {
    const { changelogs, bus } = world;
    const options = { sink, source: 's', part: WHOLE, changelogs, bus, clock: systemClock, groupBytes: 20_000, restMs: 0 };
    const actor = new ProjectionActor({ ...options, open });
    const stop = new AbortController();
    const ready = () => {};
    const running = actor.run(stop.signal, ready, async (fault) => {
      throw fault;
    });
    const ended = async () => {
      stop.abort();
      await running;
    };
    closing.push(ended);
    const { lastSeq = 0 } = (await changelogs.status('s')) ?? {};
    const at = () => (actor.facts()['position'] as { seq: number } | null)?.seq ?? 0;
    await Promise.race([running, until('the end of the changelog', async () => at() >= lastSeq, 60_000)]);
    return ended;
  };

  const opened = async (folder: string, text: string): Promise<Engine> => {
    const { kpisOf } = await configReading();
    const kpis = kpisOf({ name: 'kpi', text }, ['s']);
    const warn = () => {};
    const store = await KpiStore.open({ folder, engine: 'kpi', memoryBytes: 2 ** 28, threads: 1, warn });
    return Engine.open({ name: 'kpi', kpis, sources: ['s'], store, clock: systemClock, warn });
  };

  const follow = (world: World, engine: Engine, lakes: readonly string[] = []) =>
    run(world, 'kpi', () => KpiProjection.open({ engine, source: 's', bus: world.bus, lakes, warn: () => {} }));

  const rowsOf = (engine: Engine) =>
    engine.store.read(async (duck) => {
      const rows = async (sql: string) =>
        (await duck.rows<Record<string, unknown>>(sql)).map((row) => rowText(Object.values(row))).toSorted();
      return {
        k: await rows('SELECT id, v, big, extra FROM _cur."s.public.k"'),
        f: await rows('SELECT a, b FROM _cur."s.public.f"'),
      };
    });

  /** What there is of KPIs in the file. */
  const kept = (engine: Engine) =>
    engine.store.read(async (duck) => {
      const tables = await duck.rows<{ name: string }>(
        `SELECT DISTINCT table_name AS name FROM duckdb_tables() WHERE schema_name IN ('_agg', '_val')`,
      );
      const versions = await duck.rows<{ name: string; version: string }>('SELECT name, version FROM _meta.kpis ORDER BY name');
      return { tables: tables.map(({ name }) => name).toSorted(), versions };
    });

  /** Rows are those of the history, and what is kept of every KPI is what its definition says over them. */
  const expectHolds = async (engine: Engine, history: History) => {
    expect(await rowsOf(engine)).toEqual(history.rows);
    const release = await engine.store.lock();
    try {
      for (const kpi of engine.kpis.values()) {
        await engine.define(kpi);
        expect(engine.lack(kpi), `${kpi.config.name} is complete`).toBeNull();
        expect(await engine.check(kpi, true), `${kpi.config.name} is what its definition says`).toBe(0);
      }
    } finally {
      release();
    }
  };

  /** An engine with both KPIs that holds what is written, and that nobody fills any more. */
  const filled = async (folder: string, world: World): Promise<Engine> => {
    const engine = await opened(folder, `${TEXTS}---\n${PAIRS}`);
    const end = await follow(world, engine);
    await expectHolds(engine, world.history);
    await end();
    return engine;
  };

  it('loads the compacted changelog of a lake, and reads on from there', async () => {
    const folder = await temporary();
    const world = await written(30);
    const store = await LakeStore.open(join(folder, 'state'), 'lake', () => {});
    closing.push(async () => store.close());
    const config = {
      type: 'lake',
      name: 'lake',
      from: ['*'],
      flush: { everyMs: 0, bytes: 1 },
      compact: { everyMs: 50 },
    } as const;
    await run(world, 'lake', async () =>
      LakeProjection.open({
        config,
        source: 's',
        sourceConnection: null,
        bus: world.bus,
        store,
        folder: join(folder, 'lake'),
        now: () => performance.now(),
        warn: () => {},
        cut: new AbortController().signal,
      }),
    );
    // It compacts as batches come, and no more will: what the last ones brought is compacted by asking.
    const asked = (what: string, question: object) => askOne(world.bus, `tributary.projection.lake.s.${what}`, question);
    await asked('compact', {});
    const told = await asked('compacted', { tables: ['public.k', 'public.f'] });
    expect(told).toMatchObject({ tables: [{ name: 'public.k' }, { name: 'public.f' }] });
    const engine = await opened(folder, `${TEXTS}---\n${PAIRS}`);
    closing.push(() => engine.store.close());
    const probe = await KpiProjection.open({ engine, source: 's', bus: world.bus, lakes: ['lake'], warn: () => {} });
    const loaded = await probe.position();
    await probe.close();
    expect(loaded.seq).toBeGreaterThan(0);
    await world.write();
    await follow(world, engine, ['lake']);
    await expectHolds(engine, world.history);
  });

  it('keeps KPIs in step when only its projection starts again', async () => {
    const world = await written(25);
    const engine = await opened(await temporary(), `${TEXTS}---\n${PAIRS}`);
    closing.push(() => engine.store.close());
    for (const units of [30, undefined]) {
      const end = await follow(world, engine);
      await end();
      await world.write(units);
    }
    await follow(world, engine);
    await expectHolds(engine, world.history);
  });

  it('copies its file and goes on, while readers come and go', async () => {
    const folder = await temporary();
    const world = await written(25);
    const engine = await opened(folder, `${TEXTS}---\n${PAIRS}`);
    closing.push(() => engine.store.close());
    const end = await follow(world, engine);
    await end();
    let leave = () => {};
    let reading = () => {};
    const read = new Promise<void>((resolve) => (reading = resolve));
    const reader = engine.store.read(async (duck) => {
      reading();
      await new Promise<void>((resolve) => (leave = resolve));
      return duck.rows('SELECT count(*) AS n FROM _cur."s.public.k"');
    });
    await read;
    const before = await rowsOf(engine);
    const release = await engine.store.lock();
    let copied = false;
    const copying = engine.store.compact().then(() => (copied = true));
    await until('the copy to wait for the reader', async () => engine.store.swapping);
    expect(copied).toBe(false);
    const late = rowsOf(engine);
    leave();
    expect(await reader).toHaveLength(1);
    await copying;
    release();
    expect(await late).toEqual(before);
    await world.write();
    await follow(world, engine);
    await expectHolds(engine, world.history);
  });

  it('tells whoever comes while it ends to come again, and waits for those who are there', async () => {
    const { store } = await opened(await temporary(), TEXTS);
    let leave = () => {};
    const left = new Promise<void>((resolve) => (leave = resolve));
    const read = store.read(async (duck) => {
      await left;
      return duck.rows('SELECT 1 AS one');
    });
    const closing = store.close();
    await until('it to end', async () =>
      store
        .read(async () => 'read')
        .then(
          () => false,
          ({ kind }: Fault) => kind === 'not_complete',
        ),
    );
    leave();
    expect(await read).toEqual([{ one: 1 }]);
    await closing;
    await expect(store.read(async () => 'read')).rejects.toMatchObject({ kind: 'not_complete' });
  });

  it('is open in one process alone', async () => {
    const folder = await temporary();
    const engine = await opened(folder, TEXTS);
    const other = `import { KpiStore } from '@tributary/kpi';
      const options = { folder: ${JSON.stringify(folder)}, engine: 'kpi', memoryBytes: 2 ** 27, threads: 1, warn: console.error };
      const told = await KpiStore.open(options).then((store) => store.close().then(() => 'opened'), ({ kind, facts }) => [kind, facts.unreadable].join());
      console.log(told);`;
    const run = promisify(execFile);
    const opening = async () => {
      const { stdout } = await run(process.execPath, ['--input-type=module', '-e', other], { cwd: import.meta.dirname });
      return stdout.trim();
    };
    const exported = engine.store.exportPath();
    await writeFile(exported, 'an answer on its way');
    // Refused as taken, not put aside as a file that cannot be read.
    expect(await opening()).toBe('database_unreachable,false');
    expect(await readFile(exported, 'utf8')).toBe('an answer on its way');
    await engine.store.close();
    expect(await opening()).toBe('opened');
  });

  it('starts over with a new KPI when it is killed while it computes it, and has it once that is committed', async () => {
    const folder = await temporary();
    const world = await written();
    const engine = await filled(folder, world);
    await engine.store.close();
    const text = `${TEXTS}---\n${PAIRS}---\n${LAST}`;
    // Computes the new KPI, and dies (-9) before, or behind, the first statement that begins so.
    const dying = (when: 'before' | 'behind', statement: string) => `import { Engine, KpiStore } from '@tributary/kpi';
      import { configReading } from '@tributary/config';
      import { systemClock } from '@tributary/core';
      const { kpisOf } = await configReading();
      const given = { folder: ${JSON.stringify(folder)}, engine: 'kpi', memoryBytes: 2 ** 27, threads: 1, warn: console.error };
      const store = await KpiStore.open(given);
      const kpis = kpisOf({ name: 'kpi', text: ${JSON.stringify(text)} }, ['s']);
      const engine = await Engine.open({ name: 'kpi', kpis, sources: ['s'], store, clock: systemClock, warn: console.error });
      const { writer } = store;
      const run = writer.run.bind(writer);
      writer.run = async (sql, values) => {
        const last = sql.startsWith(${JSON.stringify(statement)});
        if (last && ${when === 'before'}) process.kill(process.pid, 'SIGKILL');
        await run(sql, values);
        if (last) process.kill(process.pid, 'SIGKILL');
      };
      await engine.define(engine.kpis.get('last'));`;
    for (const [when, statement, there] of [
      ['behind', 'CREATE OR REPLACE TABLE _val', ['pairs', 'texts']],
      ['before', 'COMMIT', ['pairs', 'texts']],
      ['behind', 'COMMIT', ['last', 'pairs', 'texts']],
    ] as const) {
      const child = promisify(execFile)(process.execPath, ['--input-type=module', '-e', dying(when, statement)], {
        cwd: import.meta.dirname,
      });
      await expect(child, `${when} ${statement}`).rejects.toMatchObject({ signal: 'SIGKILL' });
      const next = await opened(folder, text);
      try {
        const { tables, versions } = await kept(next);
        expect([tables, versions.map(({ name }) => name)], `${when} ${statement}`).toEqual([there, there]);
        if (there.length === 3) await expectHolds(next, world.history);
      } finally {
        await next.store.close();
      }
    }
  });

  it('computes another definition beside its rows, and forgets a KPI that is gone', async () => {
    const folder = await temporary();
    const world = await written();
    const engine = await filled(folder, world);
    const before = await kept(engine);
    expect(before.tables).toEqual(['pairs', 'texts']);
    await engine.store.close();
    const changed = await opened(
      folder,
      TEXTS.replace('left(k.v, 1)', 'left(k.v, 2)').replace('sum(length(k.big))', 'max(k.big)'),
    );
    closing.push(() => changed.store.close());
    // Rows are there already: nothing is read anew.
    await expectHolds(changed, world.history);
    const after = await kept(changed);
    expect(after.tables).toEqual(['texts']);
    expect(after.versions).toHaveLength(1);
    expect(after.versions[0]?.version).not.toBe(before.versions.find(({ name }) => name === 'texts')?.version);
  });

  it('over a hole in its history answers what it was until the source is read anew, then nothing, then what is', async () => {
    const dataDir = await temporary();
    const { configOf } = await configReading();
    const config = configOf([{ name: 'config', text: SALES }], { env: {} });
    const broker = memoryBroker();
    const { bus, changelogs, store } = broker;
    const runtime = { ...broker, clock: systemClock, log: quiet, dataDir, worker: 'w', labels: null, capacity: 1 };
    const written = new Written(await changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), 's');
    const change = (lsn: bigint, op: (typeof Op)['created' | 'updated' | 'deleted'], ...cells: (string | null)[]) =>
      written.stream([{ lsn, changes: [{ schema: ORDERS, op, cells }] }]);
    let level = Promise.resolve();
    await bus.serve('tributary.source.s.barrier', async function* () {
      await level;
      yield { seq: written.seq };
    });
    const [asked, snapshot] = [gate(), gate()];
    await bus.serve('tributary.source.s.snapshot', async function* () {
      asked.open();
      await snapshot.passed;
      const rows = [
        ['1', 'FR', '10'],
        ['3', 'DE', '30'],
        ['4', 'AT', '4'],
      ];
      await written.snapshot({ schema: ORDERS, rows }, 2);
      yield { done: true };
    });
    const start = async () => {
      const service = await startKpis(config, runtime);
      closing.push(() => service.stop());
      return service;
    };
    /** By country; or the kind of fault. */
    const values = async () => {
      try {
        const { rows, freshness } = await askOne<{
          rows: { dimensions: { country: string }; values: Record<string, unknown> }[];
          freshness: { position: string };
        }>(bus, 'tributary.kpi.sales.values', {});
        const by = rows.map((row) => [row.dimensions.country, [row.values['paid'], row.values['most']]] as const);
        return { by: Object.fromEntries(by), position: freshness.position };
      } catch (error) {
        return (error as Fault).kind;
      }
    };
    /** Nothing else is ever said, except what was before. */
    const said = (by: object, before: object = by) =>
      until('the values', async () => {
        const told = await values();
        if (typeof told === 'string') return null;
        expect([by, before]).toContainEqual(told.by);
        return isDeepStrictEqual(told.by, by) && told;
      });

    await change(16n, Op.created, '1', 'DE', '1');
    await change(32n, Op.created, '2', 'DE', '2');
    await change(48n, Op.created, '3', 'DE', '3');
    const first = await start();
    const before = await said({ DE: [6, '3'] });
    await first.stop();

    // What it would read next is gone.
    await change(64n, Op.deleted, '2', null, null);
    await change(80n, Op.updated, '1', 'FR', '10');
    await change(96n, Op.updated, '3', 'DE', '30');
    store.trim('s', written.seq);
    const held = gate();
    level = held.passed;
    const second = await start();
    await asked.passed;
    expect(await said({ DE: [6, '3'] })).toEqual(before);

    // It stands at the begin of what is left: none of that is a state that the source had, also for whoever starts here.
    snapshot.open();
    const nothing = () =>
      until('nothing to be said', async () => {
        const told = await values();
        if (typeof told !== 'string') expect(told).toEqual(before);
        return told === 'not_complete';
      });
    await nothing();
    await second.stop();
    await start();
    await nothing();

    held.open();
    await change(112n, Op.created, '5', 'AT', '5');
    const anew = { FR: [10, '1'], DE: [30, '3'], AT: [9, '5'] };
    await said(anew);
    await change(128n, Op.updated, '5', 'FR', '6');
    await said({ FR: [16, '5'], DE: [30, '3'], AT: [4, '4'] }, anew);
    // Its history begins anew behind the hole.
    const past = askOne(bus, 'tributary.kpi.sales.values', { asOf: before.position });
    await expect(past).rejects.toMatchObject({ kind: 'outside_history' });
  });
});
