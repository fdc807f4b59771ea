import { connectNats } from '@tributary/changelog';
import { unlessAborted } from '@tributary/cluster';
import { configReading } from '@tributary/config';
import { startConsole, startHealth } from '@tributary/console';
import { describeError, Fault, systemClock } from '@tributary/core';
import { environment, openLog, startTracing, stopSignal, workerName } from '@tributary/ops';
import { DesiredState } from '../desired.ts';
import { Discovery } from '../discovery.ts';
import { ImportedLogs } from '../imported-logs.ts';
import { StoredDefinitions } from '../definitions.ts';
import type { Output } from '../output.ts';
import { starterOf, type ThreadService } from '../starter.ts';

export interface RunOptions {
  readonly file: readonly string[];
  readonly data: string;
  readonly nats?: string;
  readonly port?: string;
  readonly labels?: readonly string[];
  readonly capacity: string;
}

/** One service as one worker of a cluster, until SIGINT or SIGTERM; then it hands over what it runs. */
export async function runOne(service: string, options: RunOptions, output: Output): Promise<void> {
  if (!['source', 'transform', 'sink', 'kpi', 'monitor', 'console'].includes(service))
    throw new Fault('config_invalid', `"${service}" is not a service. Services: source, transform, sink, kpi, monitor, console.`);
  const { configOf, readFiles } = await configReading();
  const files = await readFiles(options.file);
  const own = configOf(files, { env: environment() });
  const url = options.nats ?? own.cluster.nats.url;
  if (!url) throw new Fault('config_invalid', 'name the broker: --nats nats://HOST:4222, or nats.url in a Cluster document');
  const stop = stopSignal();
  const labels = labelsOf(options.labels ?? []);
  const capacity = Number(options.capacity);
  const { creds, replicas } = own.cluster.nats;
  const broker = await connectNats({ url, creds, replicas, name: `tributary ${service}` });
  const worker = workerName();
  const { changelogs, bus, kv } = broker;
  const log = openLog({ worker });
  const stopTracing = await startTracing({ service, worker, env: environment(), log });
  const runtime = { changelogs, bus, kv, clock: systemClock, log, dataDir: options.data, worker, labels, capacity };
  const state = new DesiredState(kv, options.data);
  let toldAt = 0;
  stop.addEventListener('abort', () => {
    toldAt = performance.now();
    log.info({ reason: describeError(stop.reason) }, 'stops');
  });
  try {
    const begun = await unlessAborted(state.begin(files, log), stop).catch((error: unknown) => {
      if (stop.aborted) return null;
      throw error;
    });
    if (!begun) return;
    const { config, revision } = begun;
    const { connected } = broker;
    const port = options.port === undefined ? {} : { port: Number(options.port) };
    const health =
      service === 'console' || port.port === undefined
        ? null
        : await startHealth(config, runtime, { port: port.port, connected });
    try {
      const heard = health?.runtime ?? runtime;
      const running =
        service === 'console'
          ? await startConsole(config, runtime, {
              ...port,
              connected,
              documents: new StoredDefinitions(state, systemClock),
              discovery: new Discovery({ url, creds, replicas }, stop),
              logs: new ImportedLogs(options.data, stop),
            })
          : await (await starterOf(service as ThreadService))(config, heard);
      try {
        const urls = { ...('url' in running ? { console: running.url } : {}), ...(health ? { health: health.url } : {}) };
        output.value({ ready: true, service, worker, ...urls });
        await state.follow({ from: revision, clock: systemClock, log, signal: stop }, (next) => running.configure(next));
      } finally {
        await running.stop();
      }
    } finally {
      await health?.stop();
    }
  } finally {
    await Promise.all([broker.close(), stopTracing()]);
    if (toldAt > 0) log.info({ ms: Math.round(performance.now() - toldAt) }, 'stopped');
  }
}

/** @throws Fault `config_invalid` for anything but `key=value` */
function labelsOf(given: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    given.map((text) => {
      const [, key, value] = /^([^=]+)=(.*)$/.exec(text) ?? [];
      if (key === undefined || value === undefined) {
        throw new Fault('config_invalid', `--labels ${text}: expected key=value, for instance --labels network=team-shop`);
      }
      return [key, value];
    }),
  );
}
