import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { type Broker, connectNats } from '@tributary/changelog';
import { type Config, type ConfigFile, sourcesOf, sourcesOfKpis, sourcesOfProcess } from '@tributary/config';
import { type RunningConsole, startConsole } from '@tributary/console';
import { Fault, type Kv, partName, partsOf, systemClock } from '@tributary/core';
import { type NatsServer, obtainNatsServer, startNats } from '@tributary/embedded';
import type { OpsLog } from '@tributary/ops';
import { claimFolder, removeAddresses, workerOf, writeAddresses } from './addresses.ts';
import type { StatusTold } from '@tributary/cluster';
import { DesiredState } from './desired.ts';
import { Discovery } from './discovery.ts';
import { ImportedLogs } from './imported-logs.ts';
import { StoredDefinitions } from './definitions.ts';
import type { ThreadMessage, ThreadTask } from './thread.ts';

export interface SystemOptions {
  /** As given; what they say is `config`. */
  readonly files: readonly ConfigFile[];
  readonly config: Config;
  readonly data: string;
  readonly nats?: string | undefined;
  readonly port?: number | undefined;
  readonly log: OpsLog;
  /** Of the service threads; default: what the environment says. */
  readonly logLevel?: string;
  readonly say: (text: string) => void;
}

/** How long the embedded server may be away while everything starts, ms. */
const SERVER_BACK_MS = 15_000;

/** All services of one config in one process: what `up` and `demo` run. */
export class System {
  readonly console: string;
  readonly nats: string;
  readonly #options: SystemOptions;
  readonly #parts: Parts;
  private constructor(options: SystemOptions, parts: Parts) {
    this.#options = options;
    this.#parts = parts;
    this.console = parts.console.url;
    this.nats = parts.url;
  }

  /** Starts every part; resolves when they run, before every actor does ({@link ready}). */
  static async start(options: SystemOptions): Promise<System> {
    await claimFolder(options.data);
    const given = options.nats ?? options.config.cluster.nats.url;
    const server = given ? null : await embeddedNats(options);
    const url = given ?? (server as NatsServer).url;
    const threads: Thread[] = [];
    const stopping = new AbortController();
    let broker: Broker | null = null;
    try {
      const { creds, replicas } = options.config.cluster.nats;
      // Our own server is started again when it dies, also in the middle of our start.
      const patience = server ? { patienceMs: SERVER_BACK_MS } : {};
      broker = await connectNats({ url, creds, replicas, name: 'tributary console', ...patience });
      const worker = await workerOf(options.data);
      const { config, revision } = await beginWith(options, broker.kv, server !== null);
      const { changelogs, bus, kv } = broker;
      const runtime = { changelogs, bus, kv, clock: systemClock, log: options.log, worker };
      const task = {
        config,
        nats: url,
        dataDir: options.data,
        worker,
        ...patience,
        ...(options.logLevel ? { logLevel: options.logLevel } : {}),
      };
      threads.push(new Thread({ ...task, service: 'source' }), new Thread({ ...task, service: 'sink' }));
      if (config.transforms.length > 0) threads.push(new Thread({ ...task, service: 'transform' }));
      if (config.kpis.length > 0) threads.push(new Thread({ ...task, service: 'kpi' }));
      if (config.processes.length > 0) threads.push(new Thread({ ...task, service: 'monitor' }));
      const consoleStarted = startConsole(config, runtime, {
        connected: broker.connected,
        documents: new StoredDefinitions(new DesiredState(kv, options.data), systemClock),
        discovery: new Discovery({ url, creds, replicas }, stopping.signal),
        logs: new ImportedLogs(options.data, stopping.signal),
        ...(options.port === undefined ? {} : { port: options.port }),
      });
      await Promise.all([...threads.map((thread) => thread.started), consoleStarted]);
      const system = new System(
        { ...options, config },
        { server, url, broker, threads, task, stopping, console: await consoleStarted },
      );
      void system.#follow(revision);
      await writeAddresses(options.data, {
        pid: process.pid,
        nats: url,
        console: system.console,
      });
      return system;
    } catch (error) {
      await Promise.all(threads.map((thread) => thread.stop()));
      await broker?.close();
      await server?.stop();
      throw error;
    }
  }

  /** Resolves when every actor runs; tells on the way what keeps one from it. */
  async ready(signal: AbortSignal): Promise<void> {
    // It may have been told to stop while it started.
    if (signal.aborted) return;
    const { config, say } = this.#options;
    const expected = new Set([...config.sources.map((source) => `source/${source.name}`), ...actorsOf(config)]);
    const running = new Set<string>();
    const told = new Map<string, string>();
    await new Promise<void>((resolve) => {
      signal.addEventListener('abort', () => resolve(), { once: true });
      const hear = (value: unknown) => {
        for (const actor of (value as StatusTold).actors) {
          if (actor.state === 'running') running.add(actor.name);
          if (actor.fault && told.get(actor.name) !== actor.fault.message) {
            told.set(actor.name, actor.fault.message);
            say(`${actor.name}: ${actor.fault.message}\n  ${actor.fault.advice}`);
          }
        }
        if ([...expected].every((name) => running.has(name))) resolve();
      };
      void this.#parts.broker.bus.listen('tributary.status', hear);
    });
  }

