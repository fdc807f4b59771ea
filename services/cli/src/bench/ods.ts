import { startSinks } from '@tributary/sink';
import { startSources } from '@tributary/source';
import { askUntil, barrier, projectionSubject } from '../cluster.ts';
import type { Output } from '../output.ts';
import { measure, round } from './measure.ts';
import { openWorld, ORDERS, ordersFrom, type World } from './world.ts';

const COMMITS_PER_SECOND = 500;
const LATENCY_SECONDS = 15;

/**
 * Rows a second from the changelog into PostgreSQL, and from source to ODS; beside PostgreSQL's own subscription of the same
 * rows in the same run. Then the latency of numbered commits at a steady rate.
 */
export async function benchOds(rows: number, output: Output): Promise<void> {
  const world = await openWorld(['bench', 'ods', 'subscriber']);
  try {
    const source = await world.session('bench');
    await source.run(ORDERS);
    await source.run('CREATE TABLE public.ticks (n bigint PRIMARY KEY, at timestamptz NOT NULL)');
    const config = world.config([
      { type: 'ods', name: 'ods', from: ['*'], postgres: world.connection('ods'), partitions: 1, onError: 'halt' },
    ]);
    const capture = await startSources(config, world.runtime);
    const far = () => Date.now() + 900_000;
    const reached = (seq: number) => askUntil(world.broker.bus, projectionSubject('ods/bench', 'reached'), { seq }, far());
    await barrier(world.broker.bus, 'bench', far());
    await insert(source, 1, rows);
    const first = await barrier(world.broker.bus, 'bench', far());

    const applied = await measure(async () => {
      const sink = await startSinks(config, world.runtime);
      await reached(first.seq);
      await sink.stop();
    });
    const sink = await startSinks(config, world.runtime);
    await reached(first.seq);
    const through = await measure(async () => {
      await insert(source, rows + 1, 2 * rows);
      await reached((await barrier(world.broker.bus, 'bench', far())).seq);
    });
    const subscription = await benchSubscription(world, rows);
    // What the reference inserted went through our capture too: the latency is that of a system at rest before.
    await reached((await barrier(world.broker.bus, 'bench', far())).seq);
    const latency = await measureLatency(world);
    await expectCount(world, 3 * rows);
    await sink.stop();
    await capture.stop();
    const perSecond = (seconds: number) => Math.round(rows / seconds);
    const result = {
      bench: 'ods',
      rows,
      rowsPerSecond: perSecond(through.seconds),
      cpuMicrosPerRow: round((through.cpuSeconds * 1e6) / rows),
      rssMb: through.rssMb,
      reference: { name: "PostgreSQL's own subscription, source to target", rowsPerSecond: perSecond(subscription) },
      ratio: round(subscription / through.seconds),
      others: [
        {
          name: 'changelog to PostgreSQL',
          rowsPerSecond: perSecond(applied.seconds),
          cpuMicrosPerRow: round((applied.cpuSeconds * 1e6) / rows),
        },
      ],
      latency,
    };
    if (output.json) output.value(result);
    else {
      output.line(`changelog to PostgreSQL  ${perSecond(applied.seconds)} rows/s`);
      output.line(
        `source to ODS            ${result.rowsPerSecond} rows/s; subscription ${result.reference.rowsPerSecond} rows/s; ratio ${result.ratio}`,
      );
      output.line(
        `commit to ODS            p50 ${latency.p50Ms} ms, p99 ${latency.p99Ms} ms, max ${latency.maxMs} ms at ${latency.rate} transactions/s`,
      );
    }
  } finally {
    await world.close();
  }
}

async function insert(session: Awaited<ReturnType<World['session']>>, first: number, last: number): Promise<void> {
  const step = 1_000;
  for (let at = first; at <= last; at += step) await session.run(ordersFrom(at, Math.min(last, at + step - 1)));
}

/** The same inserts through CREATE SUBSCRIPTION, while our own capture is at rest on them too. @returns seconds */
async function benchSubscription(world: World, rows: number): Promise<number> {
  const source = await world.session('bench');
  const target = await world.session('subscriber');
  await target.run(ORDERS);
  await source.run('CREATE PUBLICATION reference FOR TABLE public.orders');
  await source.run(`SELECT pg_create_logical_replication_slot('reference', 'pgoutput')`);
  const { host, port, user } = world.connection('bench');
  await target.run(
    `CREATE SUBSCRIPTION reference CONNECTION 'host=${host} port=${port} user=${user} dbname=bench' PUBLICATION reference WITH (copy_data = false, create_slot = false, slot_name = 'reference')`,
  );
  const start = performance.now();
  await insert(source, 2 * rows + 1, 3 * rows);
  for (;;) {
    const { n } = await target.row<{ n: number }>('SELECT count(*)::float8 AS n FROM public.orders');
    if (n === rows) break;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const seconds = (performance.now() - start) / 1_000;
  await target.run('ALTER SUBSCRIPTION reference DISABLE');
  await target.run('ALTER SUBSCRIPTION reference SET (slot_name = NONE)');
  await target.run('DROP SUBSCRIPTION reference');
  return seconds;
}

/** Numbered commits at a steady rate; each is timed from just before its commit until a reader of the ODS sees it. */
async function measureLatency(world: World): Promise<{ p50Ms: number; p99Ms: number; maxMs: number; rate: number }> {
  const writer = await world.session('bench');
  // With a lazy commit the WAL would leave only when PostgreSQL's WAL writer wakes up.
  await writer.run('SET synchronous_commit = on');
  const reader = await world.session('ods');
  const total = COMMITS_PER_SECOND * LATENCY_SECONDS;
  const sent = new Float64Array(total + 1);
  const latencies: number[] = [];
  let seen = 0;
  const start = performance.now();
  const writing = (async () => {
    for (let n = 1; n <= total; ) {
      const due = Math.min(total, Math.floor(((performance.now() - start) / 1_000) * COMMITS_PER_SECOND));
      for (; n <= due; n++) {
        sent[n] = performance.now();
        await writer.prepared('tick', 'INSERT INTO public.ticks VALUES ($1, now())', [n]);
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  })();
  while (seen < total) {
    const { n } = await reader
      .row<{ n: number }>('SELECT coalesce(max(n), 0)::float8 AS n FROM bench.ticks')
      .catch(() => ({ n: 0 }));
    const now = performance.now();
    for (; seen < n; seen++) latencies.push(now - (sent[seen + 1] as number));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await writing;
  latencies.sort((a, b) => a - b);
  const at = (quantile: number) =>
    round(latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * quantile))] as number, 1);
  return {
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    maxMs: at(1),
    rate: Math.round((total / ((performance.now() - start) / 1_000)) * 10) / 10,
  };
}

async function expectCount(world: World, rows: number): Promise<void> {
  const { seq } = await barrier(world.broker.bus, 'bench', Date.now() + 600_000);
  await askUntil(world.broker.bus, projectionSubject('ods/bench', 'reached'), { seq }, Date.now() + 600_000);
  const target = await world.session('ods');
  const { n } = await target.row<{ n: number }>('SELECT count(*)::float8 AS n FROM bench.orders');
  if (n !== rows) throw new Error(`the ODS holds ${n} rows, not ${rows}`);
}
