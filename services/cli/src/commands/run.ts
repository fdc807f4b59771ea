import { connectNats } from '@tributary/changelog';
import { aborted } from '@tributary/cluster';
import { type Config, loadConfig } from '@tributary/config';
import { startConsole, startHealth } from '@tributary/console';
import { Fault, systemClock } from '@tributary/core';
import { environment, openLog, stopSignal, workerName } from '@tributary/ops';
import { startSinks } from '@tributary/sink';
import { startSources } from '@tributary/source';
import type { Output } from '../output.ts';

export interface RunOptions {
  readonly file: readonly string[];
  readonly data: string;
  readonly nats?: string;
  readonly port?: string;
  readonly labels?: readonly string[];
}

/** One service as one process, until SIGINT or SIGTERM. */
export async function runOne(service: string, options: RunOptions, output: Output): Promise<void> {
  if (!['source', 'sink', 'console'].includes(service)) {
    const built = ['transform', 'kpi', 'monitor'].includes(service) ? 'is not built yet' : 'is not a service';
    throw new Fault('config_invalid', `"${service}" ${built}. Services: source, sink, console.`);
  }
  const config = withLabels(await loadConfig(options.file, { env: environment() }), options.labels ?? []);
  const url = options.nats ?? config.cluster.nats.url;
  if (!url) throw new Fault('config_invalid', 'name the broker: --nats nats://HOST:4222, or nats.url in a Cluster document');
  const stop = stopSignal();
  const broker = await connectNats({ url, creds: config.cluster.nats.creds, name: `tributary ${service}` });
  const worker = workerName();
  const { changelogs, bus } = broker;
  const runtime = { changelogs, bus, clock: systemClock, log: openLog({ worker }), dataDir: options.data, worker };
  try {
    const { connected } = broker;
    const port = options.port === undefined ? {} : { port: Number(options.port) };
    const health =
      service === 'console' || port.port === undefined
        ? null
        : await startHealth(config, runtime, { port: port.port, connected });
    try {
      const heard = health?.runtime ?? runtime;
      const running =
        service === 'source'
          ? await startSources(config, heard)
          : service === 'sink'
            ? await startSinks(config, heard)
            : await startConsole(config, runtime, { ...port, connected });
      try {
        const urls = { ...('url' in running ? { console: running.url } : {}), ...(health ? { health: health.url } : {}) };
        output.value({ ready: true, service, worker, ...urls });
        await aborted(stop);
      } finally {
        await running.stop();
      }
    } finally {
      await health?.stop();
    }
  } finally {
    await broker.close();
  }
}

/** A source with labels runs only where all of them are given. */
function withLabels(config: Config, given: readonly string[]): Config {
  const labels = new Set(given);
  return {
    ...config,
    sources: config.sources.filter((source) =>
      Object.entries(source.labels).every(([key, value]) => labels.has(`${key}=${value}`)),
    ),
  };
}
