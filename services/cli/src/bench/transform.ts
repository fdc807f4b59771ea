import type { Config, TransformConfig } from '@tributary/config';
import { Op, ORIGIN } from '@tributary/core';
import { startSources } from '@tributary/source';
import { startTransforms } from '@tributary/transform';
import { barrier } from '../cluster.ts';
import type { Output } from '../output.ts';
import { measure, round, type Usage } from './measure.ts';
import { openWorld, ORDERS, ordersFrom, type World } from './world.ts';

/** filter, set and mask; and what PostgreSQL calls them. */
const STEPS: TransformConfig['steps'] = [
  { kind: 'filter', condition: `status <> 'new3'` },
  { kind: 'set', columns: { total: 'qty * amount', size: `CASE WHEN amount > 5000 THEN 'large' ELSE 'small' END` }, when: null },
  { kind: 'mask', columns: { note: { mask: 'hash' } } },
];
const SAME = `SELECT id, customer_id, status, amount, currency, encode(sha256(note::bytea), 'hex') AS note, created_at, updated_at, qty, flag,
  qty * amount AS total, CASE WHEN amount > 5000 THEN 'large' ELSE 'small' END AS size FROM public.orders WHERE status <> 'new3'`;

/** Each in a database of its own. `first` is there before it is captured. The first one only loads and warms what the others use. */
const LOADS = [
  { name: 'warm', first: (): string | null => null, work: (): string => ordersFrom(1, 10_000) },
  { name: 'inserts', first: (): string | null => null, work: (rows: number): string => ordersFrom(1, rows) },
  {
    name: 'updates',
    first: (rows: number): string | null => ordersFrom(1, rows),
    work: (): string => 'UPDATE public.orders SET qty = qty + 1, amount = amount + 1',
  },
] as const;

interface Figures {
  readonly load: (typeof LOADS)[number]['name'];
  readonly ours: Usage;
  readonly reading: Usage;
  readonly postgresSeconds: number;
}

const far = () => Date.now() + 900_000;

/**
 * Changes that stand in a changelog already, through filter, set and mask into another, by one transform that starts when they do. Beside it: reading that changelog and nothing else, and PostgreSQL computing the same of the same rows into a table.
 */
export async function benchTransform(rows: number, output: Output): Promise<void> {
  const world = await openWorld(LOADS.map(({ name }) => name));
  const running: { stop(): Promise<void> }[] = [];
  try {
    for (const { name, first } of LOADS) {
      const session = await world.session(name);
      await session.run(ORDERS);
      const sql = first(rows);
      if (sql) await session.run(sql);
    }
    const config = configOf(world);
    running.push(await startSources(config, world.runtime));
    const figures: Figures[] = [];
    for (const { name, work } of LOADS) {
      const session = await world.session(name);
      await barrier(world.broker.bus, name, far());
      await session.run(work(rows));
      await barrier(world.broker.bus, name, far());
      const ours = await measure(async () => {
        const one = await startTransforms({ ...config, transforms: [transformOf(name)] }, world.runtime);
        running.push(one);
        await barrier(world.broker.bus, `made_of_${name}`, far());
      });
      const reading = await measure(async () => {
        const { changes } = await read(world, name);
        if (name !== 'warm' && changes !== rows) throw new Error(`the changelog holds ${changes} changes, not ${rows}`);
      });
      const began = performance.now();
      await session.run(`CREATE UNLOGGED TABLE public.same AS ${SAME}`);
      const postgresSeconds = (performance.now() - began) / 1_000;
      await expectSame(world, name);
      if (name !== 'warm') figures.push({ load: name, ours, reading, postgresSeconds });
    }
    report(rows, figures, output);
  } finally {
    for (const one of running.toReversed()) await one.stop();
    await world.close();
  }
}

function configOf(world: World): Config {
  const config = world.config([]);
  const [source] = config.sources;
  if (!source) throw new Error('the world has no source');
  const sources = LOADS.map(({ name }) => ({ ...source, name, postgres: world.connection(name), snapshot: 'none' as const }));
  return { ...config, sources: sources.map((one) => ({ ...one, tables: ['public.orders'] })) };
}

function transformOf(load: string): TransformConfig {
  return { name: `made_of_${load}`, from: [`${load}.public.orders`], steps: STEPS, places: STEPS.map((_, i) => `step ${i + 1}`) };
}

/** Everything a changelog holds. @returns how many changes, and of the rows that are not deleted the sum of a column of numbers, in cents */
async function read(world: World, name: string, column?: string): Promise<{ changes: number; rows: number; cents: bigint }> {
  const stop = new AbortController();
  const last = (await world.broker.changelogs.last(name))?.seq ?? 0;
  const found = { changes: 0, rows: 0, cents: 0n };
  for await (const batch of world.broker.changelogs.read(name, { after: ORIGIN, signal: stop.signal })) {
    for (const { schema, rows, ops, columns } of batch.sections) {
      found.changes += rows;
      const cells = column === undefined ? [] : (columns[schema.columns.findIndex((one) => one.name === column)]?.values() ?? []);
      cells.forEach((cell, row) => {
        if (ops[row] === Op.deleted) return;
        found.rows++;
        found.cents += BigInt((cell as string).replace('.', ''));
      });
    }
    if (batch.seq >= last) break;
  }
  stop.abort();
  return found;
}

/** The figure counts only if the result is PostgreSQL's. */
async function expectSame(world: World, load: string): Promise<void> {
  const session = await world.session(load);
  type Same = { rows: string; cents: string };
  const same = await session.row<Same>(
    'SELECT count(*)::text AS rows, (sum(total) * 100)::bigint::text AS cents FROM public.same',
  );
  const { rows, cents } = await read(world, `made_of_${load}`, 'total');
  if (String(rows) !== same.rows || String(cents) !== same.cents)
    throw new Error(`${load}: the result holds ${rows} rows with ${cents} cents, not ${same.rows} with ${same.cents}`);
}

function report(rows: number, figures: readonly Figures[], output: Output): void {
  const told = figures.map(({ load, ours, reading, postgresSeconds }) => ({
    name: load,
    rowsPerSecond: Math.round(rows / ours.seconds),
    rowsPerCpuSecond: Math.round(rows / ours.cpuSeconds),
    cpuMicrosPerRow: round((ours.cpuSeconds * 1e6) / rows),
    rssMb: ours.rssMb,
    reference: { name: 'PostgreSQL, CREATE UNLOGGED TABLE AS SELECT', rowsPerSecond: Math.round(rows / postgresSeconds) },
    ratio: round(postgresSeconds / ours.seconds),
    reading: { rowsPerSecond: Math.round(rows / reading.seconds), cpuMicrosPerRow: round((reading.cpuSeconds * 1e6) / rows) },
  }));
  const [{ name: _name, ...first }] = told as [(typeof told)[number]];
  if (output.json) return output.value({ bench: 'transform', rows, ...first, others: told });
  for (const one of told)
    output.line(
      `${one.name.padEnd(8)} ${one.rowsPerSecond} rows/s, ${one.cpuMicrosPerRow} µs CPU a row (${one.rowsPerCpuSecond} rows a CPU second); ` +
        `PostgreSQL ${one.reference.rowsPerSecond} rows/s, ratio ${one.ratio}; reading alone ${one.reading.rowsPerSecond} rows/s, ${one.reading.cpuMicrosPerRow} µs`,
    );
}