  /** Goes over to every state that is applied from now on. */
  async #follow(revision: number): Promise<void> {
    const { threads, console, broker, task } = this.#parts;
    const { data, log } = this.#options;
    const state = new DesiredState(broker.kv, data);
    await state.follow({ from: revision, clock: systemClock, log, signal: this.#parts.stopping.signal }, (config) => {
      for (const thread of threads) thread.configure(config);
      console.configure(config);
      // Their threads are started with the first transform, KPI or process: most systems have none.
      for (const [service, wanted] of [
        ['transform', config.transforms],
        ['kpi', config.kpis],
        ['monitor', config.processes],
      ] as const)
        if (wanted.length > 0 && !threads.some((thread) => thread.service === service))
          threads.push(new Thread({ ...task, config, service }));
    });
  }

  /** Rejects when a thread dies, which only a bug brings about. */
  died(): Promise<never> {
    return Promise.race(this.#parts.threads.map((thread) => thread.died));
  }

  async stop(): Promise<void> {
    const { threads, console, broker, server, stopping } = this.#parts;
    stopping.abort(new Error('the system stops'));
    await Promise.all(threads.map((thread) => thread.stop()));
    await console.stop();
    await broker.close();
    await server?.stop();
    await removeAddresses(this.#options.data);
  }
}

interface Parts {
  readonly server: NatsServer | null;
  readonly url: string;
  readonly broker: Broker;
  readonly threads: Thread[];
  /** What every thread is given. */
  readonly task: Omit<ThreadTask, 'service'>;
  readonly console: RunningConsole;
  readonly stopping: AbortController;
}

/** On a broker of its own the files given are what is wanted; on a shared one, what was applied to it. */
async function beginWith(options: SystemOptions, kv: Kv, own: boolean): Promise<{ config: Config; revision: number }> {
  const state = new DesiredState(kv, options.data);
  if (!own) return state.begin(options.files, options.log);
  return state.replace(options.files, systemClock.now(), options.log);
}

async function embeddedNats({ data, say }: SystemOptions): Promise<NatsServer> {
  const binary = await obtainNatsServer({ log: say });
  return startNats({ dir: join(data, 'nats'), binary: binary.path, keepAlive: say });
}

/** Names of the actors that run transforms and projections. */
function actorsOf(config: Config): string[] {
  const engines = [...new Set(config.kpis.map(({ engine }) => engine))];
  const kpis = engines.flatMap((engine) =>
    sourcesOfKpis(
      config.kpis.filter((kpi) => kpi.engine === engine),
      config,
    ).map((source) => `${engine}/${source}`),
  );
  const transforms = config.transforms.map(({ name }) => `transform/${name}`);
  const projections = config.sinks.flatMap((sink) =>
    sourcesOf(sink, config).flatMap((source) =>
      partsOf(sink.type === 'ods' ? sink.partitions : 1).map((part) => partName(`${sink.name}/${source}`, part)),
    ),
  );
  const processes = config.processes.flatMap((one) => sourcesOfProcess(one).map((source) => `${one.name}/${source}`));
  return [...transforms, ...projections, ...kpis, ...processes];
}

/** Decoding and folding make many short-lived values: room for them to die young, and no more than that. */
const YOUNG_MB = 12;
/** Everything a service holds is bounded and small; without this the collector lets garbage pile up to several times that. */
const OLD_MB = 96;

/** One service in a worker thread. */
export class Thread {
  readonly service: ThreadTask['service'];
  readonly started: Promise<void>;
  readonly died: Promise<never>;
  readonly #worker: Worker;
  readonly #exited: Promise<void>;
  #stopping = false;

  constructor(task: ThreadTask) {
    this.service = task.service;
    this.#worker = new Worker(new URL('./thread.js', import.meta.url), {
      workerData: task,
      name: task.service,
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MB, maxOldGenerationSizeMb: OLD_MB },
    });
    this.#exited = new Promise((resolve) => this.#worker.once('exit', () => resolve()));
    this.died = new Promise((_, reject) => {
      this.#worker.once('error', reject);
      this.#worker.once('exit', (code) => {
        if (!this.#stopping) reject(new Fault('config_invalid', `the ${task.service} thread ended (code ${code})`));
      });
    });
    this.died.catch(() => {});
    this.started = Promise.race([new Promise<void>((resolve) => this.#worker.once('message', () => resolve())), this.died]);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    this.#post({ kind: 'stop' });
    await this.#exited;
  }

  configure(config: Config): void {
    this.#post({ kind: 'configure', config });
  }

  #post(message: ThreadMessage): void {
    this.#worker.postMessage(message);
  }
}
