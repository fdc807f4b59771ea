import type { StatusTold } from '@tributary/cluster';
import { ORIGIN } from '@tributary/core';
import { round } from './measure.ts';
import { type CpuTimes, cpuTimes, shared, since, WorkerProcess } from './workers.ts';
import type { World } from './world.ts';

/** The one in which others used the least of the machine counts. */
const ROUNDS = 3;
/** filter, set and mask, as `bench transform` has them. */
const STEPS = [
  { filter: `status <> 'new3'` },
  { set: { total: 'qty * amount', size: `CASE WHEN amount > 5000 THEN 'large' ELSE 'small' END` } },
  { mask: { note: 'hash' } },
];
/** What the filter leaves of `fresh` rows: four of five. */
const KEPT = 4 / 5;

export interface TransformRun {
  readonly workers: number;
  readonly changelogs: number;
  readonly rowsPerSecond: number;
  /** CPU of the workers, µs a row. */
  readonly cpuMicrosPerRow: number;
  /** CPU seconds a second of the run; of each worker in `each`. */
  readonly cores: CpuTimes & { readonly others: number; readonly each: readonly number[] };
}

/**
 * The load in which the worker itself is the cost: every changelog through a transform of its own into another, by so many
 * `tributary run transform` processes. No PostgreSQL takes part. Counted from the moment at which all transforms run and are shared
 * evenly, until the last has come to the end of its changelog.
 * @param sources changelogs that hold `rows` rows each
 */
export async function transformed(
  world: World,
  { sources, rows, workers }: { sources: readonly string[]; rows: number; workers: number },
): Promise<TransformRun> {
  const rounds: TransformRun[] = [];
  for (let n = 0; n < ROUNDS; n++) rounds.push(await transformedOnce(world, { sources, rows, workers, run: `w${workers}r${n}` }));
  return rounds.toSorted((a, b) => a.cores.others - b.cores.others)[0] as TransformRun;
}

interface Setting {
  readonly sources: readonly string[];
  readonly rows: number;
  readonly workers: number;
  /** Makes names of results that nobody has used yet. */
  readonly run: string;
}

async function transformedOnce(world: World, { sources, rows, workers: count, run }: Setting): Promise<TransformRun> {
  const names = sources.map((source) => `${run}_${source}`);
  const documents = [
    ...sources.map((name) => ({ kind: 'Source', name, postgres: world.postgres.url('fresh') })),
    ...sources.map((source, i) => ({ kind: 'Transform', name: names[i], from: [`${source}.public.*`], steps: STEPS })),
  ];
  const inputs = new Map(sources.map((source) => [`${run}_${source}`, source]));
  const progress = await Progress.open(world, inputs);
  const workers = await Promise.all(Array.from({ length: count }, () => WorkerProcess.start(world, 'transform', documents)));
  try {
    await shared(
      world,
      workers,
      names.map((name) => `transform/${name}`),
    );
    const before = { cpu: cpuTimes(world, workers), each: workers.map((worker) => worker.cpuSeconds()) };
    const begun = progress.done;
    const start = performance.now();
    await progress.ended;
    const seconds = (performance.now() - start) / 1_000;
    const used = since(before.cpu, cpuTimes(world, workers));
    const each = workers.map((worker, i) => round((worker.cpuSeconds() - (before.each[i] ?? 0)) / seconds));
    await expectKept(world, names, rows);
    const done = rows * sources.length * (1 - begun);
    const perSecond = (cpu: number) => round(cpu / seconds);
    return {
      workers: count,
      changelogs: sources.length,
      rowsPerSecond: Math.round(done / seconds),
      cpuMicrosPerRow: round((used.workers * 1e6) / done),
      cores: {
        workers: perSecond(used.workers),
        postgres: perSecond(used.postgres),
        nats: perSecond(used.nats),
        machine: perSecond(used.machine),
        others: perSecond(Math.max(0, used.machine - used.workers - used.postgres - used.nats)),
        each,
      },
    };
  } finally {
    for (const worker of workers) await worker.stop();
    await progress.close();
  }
}

/** Sequence of an input's last message, and the one that its transform has come to. */
interface Place {
  readonly last: number;
  seq: number;
}

/** How far the transforms are, as their workers tell it twice a second. */
class Progress {
  readonly ended: Promise<void>;
  readonly #places: ReadonlyMap<string, Place>;
  #close: () => Promise<void> = async () => {};

  private constructor(places: ReadonlyMap<string, Place>, ended: Promise<void>) {
    this.#places = places;
    this.ended = ended;
  }

  /** @param inputs changelog that each transform reads, by the transform's name */
  static async open(world: World, inputs: ReadonlyMap<string, string>): Promise<Progress> {
    const { bus, changelogs } = world.broker;
    const places = new Map<string, Place>();
    for (const [name, input] of inputs) places.set(name, { last: (await changelogs.status(input))?.lastSeq ?? 0, seq: 0 });
    let end = () => {};
    const progress = new Progress(places, new Promise((resolve) => (end = resolve)));
    progress.#close = await bus.listen('tributary.status', (value) => {
      for (const { name, facts } of (value as StatusTold).actors) {
        const place = places.get(name.replace('transform/', ''));
        const told = Object.values((facts['inputs'] ?? {}) as Readonly<Record<string, { seq: number }>>);
        for (const { seq } of told) if (place && seq > place.seq) place.seq = seq;
      }
      if ([...places.values()].every(({ last, seq }) => seq >= last)) end();
    });
    return progress;
  }

  /** Share of the inputs that is behind them. */
  get done(): number {
    return [...this.#places.values()].reduce((sum, { last, seq }) => sum + seq / last, 0) / this.#places.size;
  }

  close(): Promise<void> {
    return this.#close();
  }
}

/** A figure counts only when every result holds what the filter leaves. */
async function expectKept(world: World, names: readonly string[], rows: number): Promise<void> {
  const { changelogs } = world.broker;
  for (const name of names) {
    const last = (await changelogs.last(name))?.seq ?? 0;
    const stop = new AbortController();
    let found = 0;
    for await (const batch of changelogs.read(name, { after: ORIGIN, signal: stop.signal })) {
      for (const section of batch.sections) found += section.rows;
      if (batch.seq >= last) break;
    }
    stop.abort();
    if (found !== rows * KEPT) throw new Error(`${name} holds ${found} rows, not ${rows * KEPT}`);
  }
}
