import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import type { Config, KpiConfig } from '@tributary/config';
import { configReading } from '@tributary/config';
import { askUntil, askOne, Fault } from '@tributary/core';
import { Database, type Duck } from '@tributary/duckdb';
import { startKpis } from '@tributary/kpi';
import { startSources } from '@tributary/source';
import { barrier } from '../cluster.ts';
import type { Output } from '../output.ts';
import { measure, round, type Usage } from './measure.ts';
import { openWorld, ORDERS, ordersFrom, type World } from './world.ts';

/** So many rows stand in the table for each that is written. */
const BASE = 10;
/** Memory and threads of the engine, and of plain DuckDB beside it. */
const MEMORY_BYTES = 2 * 2 ** 30;
const THREADS = 2;

const KPI = `kind: Kpi
name: revenue
from: { o: bench.public.orders }
time: { column: o.created_at, grains: [hour, day] }
dimensions: { status: o.status }
measures: { amount: { sql: "sum(o.amount)" }, orders: { sql: "count(*)" } }
history: { keep: HISTORY }
`;

/** Defined over the rows that stand there: additive, distinct and percentile measures, by day and two dimensions. */
const LATER = `kind: Kpi
name: later
from: { o: bench.public.orders }
time: { column: o.created_at, grains: [day] }
dimensions: { status: o.status, flag: o.flag }
measures:
  amount: { sql: "sum(o.amount)" }
  orders: { sql: "count(*)" }
  customers: { sql: "count(DISTINCT o.customer_id)" }
  p90: { sql: "quantile_cont(o.amount::DOUBLE, 0.9)" }
`;

const far = () => Date.now() + 3_600_000;

/**
 * Upserts that stand in a changelog already (new values for rows all over the table), taken by an engine that starts when they do: rows, history, and a KPI
 * with a sum and a count by hour and status. Then a second KPI is defined over the rows that stand there: how long until it has all of its history. Beside it plain DuckDB: the same rows in one table, delete by key and insert, and a checkpoint; in one
 * transaction, and in as many as the engine made.
 */
export async function benchKpi(rows: number, output: Output): Promise<void> {
  const world = await openWorld(['bench']);
  const running: { stop(): Promise<void> }[] = [];
  try {
    const session = await world.session('bench');
    await session.run(ORDERS);
    await session.run(ordersFrom(1, rows * BASE));
    const config = await kpiConfig(world, [KPI.replace('HISTORY', '7d')]);
    running.push(await startSources(config, world.runtime));
    await barrier(world.broker.bus, 'bench', far());
    const load = await measure(() => untilReached(world, config, running));
    await running.pop()?.stop();
    await session.run(updates(rows));
    await barrier(world.broker.bus, 'bench', far());
    const ours = await measure(() => untilReached(world, config, running));
    await expectSame(world, session);
    const asOf = await asOfSeconds(world);
    await running.pop()?.stop();
    const more = await kpiConfig(world, [KPI.replace('HISTORY', '7d'), LATER]);
    const defined = await measure(() => untilAnswered(world, more, running));
    await running.pop()?.stop();
    const groups = Math.max(1, Math.ceil(rows / GROUP_ROWS));
    report(
      {
        rows,
        load,
        ours,
        asOf,
        defined,
        plain: await plainDuckDb(world, rows, 1),
        grouped: await plainDuckDb(world, rows, groups),
        groups,
      },
      output,
    );
  } finally {
    for (const one of running.toReversed()) await one.stop();
    await world.close();
  }
}

/** Rows of 130 bytes in a group of the engine. */
const GROUP_ROWS = 30_000;

/** Every {@link BASE}th row, in an order that has nothing to do with where they stand. */
function updates(rows: number): string {
  return `UPDATE public.orders SET qty = qty + 1, amount = amount + 1, updated_at = now() WHERE id % ${BASE} = 0 AND id <= ${rows * BASE}`;
}

