import type { Output } from '../output.ts';
import { Thread } from '../system.ts';
import { type Latency, measureLatency } from './latency.ts';
import { peakRssMb, round } from './measure.ts';
import { ODS_LOADS, type OdsLoad } from './ods-loads.ts';
import { captured, caughtUp, type Cost, cost, Held, odsSink, reached, speed, speedLine } from './ods-world.ts';
import { openWorld, type World } from './world.ts';

const TICKS = 'CREATE TABLE public.ticks (n bigint PRIMARY KEY, at timestamptz NOT NULL)';

interface Figures {
  readonly load: OdsLoad['name'];
  /** Changes that both applied. */
  readonly rows: number;
  /** Source to ODS, from WAL that is already there. */
  readonly through: Cost;
  /** The changelog is already there. */
  readonly sinkAlone: Cost;
  readonly subscription: Cost;
}

/**
 * Source to ODS for three kinds of work, beside PostgreSQL's own subscription: both run and are at rest, both are held while the work
 * is done, then each applies the same WAL while the other is held. Then the latency of numbered commits at a steady rate, of each alone.
 */
export async function benchOds(rows: number, output: Output): Promise<void> {
  const world = await openWorld(['bench', 'ods', 'subscriber']);
  const threads: Thread[] = [];
  const held = new Held(world);
  try {
    const source = await world.session('bench');
    await source.run(TICKS);
    for (const load of ODS_LOADS) {
      for (const table of load.tables) await source.run(table);
      await load.fill(source);
    }
    const task = {
      config: world.config([odsSink(world, 'ods')]),
      nats: world.nats.url,
      dataDir: world.folder,
      worker: 'bench',
      logLevel: 'warn',
    };
    // Each in a thread of its own, as `up` runs them.
    threads.push(new Thread({ ...task, service: 'source' }), new Thread({ ...task, service: 'sink' }));
    await Promise.all(threads.map((thread) => thread.started));
    await caughtUp(world, 'ods');
    const reference = await Subscription.make(world);
    const figures: Figures[] = [];
    for (const load of ODS_LOADS) {
      const one = await compare(world, load, { rows, reference, held });
      figures.push(one);
      if (!output.json) tell(one, output);
    }
    const release = await held.hold('ours');
    const referenceLatency = await measureLatency(world, { database: 'subscriber', table: 'public.ticks' });
    release();
    await reference.drop();
    await caughtUp(world, 'ods');
    const latency = await measureLatency(world, { database: 'ods', table: 'bench.ticks' });
    await caughtUp(world, 'ods');
    if (output.json) output.value({ ...result(figures), latency, referenceLatency });
    else {
      output.line(latencyLine('commit to ODS', latency));
      output.line(latencyLine('  subscription', referenceLatency));
    }
  } finally {
    held.releaseAll();
    await Promise.all(threads.map((thread) => thread.stop()));
    await world.close();
  }
}

function latencyLine(name: string, { p50Ms, p99Ms, maxMs, commitP99Ms, rate }: Latency): string {
  return `${name.padEnd(16)}p50 ${p50Ms} ms, p99 ${p99Ms} ms, max ${maxMs} ms at ${rate} transactions/s (p99 of the commits alone ${commitP99Ms} ms)`;
}

/** Two rounds of the same work: in the first both go the whole way, in the second our changelog is written before the sink may apply it. */
async function compare(
  world: World,
  load: OdsLoad,
  { rows, reference, held }: { rows: number; reference: Subscription; held: Held },
): Promise<Figures> {
  const session = await world.session('bench');
  const work = async (round: number) => {
    const release = { ours: await held.hold('ours'), reference: await held.hold('reference') };
    const done = await load.run(session, rows, round);
    await reference.mark();
    return { done, release };
  };
  const first = await work(0);
  const through = await cost(world, async () => {
    first.release.ours();
    await caughtUp(world, 'ods');
  });
  const subscription = await cost(world, async () => {
    first.release.reference();
    await reference.reached();
  });
  await expectSame(world, load);

  const second = await work(1);
  const again = await cost(world, async () => {
    second.release.reference();
    await reference.reached();
  });
  const releaseSink = await held.holdSink('ods');
  second.release.ours();
  const seq = await captured(world);
  const sinkAlone = await cost(world, async () => {
    releaseSink();
    await reached(world, 'ods', seq);
  });
  await expectSame(world, load);
  const best = again.seconds < subscription.seconds ? again : subscription;
  return { load: load.name, rows: first.done, through, sinkAlone, subscription: best };
}

