import { parentPort, workerData } from 'node:worker_threads';
import { connectNats } from '@tributary/changelog';
import type { Config } from '@tributary/config';
import { describeError, systemClock } from '@tributary/core';
import { environment, openLog, startTracing } from '@tributary/ops';
import { starterOf, type ThreadService } from './starter.ts';

/** What a service thread is told. */
export interface ThreadTask {
  readonly service: ThreadService;
  readonly config: Config;
  readonly nats: string;
  readonly dataDir: string;
  readonly worker: string;
  readonly logLevel?: string;
  /** Of the connection to NATS, ms. */
  readonly patienceMs?: number;
}

export type ThreadMessage = { readonly kind: 'stop' } | { readonly kind: 'configure'; readonly config: Config };

/** Runs one service in a worker thread, so that heavy work of sinks never makes capture wait. */
async function run(task: ThreadTask): Promise<void> {
  const log = openLog({ worker: task.worker, ...(task.logLevel ? { level: task.logLevel } : {}) });
  const { creds, replicas } = task.config.cluster.nats;
  const stopTracing = await startTracing({ service: task.service, worker: task.worker, env: environment(), log });
  const broker = await connectNats({
    url: task.nats,
    creds,
    replicas,
    name: `tributary ${task.service}`,
    ...(task.patienceMs === undefined ? {} : { patienceMs: task.patienceMs }),
  });
  const start = await starterOf(task.service);
  const { changelogs, bus, kv } = broker;
  const service = await start(task.config, {
    changelogs,
    bus,
    kv,
    clock: systemClock,
    log,
    dataDir: task.dataDir,
    worker: task.worker,
    labels: null,
    capacity: 1,
  });
  parentPort?.on('message', (message: ThreadMessage) => {
    if (message.kind === 'configure') return service.configure(message.config);
    service
      .stop()
      .then(() => Promise.all([broker.close(), stopTracing()]))
      .catch((error: unknown) => log.error({ error: describeError(error) }, 'stopping failed'))
      // Ends this thread only; why not by closing the port: see main.ts.
      .finally(() => process.exit());
  });
  parentPort?.postMessage('started');
}

await run(workerData as ThreadTask);
