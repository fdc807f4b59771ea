import type { ActorStatus } from './actor.ts';
import type { ConfiguredService, Runtime } from './runtime.ts';
import { type Assignment, type LeaseStatus, Worker } from './worker.ts';

const TELL_MS = 500;

/** What a worker tells of itself on `tributary.status`. */
export interface StatusTold {
  readonly worker: string;
  readonly service: string;
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Null: it runs whatever labels ask for. */
  readonly labels: Readonly<Record<string, string>> | null;
  readonly capacity: number;
  readonly actors: readonly ActorStatus[];
  readonly leases: readonly LeaseStatus[];
  /** Leases taken over from workers that had gone silent, since it started. */
  readonly takeovers: number;
}

/**
 * Runs one service as a worker of the cluster, and tells how it is: every half second, and on every change.
 * @param assignmentsOf what a desired state asks of this service
 */
export function runService<Config, Changelogs>(
  service: string,
  runtime: Runtime<Changelogs>,
  { config, assignmentsOf }: { readonly config: Config; readonly assignmentsOf: (config: Config) => readonly Assignment[] },
): ConfiguredService<Config> {
  const { bus, kv, clock, log, labels, capacity } = runtime;
  const ended = new AbortController();
  const tell = () => {
    const told: StatusTold = {
      worker: runtime.worker,
      service,
      at: clock.now(),
      labels,
      capacity,
      actors: worker.supervisor.status(),
      leases: worker.leases(),
      takeovers: worker.takeovers,
    };
    bus.tell('tributary.status', told);
  };
  const worker = new Worker({ id: runtime.worker, service, labels, capacity, kv, clock, log, changed: tell });
  worker.start(assignmentsOf(config));
  const telling = (async () => {
    while (!ended.signal.aborted) {
      tell();
      await clock.sleep(TELL_MS, ended.signal).catch(() => {});
    }
  })();
  return {
    configure: (next) => worker.assign(assignmentsOf(next)),
    async stop() {
      await worker.stop();
      ended.abort(new Error('the service has ended'));
      await telling;
    },
  };
}