/** A config with these KPIs over source `bench`. */
export async function kpiConfig(world: World, documents: readonly string[]): Promise<Config> {
  const { kpisOf } = await configReading();
  const kpis: KpiConfig[] = kpisOf({ name: 'bench', text: documents.join('---\n') }, ['bench']);
  const config = world.config([]);
  return { ...config, kpis, cluster: { ...config.cluster, kpi: { memoryBytes: MEMORY_BYTES, threads: THREADS } } };
}

/** Starts the engine and waits until it holds everything that stands in the changelog now. */
export async function untilReached(world: World, config: Config, running: { stop(): Promise<void> }[]): Promise<void> {
  running.push(await startKpis(config, world.runtime));
  const seq = (await world.broker.changelogs.last('bench'))?.seq ?? 0;
  await askUntil(world.broker.bus, 'tributary.projection.kpi.bench.reached', { seq }, far());
}

/** A KPI that is being computed is asked again after so long. */
const UNREADY_MS = 50;

/** Starts the engine with another KPI and waits until that one answers for every row. */
async function untilAnswered(world: World, config: Config, running: { stop(): Promise<void> }[]): Promise<void> {
  running.push(await startKpis(config, world.runtime));
  const ask = async (kpi: string): Promise<Told> => {
    for (;;) {
      try {
        return await askUntil<Told>(world.broker.bus, `tributary.kpi.${kpi}.values`, WHOLE, far());
      } catch (error) {
        // It is being computed.
        if (!(error instanceof Fault) || error.kind !== 'not_complete') throw error;
        await world.runtime.clock.sleep(UNREADY_MS);
      }
    }
  };
  const orders = (told: Told) => told.rows.reduce((sum, { values }) => sum + values.orders, 0);
  const [later, revenue] = [orders(await ask('later')), orders(await ask('revenue'))];
  if (later !== revenue) throw new Error(`a KPI that was defined later counts ${later} orders, the other one ${revenue}`);
}

interface Told {
  readonly rows: readonly { readonly values: { readonly amount: number; readonly orders: number } }[];
  readonly freshness: { readonly position: string };
}

const WHOLE = { by: [], grain: 'day' };

/** The figure counts only if the result is PostgreSQL's. */
async function expectSame(world: World, session: Awaited<ReturnType<World['session']>>): Promise<void> {
  const told = await askUntil<Told>(world.broker.bus, 'tributary.kpi.revenue.values', WHOLE, far());
  const orders = told.rows.reduce((sum, { values }) => sum + values.orders, 0);
  const amount = told.rows.reduce((sum, { values }) => sum + Math.round(values.amount * 100), 0);
  const sql = 'SELECT count(*)::text AS orders, (sum(amount) * 100)::bigint::text AS amount FROM public.orders';
  const same = await session.row<{ orders: string; amount: string }>(sql);
  if (String(orders) !== same.orders || String(amount) !== same.amount)
    throw new Error(`the KPI says ${orders} orders of ${amount} cents, PostgreSQL ${same.orders} of ${same.amount}`);
}

/** The same values as of the newest moment, from rows and history instead of what is kept. */
async function asOfSeconds({ broker }: World): Promise<number> {
  const ask = (question: object) => askOne<Told>(broker.bus, 'tributary.kpi.revenue.values', question, { idleMs: 600_000 });
  const { freshness } = await ask(WHOLE);
  const began = performance.now();
  await ask({ ...WHOLE, asOf: freshness.position });
  return (performance.now() - began) / 1_000;
}

