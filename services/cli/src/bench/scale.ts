import type { SourceConfig } from '@tributary/config';
import { askUntil, partName, partsOf } from '@tributary/core';
import { startSources } from '@tributary/source';
import { barrier, projectionSubject } from '../cluster.ts';
import type { Output } from '../output.ts';
import { type IdleCost, measureIdle } from './idle.ts';
import { round } from './measure.ts';
import { transformed, type TransformRun } from './scale-transforms.ts';
import { type CpuTimes, cpuTimes, shared, since, WorkerProcess } from './workers.ts';
import { openWorld, ORDERS, type World } from './world.ts';

const CHANGELOGS = 8;
const TABLES = 4;
/** Rows of each hot table: updated again and again, so that most changes of a group fold into one row to be written. */
const HOT_ROWS = 500;
/** The one in which others used the least of the machine counts. */
const ROUNDS = 3;
const SETTINGS = { max_replication_slots: '40', max_wal_senders: '40', max_connections: '300' };
const far = () => Date.now() + 900_000;

/**
 * How work grows with workers, and cost with sources. Two loads, because where everything runs on one machine it is the
 * target's own work that decides: `fresh` rows (each one is a row that PostgreSQL must write) and `hot` rows (updates of the
 * same rows, which the worker folds before PostgreSQL hears of them). CPU is told for workers, PostgreSQL, the broker and
 * whoever else was busy: a ratio counts only where two cores were free for it. A load without any target: {@link benchScaleTransform}.
 */
export async function benchScale(rows: number, output: Output): Promise<void> {
  const world = await openWorld(['fresh', 'hot', 'ods'], {
    settings: SETTINGS,
  });
  const runs: Run[] = [];
  try {
    for (const load of ['fresh', 'hot'] as const) {
      await fill(world, load);
      await capture(world, load, rows);
      for (const [workers, partitions, changelogs] of [
        [1, 1, CHANGELOGS],
        [2, 1, CHANGELOGS],
        [2, 1, 1],
        [1, 2, 1],
        [2, 2, 1],
      ] as const) {
        const run = await replayed(world, { load, workers, partitions, changelogs, rows });
        runs.push(run);
        if (!output.json) tell(run, output);
      }
    }
  } finally {
    await world.close();
  }
  const idle = await measureIdle((cost) => {
    if (!output.json) tellIdle(cost, output);
  });
  if (output.json) output.value(result(runs, idle));
}

/** Eight changelogs through a transform each: the worker itself is the cost, and no PostgreSQL takes part. */
export async function benchScaleTransform(rows: number, output: Output): Promise<void> {
  const world = await openWorld(['fresh'], { settings: SETTINGS });
  const runs: TransformRun[] = [];
  try {
    await fill(world, 'fresh');
    await capture(world, 'fresh', rows);
    const sources = sourcesOf(world, 'fresh', CHANGELOGS).map(({ name }) => name);
    for (const workers of [1, 2]) {
      const run = await transformed(world, { sources, rows, workers });
      runs.push(run);
      if (!output.json) tellTransforms(run, output);
    }
  } finally {
    await world.close();
  }
  if (output.json) output.value(transformResult(runs));
}

interface Setting {
  readonly load: 'fresh' | 'hot';
  readonly workers: number;
  readonly partitions: number;
  readonly changelogs: number;
  /** Of each changelog. */
  readonly rows: number;
}

interface Run extends Setting {
  readonly rowsPerSecond: number;
  /** CPU seconds a second of the run. */
  readonly cores: CpuTimes & { readonly others: number };
  /** CPU of the workers, µs a row. */
  readonly cpuMicrosPerRow: number;
}

/** The same load in four tables of one database, for all changelogs. */
async function fill(world: World, load: Setting['load']): Promise<void> {
  const session = await world.session(load);
  for (let t = 1; t <= TABLES; t++) await session.run(ORDERS.replace('public.orders', `public.orders_${t}`));
  if (load === 'hot') for (let t = 1; t <= TABLES; t++) await session.run(insert(t, 1, HOT_ROWS));
}

/** Transactions of 2,000 rows over all tables. */
async function change(world: World, load: Setting['load'], rows: number): Promise<void> {
  const session = await world.session(load);
  for (let first = 1; first <= rows / TABLES; first += HOT_ROWS) {
    const statements = Array.from({ length: TABLES }, (_, t) =>
      load === 'fresh'
        ? insert(t + 1, first, first + HOT_ROWS - 1)
        : `UPDATE public.orders_${t + 1} SET qty = ${first}, amount = amount + 1, updated_at = updated_at + interval '1 second'`,
    );
    await session.run(`BEGIN; ${statements.join('; ')}; COMMIT`);
  }
}

