import type { Output } from '../output.ts';
import { Thread } from '../system.ts';
import { peakRssMb } from './measure.ts';
import { DELETES, UPDATES, type OdsLoad } from './ods-loads.ts';
import { captured, caughtUp, type Cost, cost, Held, odsSink, reached, speed, speedLine } from './ods-world.ts';
import { openWorld, type World } from './world.ts';

const SINKS = [
  { name: 'plain' },
  { name: 'marked', kept: { softDelete: true } },
  { name: 'versioned', kept: { history: true } },
] as const;

/**
 * What `softDelete` and `history` cost: the same changelog, already there, applied by a plain ODS and by one of each, one after the
 * other while the rest are held.
 */
export async function benchOdsKept(rows: number, output: Output): Promise<void> {
  const world = await openWorld(['bench', ...SINKS.map(({ name }) => name)]);
  const threads: Thread[] = [];
  const held = new Held(world);
  try {
    const source = await world.session('bench');
    for (const load of [UPDATES, DELETES]) {
      for (const table of load.tables) await source.run(table);
      await load.fill(source);
    }
    const config = world.config(SINKS.map((sink) => odsSink(world, sink.name, 'kept' in sink ? sink.kept : {})));
    const task = { config, nats: world.nats.url, dataDir: world.folder, worker: 'bench', logLevel: 'warn' };
    threads.push(new Thread({ ...task, service: 'source' }), new Thread({ ...task, service: 'sink' }));
    await Promise.all(threads.map((thread) => thread.started));
    for (const { name } of SINKS) await caughtUp(world, name);
    const results = [];
    for (const load of [UPDATES, DELETES]) {
      const { done, costs } = await compare(world, load, { rows, held });
      const plain = costs.get('plain') as Cost;
      for (const [name, one] of costs) {
        const told = { load: load.name, name, ...speed(done, one), ratio: Number((plain.seconds / one.seconds).toFixed(2)) };
        results.push(told);
        if (!output.json) output.line(`${speedLine(`${load.name}: ${name}`, told)}; ratio ${told.ratio}`);
      }
    }
    if (output.json) output.value({ bench: 'ods-kept', rows, rssMb: peakRssMb(), results });
  } finally {
    held.releaseAll();
    await Promise.all(threads.map((thread) => thread.stop()));
    await world.close();
  }
}

async function compare(
  world: World,
  load: OdsLoad,
  { rows, held }: { rows: number; held: Held },
): Promise<{ done: number; costs: ReadonlyMap<string, Cost> }> {
  const releases = new Map<string, () => void>();
  for (const { name } of SINKS) releases.set(name, await held.holdSink(name));
  const done = await load.run(await world.session('bench'), rows, 0);
  const seq = await captured(world);
  const costs = new Map<string, Cost>();
  for (const [name, release] of releases) {
    const one = await cost(world, async () => {
      release();
      await reached(world, name, seq);
    });
    costs.set(name, one);
  }
  return { done, costs };
}