/** PostgreSQL's own way from one database to another. */
class Subscription {
  readonly #world: World;
  #marks = 0;

  private constructor(world: World) {
    this.#world = world;
  }

  /** Copies what is there. */
  static async make(world: World): Promise<Subscription> {
    const source = await world.session('bench');
    const target = await world.session('subscriber');
    await source.run('CREATE TABLE public.marks (n int PRIMARY KEY)');
    await target.run('CREATE TABLE public.marks (n int PRIMARY KEY)');
    const tables = [TICKS, ...ODS_LOADS.flatMap((load) => load.tables)];
    for (const table of tables) await target.run(table);
    const names = tables.map((table) => /TABLE (\S+)/.exec(table)?.[1] as string);
    await source.run(`CREATE PUBLICATION reference FOR TABLE public.marks, ${names.join(', ')}`);
    await source.run(`SELECT pg_create_logical_replication_slot('reference', 'pgoutput')`);
    const { host, port, user } = world.connection('bench');
    await target.run(
      `CREATE SUBSCRIPTION reference CONNECTION 'host=${host} port=${port} user=${user} dbname=bench' PUBLICATION reference
         WITH (create_slot = false, slot_name = 'reference')`,
    );
    const reference = new Subscription(world);
    await reference.#until(`SELECT count(*) = 0 AS done FROM pg_subscription_rel WHERE srsubstate <> 'r'`);
    return reference;
  }

  /** What is written so far ends here. */
  async mark(): Promise<void> {
    await (await this.#world.session('bench')).run(`INSERT INTO public.marks VALUES (${++this.#marks})`);
  }

  /** Has it applied everything up to the last mark? */
  async reached(): Promise<void> {
    await this.#until(`SELECT count(*) = ${this.#marks} AS done FROM public.marks`);
  }

  async drop(): Promise<void> {
    const target = await this.#world.session('subscriber');
    await target.run('ALTER SUBSCRIPTION reference DISABLE');
    await this.#until('SELECT count(*) = 0 AS done FROM pg_stat_subscription WHERE pid IS NOT NULL');
    await target.run('ALTER SUBSCRIPTION reference SET (slot_name = NONE)');
    await target.run('DROP SUBSCRIPTION reference');
    await (await this.#world.session('bench')).run(`SELECT pg_drop_replication_slot('reference')`);
  }

  async #until(sql: string): Promise<void> {
    const target = await this.#world.session('subscriber');
    for (;;) {
      const { done } = await target.row<{ done: boolean }>(sql);
      if (done) return;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

/** A figure counts only when all three hold the same. */
async function expectSame(world: World, load: OdsLoad): Promise<void> {
  const read = async (database: string, schema: string) => {
    const session = await world.session(database);
    return JSON.stringify(await session.row(load.proof.replaceAll('%', schema)));
  };
  const expected = await read('bench', 'public');
  for (const [database, schema] of [
    ['ods', 'bench'],
    ['subscriber', 'public'],
  ] as const) {
    const found = await read(database, schema);
    if (found !== expected) throw new Error(`${load.name}: ${database} holds ${found}, not ${expected}`);
  }
}

function told({ load, rows, through, sinkAlone, subscription }: Figures) {
  return {
    name: load,
    rows,
    ...speed(rows, through),
    subscription: speed(rows, subscription),
    ratio: round(subscription.seconds / through.seconds),
    sinkAlone: speed(rows, sinkAlone),
  };
}

function tell(figures: Figures, output: Output): void {
  const all = told(figures);
  output.line(speedLine(`${all.name}: source to ODS`, all));
  output.line(speedLine('  changelog to ODS', all.sinkAlone));
  output.line(speedLine('  subscription', all.subscription));
  output.line(`  ratio ${all.ratio}`);
}

function result(figures: readonly Figures[]): object {
  const all = figures.map(told);
  const [{ name: _name, subscription, sinkAlone: _sinkAlone, cpuMicrosPerRow, ...first }] = all as [ReturnType<typeof told>];
  return {
    bench: 'ods',
    ...first,
    cpuMicrosPerRow: cpuMicrosPerRow.ours,
    rssMb: peakRssMb(),
    reference: { name: "PostgreSQL's own subscription, the same WAL", rowsPerSecond: subscription.rowsPerSecond },
    others: all,
  };
}