function insert(table: number, first: number, last: number): string {
  return `INSERT INTO public.orders_${table} SELECT i, i % 50000, 'new' || i % 5, (i % 100000) / 7.0, 'EUR', 'some note text of a moderate length here',
    timestamptz '2026-01-01' + i * interval '1 second', timestamptz '2026-06-01' + i * interval '1 second', i % 9, i % 2 = 0 FROM generate_series(${first}, ${last}) i`;
}

/** Every changelog is captured from the same database by a source of its own; they end before anything is measured. */
async function capture(world: World, load: Setting['load'], rows: number): Promise<void> {
  const config = { ...world.config([]), sources: sourcesOf(world, load, CHANGELOGS) };
  const service = await startSources(config, world.runtime);
  const passed = () => Promise.all(config.sources.map(({ name }) => barrier(world.broker.bus, name, far())));
  await passed();
  await change(world, load, rows);
  await passed();
  await service.stop();
}

function sourcesOf(world: World, load: Setting['load'], count: number): SourceConfig[] {
  const [like] = world.config([]).sources as readonly [SourceConfig];
  return Array.from({ length: count }, (_, i) => ({ ...like, name: `${load}_${i + 1}`, postgres: world.connection(load) }));
}

/** Workers that have applied everything are told to apply it all again, at once: the least disturbed of several rounds. */
async function replayed(world: World, setting: Setting): Promise<Run> {
  const { load, partitions } = setting;
  const sources = sourcesOf(world, load, setting.changelogs);
  const documents = [
    ...sources.map(({ name }) => ({ kind: 'Source', name, postgres: world.postgres.url(load) })),
    { kind: 'Sink', name: 'ods', type: 'ods', postgres: world.postgres.url('ods'), partitions },
  ];
  const actors = sources.flatMap(({ name }) => partsOf(partitions).map((part) => partName(`ods/${name}`, part)));
  const workers: WorkerProcess[] = [];
  try {
    for (let i = 0; i < setting.workers; i++) workers.push(await WorkerProcess.start(world, 'sink', documents));
    await shared(world, workers, actors);
    const { bus, changelogs } = world.broker;
    for (const actor of actors) {
      const source = sources.find(({ name }) => actor.startsWith(`ods/${name}`))?.name as string;
      const seq = (await changelogs.status(source))?.lastSeq;
      await askUntil(bus, projectionSubject(actor, 'reached'), { seq }, far());
    }
    const rounds: Run[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      rounds.push(await replayOnce(world, setting, { workers, actors }));
      await expectRows(world, setting, sources);
    }
    return rounds.toSorted((a, b) => a.cores.others - b.cores.others)[0] as Run;
  } finally {
    for (const worker of workers) await worker.stop();
  }
}

/** A figure counts only when every row of the source is in the target, changed as often as there. */
async function expectRows(world: World, { load }: Setting, sources: readonly SourceConfig[]): Promise<void> {
  const tables = Array.from({ length: TABLES }, (_, t) => `orders_${t + 1}`);
  const sums = (schema: string) =>
    `SELECT ${tables.map((table) => `(SELECT count(*) || '/' || coalesce(sum(qty), 0) FROM ${schema}.${table})`).join(` || ' ' || `)} AS sums`;
  const expected = (await (await world.session(load)).row<{ sums: string }>(sums('public'))).sums;
  const target = await world.session('ods');
  for (const { name } of sources) {
    const found = (await target.row<{ sums: string }>(sums(name))).sums;
    if (found !== expected) throw new Error(`after its replay the ODS holds ${found} of ${name}, the source ${expected}`);
  }
}

async function replayOnce(
  world: World,
  setting: Setting,
  { workers, actors }: { workers: readonly WorkerProcess[]; actors: readonly string[] },
): Promise<Run> {
  const before = cpuTimes(world, workers);
  const start = performance.now();
  await Promise.all(
    actors.map(async (actor) => {
      for await (const _ of world.broker.bus.ask(projectionSubject(actor, 'replay'), { from: 'start' }, { idleMs: 600_000 }));
    }),
  );
  const seconds = (performance.now() - start) / 1_000;
  const used = since(before, cpuTimes(world, workers));
  const rows = setting.rows * setting.changelogs;
  const others = used.machine - used.workers - used.postgres - used.nats;
  const perSecond = (cpu: number) => round(cpu / seconds);
  return {
    ...setting,
    rowsPerSecond: Math.round(rows / seconds),
    cpuMicrosPerRow: round((used.workers * 1e6) / rows),
    cores: {
      workers: perSecond(used.workers),
      postgres: perSecond(used.postgres),
      nats: perSecond(used.nats),
      machine: perSecond(used.machine),
      others: perSecond(Math.max(0, others)),
    },
  };
}