/** Delete by key and insert, in so many transactions, with a checkpoint at the end. */
async function plainDuckDb(world: World, rows: number, transactions: number): Promise<Usage> {
  const folder = await mkdtemp(join(world.folder, 'plain-'));
  const path = join(folder, 'plain.duckdb');
  const database = await Database.open({
    path,
    memoryBytes: MEMORY_BYTES,
    threads: THREADS,
    spillDir: join(folder, 'spill'),
    checkpointBytes: 4 * 2 ** 30,
  });
  const duck = await database.connect();
  try {
    await duck.run(`CREATE TABLE orders AS ${plainRows(1, rows * BASE, 1)}`);
    await duck.run(
      `CREATE TEMP TABLE news AS SELECT *, row_number() OVER () % ${transactions} AS part FROM (${plainRows(1, rows, BASE)})`,
    );
    await duck.run('CHECKPOINT');
    return await measure(() => upserted(duck, transactions));
  } finally {
    duck.close();
    database.close();
  }
}

async function upserted(duck: Duck, transactions: number): Promise<void> {
  for (let part = 0; part < transactions; part++) {
    await duck.run('BEGIN');
    await duck.run(`DELETE FROM orders USING news WHERE orders.id = news.id AND news.part = ${part}`);
    await duck.run(`INSERT INTO orders SELECT * EXCLUDE part FROM news WHERE part = ${part}`);
    await duck.run('COMMIT');
  }
  await duck.run('CHECKPOINT');
}

function plainRows(first: number, last: number, factor: number): string {
  return `SELECT i * ${factor} AS id, i % 50000 AS customer_id, 'new' || i % 5 AS status, ((i % 100000) / 7.0)::DECIMAL(12,2) AS amount, 'EUR' AS currency,
    'some note text of a moderate length here' AS note, TIMESTAMPTZ '2026-01-01' + to_seconds(i) AS created_at, TIMESTAMPTZ '2026-06-01' + to_seconds(i) AS updated_at,
    (i % 9)::INT AS qty, i % 2 = 0 AS flag FROM range(${first}, ${last + 1}) t(i)`;
}

interface Figures {
  readonly rows: number;
  readonly load: Usage;
  readonly ours: Usage;
  readonly asOf: number;
  readonly defined: Usage;
  readonly plain: Usage;
  readonly grouped: Usage;
  readonly groups: number;
}

function report({ rows, load, ours, asOf, defined, plain, grouped, groups }: Figures, output: Output): void {
  const perSecond = (usage: Usage, count: number) => Math.round(count / usage.seconds);
  const others = [
    {
      name: `plain DuckDB in ${groups} transactions`,
      seconds: round(grouped.seconds),
      ratio: round(ours.seconds / grouped.seconds),
    },
    { name: 'load from the changelog', rowsPerSecond: perSecond(load, rows * BASE) },
    { name: 'as of the newest moment, from rows', seconds: round(asOf, 3) },
    { name: 'another KPI, from its definition to its whole history', seconds: round(defined.seconds), rssMb: defined.rssMb },
  ];
  const told = {
    bench: 'kpi',
    rows,
    seconds: round(ours.seconds),
    rowsPerSecond: perSecond(ours, rows),
    cpuMicrosPerRow: round((ours.cpuSeconds * 1e6) / rows),
    rssMb: ours.rssMb,
    reference: {
      name: 'plain DuckDB, delete by key and insert, one transaction',
      seconds: round(plain.seconds),
      rowsPerSecond: perSecond(plain, rows),
    },
    ratio: round(ours.seconds / plain.seconds),
    others,
  };
  if (output.json) return output.value(told);
  output.line(
    `${rows} upserts into ${rows * BASE} rows: ${told.seconds} s, ${told.rowsPerSecond} rows/s, ${told.cpuMicrosPerRow} µs CPU a row, ${told.rssMb} MB\n` +
      `plain DuckDB: ${told.reference.seconds} s, ratio ${told.ratio}; in ${groups} transactions ${others[0]?.seconds} s, ratio ${others[0]?.ratio}\n` +
      `loaded at ${others[1]?.rowsPerSecond} rows/s; as of the newest moment ${others[2]?.seconds} s\n` +
      `another KPI has its whole history ${others[3]?.seconds} s after it is defined`,
  );
}
