import { barrier } from '../cluster.ts';
import { round, rssMbOf } from './measure.ts';
import { cpuTimes, shared, since, WorkerProcess } from './workers.ts';
import { openWorld, ORDERS, type World } from './world.ts';

const STEPS = [1, 4, 16, 64] as const;
const SETTLE_MS = 5_000;
const WATCH_MS = 20_000;

/** What so many sources cost on one worker while nothing happens in their databases. */
export interface IdleCost {
  readonly sources: number;
  /** CPU seconds a second of the worker's process. */
  readonly cores: number;
  readonly rssMb: number;
  readonly postgresCores: number;
  readonly natsCores: number;
}

/**
 * Each source has a database of its own (a heartbeat in a shared one would be a change for all of them), but all databases are
 * of one server: every walsender reads the WAL of all, so PostgreSQL's part grows faster here than with a server each.
 */
export async function measureIdle(measured: (cost: IdleCost) => void): Promise<IdleCost[]> {
  const names = Array.from({ length: STEPS.at(-1) as number }, (_, i) => `idle_${i + 1}`);
  const world = await openWorld(names, {
    settings: { max_replication_slots: '100', max_wal_senders: '100', max_connections: '600', shared_buffers: '64MB' },
  });
  const costs: IdleCost[] = [];
  try {
    for (const name of names) await (await world.session(name)).run(ORDERS);
    // Slots and first snapshots are made beforehand: what is measured is a worker that has only been idle.
    await (await startWorker(world, names)).stop();
    for (const sources of STEPS) {
      const worker = await startWorker(world, names.slice(0, sources));
      const workers = [worker];
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
      const before = cpuTimes(world, workers);
      const start = performance.now();
      await new Promise((resolve) => setTimeout(resolve, WATCH_MS));
      const seconds = (performance.now() - start) / 1_000;
      const used = since(before, cpuTimes(world, workers));
      const cost: IdleCost = {
        sources,
        cores: round(used.workers / seconds, 4),
        rssMb: round(rssMbOf(worker.pid), 1),
        postgresCores: round(used.postgres / seconds, 4),
        natsCores: round(used.nats / seconds, 4),
      };
      measured(cost);
      costs.push(cost);
      await worker.stop();
    }
  } finally {
    await world.close();
  }
  return costs;
}

/** One worker that runs all these sources, each past its first barrier. */
async function startWorker(world: World, names: readonly string[]): Promise<WorkerProcess> {
  const documents = names.map((name) => ({ kind: 'Source', name, postgres: world.postgres.url(name) }));
  const worker = await WorkerProcess.start(world, 'source', documents);
  await shared(
    world,
    [worker],
    names.map((name) => `source/${name}`),
  );
  for (const name of names) await barrier(world.broker.bus, name, Date.now() + 300_000);
  return worker;
}
