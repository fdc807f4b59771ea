import type { Bus, Clock, Kv } from '@tributary/core';
import type { Log } from './actor.ts';

/** What every service is given by its wiring. `changelogs` is typed by the caller to keep this package free of it. */
export interface Runtime<Changelogs> {
  readonly changelogs: Changelogs;
  readonly bus: Bus;
  readonly kv: Kv;
  readonly clock: Clock;
  readonly log: Log;
  /** Folder for state that can be rebuilt (lake state, scratch files). */
  readonly dataDir: string;
  /** Name of this worker, unique in the cluster. */
  readonly worker: string;
  /** What assignments may ask for; null = it runs whatever they ask for. */
  readonly labels: Readonly<Record<string, string>> | null;
  /** Its share of the work, beside the others'. */
  readonly capacity: number;
}

/** A service that runs; `stop` drains every actor. */
export interface RunningService {
  stop(): Promise<void>;
}

/** A service whose work follows the desired state. */
export interface ConfiguredService<Config> extends RunningService {
  /** Goes over to another desired state: starts what is new, ends what is gone, starts anew what changed. */
  configure(config: Config): void;
}
