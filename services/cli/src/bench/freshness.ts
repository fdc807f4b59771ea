import { askOne, Fault } from '@tributary/core';
import { startSources } from '@tributary/source';
import { barrier } from '../cluster.ts';
import type { Output } from '../output.ts';
import { kpiConfig, untilReached } from './kpi.ts';
import { peakRssMb, round } from './measure.ts';
import { openWorld, ORDERS, ordersFrom, type World } from './world.ts';

const SECONDS = 20;
/** Between two queries: one after the other they would be measured themselves. */
const PAUSE_MS = 20;
/** Values over the rows that change, and how many numbered commits there are: at one position. */
const KPIS = [
  `kind: Kpi
name: revenue
from: { o: bench.public.orders }
time: { column: o.created_at, grains: [hour, day] }
dimensions: { status: o.status }
measures: { amount: { sql: "sum(o.amount)" }, orders: { sql: "count(*)" } }
`,
  `kind: Kpi
name: commits
from: { t: bench.public.ticks }
measures: { n: { sql: "count(*)" } }
`,
];

interface Freshness {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly queryP50Ms: number;
  readonly queries: number;
  /** Row changes a second that were reached. */
  readonly rate: number;
}

/**
 * HATtrick's method: numbered commits at a steady rate, each with changes of random rows of a large table; a query returns the last number it
 * sees; its freshness is the time from the commit of the first number that is missing to the start of the query, 0 when none is. Reported beside the rate.
 * @param rate row changes a second
 */
export async function benchFreshness(rows: number, output: Output, { rate = 1_000 }: { rate?: number }): Promise<void> {
  if (!Number.isInteger(rate) || rate < 10)
    throw new Fault('config_invalid', `--rate ${rate}: expected a whole number of at least 10`);
  const world = await openWorld(['bench']);
  const running: { stop(): Promise<void> }[] = [];
  try {
    const session = await world.session('bench');
    await session.run(`${ORDERS}; CREATE TABLE public.ticks (n bigint PRIMARY KEY)`);
    await session.run(ordersFrom(1, rows));
    const config = await kpiConfig(world, KPIS);
    running.push(await startSources(config, world.runtime));
    await barrier(world.broker.bus, 'bench', Date.now() + 3_600_000);
    await untilReached(world, config, running);
    report(rows, await measured(world, rows, rate), output);
  } finally {
    for (const one of running.toReversed()) await one.stop();
    await world.close();
  }
}

interface Counted {
  readonly rows: readonly { readonly values: { readonly n: number } }[];
}

/** Changes of one commit, at most: one by one they would be PostgreSQL's limit, and a thousand would be a batch load. */
const CHANGES_MAX = 20;

async function measured(world: World, rows: number, rate: number): Promise<Freshness> {
  const changes = Math.min(CHANGES_MAX, Math.max(2, Math.round(rate / 500)));
  const commitsPerSecond = rate / changes;
  /** When commit n was answered, ms; by then readers of the database see it. */
  const committed: number[] = [0];
  const writer = await world.session('bench');
  // With a lazy commit the WAL would leave only when PostgreSQL's WAL writer wakes up.
  await writer.run('SET synchronous_commit = on');
  const began = performance.now();
  let writtenMs: number | null = null;
  const writing = (async () => {
    for (;;) {
      const passedMs = performance.now() - began;
      if (passedMs >= SECONDS * 1_000) break;
      const due = Math.floor((passedMs / 1_000) * commitsPerSecond);
      if (committed.length <= due) {
        const ids = Array.from({ length: changes - 1 }, () => 1 + Math.floor(Math.random() * rows));
        await writer.run(
          `BEGIN; UPDATE public.orders SET amount = amount + 1 WHERE id IN (${ids.join(', ')});
           INSERT INTO public.ticks VALUES (${committed.length}); COMMIT`,
        );
        committed.push(performance.now());
      } else await new Promise((resolve) => setTimeout(resolve, 1));
    }
    writtenMs = performance.now() - began;
  })();
  const ages: number[] = [];
  const queries: number[] = [];
  for (let seen = 0; writtenMs === null || seen < committed.length - 1; ) {
    const start = performance.now();
    const { rows: told } = await askOne<Counted>(world.broker.bus, 'tributary.kpi.commits.values', {}, { idleMs: 60_000 });
    queries.push(performance.now() - start);
    seen = told[0]?.values.n ?? 0;
    const missing = committed[seen + 1];
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    // Once nothing more is written, only what is still missing would be measured, and often.
    if (writtenMs === null) ages.push(missing !== undefined && missing < start ? start - missing : 0);
  }
  await writing;
  const seconds = ((writtenMs as number | null) ?? 0) / 1_000;
  const at = (values: number[], quantile: number) =>
    round(values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * quantile))] as number, 1);
  return {
    p50Ms: at(ages, 0.5),
    p99Ms: at(ages, 0.99),
    maxMs: at(ages, 1),
    queryP50Ms: at(queries, 0.5),
    queries: queries.length,
    rate: Math.round(((committed.length - 1) * changes) / seconds),
  };
}

function report(rows: number, figures: Freshness, output: Output): void {
  const told = { bench: 'freshness', rows, ...figures, rssMb: peakRssMb() };
  if (output.json) return output.value(told);
  const { p50Ms, p99Ms, maxMs, rate, queries, queryP50Ms } = figures;
  output.line(
    `${rate} changes/s over ${rows} rows: freshness p50 ${p50Ms}, p99 ${p99Ms}, max ${maxMs} ms; ${queries} queries, p50 ${queryP50Ms} ms; ${told.rssMb} MB`,
  );
}
