import type { Bus, Clock } from '@tributary/core';
import type { Log } from './actor.ts';

/** What every service is given by its wiring. `changelogs` is typed by the caller to keep this package free of it. */
export interface Runtime<Changelogs> {
  readonly changelogs: Changelogs;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly log: Log;
  /** Folder for state that can be rebuilt (lake state, scratch files). */
  readonly dataDir: string;
  /** Name of this worker, unique in the cluster. */
  readonly worker: string;
}

/** A service that runs; `stop` drains every actor. */
export interface RunningService {
  stop(): Promise<void>;
}