function tell(run: Run, output: Output): void {
  const { workers, postgres, nats, others } = run.cores;
  output.line(
    `${run.load.padEnd(6)}${run.changelogs} changelog(s), partitions ${run.partitions}, ${run.workers} worker(s)  ${run.rowsPerSecond} rows/s, ${run.cpuMicrosPerRow} µs a row; cores: workers ${workers}, PostgreSQL ${postgres}, broker ${nats}, others ${others}`,
  );
}

function tellTransforms({ workers, changelogs, rowsPerSecond, cpuMicrosPerRow, cores }: TransformRun, output: Output): void {
  output.line(
    `${changelogs} transform(s), ${workers} worker(s)  ${rowsPerSecond} rows/s, ${cpuMicrosPerRow} µs a row; cores: workers ${cores.each.join(' + ')}, broker ${cores.nats}, others ${cores.others}`,
  );
}

function tellIdle(cost: IdleCost, output: Output): void {
  output.line(
    `${String(cost.sources).padStart(2)} idle source(s)  worker ${cost.cores} cores, ${cost.rssMb} MB; PostgreSQL ${cost.postgresCores}, broker ${cost.natsCores}`,
  );
}

/** The figure is that of two workers; its reference the same with one. */
function transformResult(runs: readonly TransformRun[]): object {
  const [one, two] = runs as [TransformRun, TransformRun];
  return {
    bench: 'scale-transform',
    rowsPerSecond: two.rowsPerSecond,
    cpuMicrosPerRow: two.cpuMicrosPerRow,
    reference: { name: 'one worker', rowsPerSecond: one.rowsPerSecond, cpuMicrosPerRow: one.cpuMicrosPerRow },
    ratio: round(two.rowsPerSecond / one.rowsPerSecond),
    ratioByCpu: round((2 * one.cpuMicrosPerRow) / two.cpuMicrosPerRow),
    runs,
  };
}

/** The figure is that of eight changelogs of hot rows with two workers; its reference the same with one. */
function result(runs: readonly Run[], idle: readonly IdleCost[]): object {
  const find = (load: string, workers: number, partitions: number, changelogs: number) =>
    runs.find(
      (run) => run.load === load && run.workers === workers && run.partitions === partitions && run.changelogs === changelogs,
    ) as Run;
  const two = find('hot', 2, 1, CHANGELOGS);
  const one = find('hot', 1, 1, CHANGELOGS);
  const [first, last] = [idle[0], idle.at(-1)] as [IdleCost, IdleCost];
  const more = last.sources - first.sources;
  return {
    bench: 'scale',
    rows: two.rows * CHANGELOGS,
    rowsPerSecond: two.rowsPerSecond,
    cpuMicrosPerRow: two.cpuMicrosPerRow,
    rssMb: last.rssMb,
    reference: { name: 'one worker', rowsPerSecond: one.rowsPerSecond, cpuMicrosPerRow: one.cpuMicrosPerRow },
    ratio: round(two.rowsPerSecond / one.rowsPerSecond),
    /** What the ratio would be if each worker had a core and the target kept up: twice one worker's cost over the cost of two. */
    ratioByCpu: round((2 * one.cpuMicrosPerRow) / two.cpuMicrosPerRow),
    others: runs.map((run) => ({
      name: `${run.load} rows, ${run.changelogs} changelog(s), partitions ${run.partitions}, ${run.workers} worker(s)`,
      rowsPerSecond: run.rowsPerSecond,
      cpuMicrosPerRow: run.cpuMicrosPerRow,
      cores: run.cores,
    })),
    idle: {
      steps: idle,
      perSource: {
        cores: round((last.cores - first.cores) / more, 5),
        rssMb: round((last.rssMb - first.rssMb) / more),
        postgresCores: round((last.postgresCores - first.postgresCores) / more, 5),
        natsCores: round((last.natsCores - first.natsCores) / more, 5),
      },
    },
  };
}
