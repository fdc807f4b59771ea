import type { ActorStatus } from '@tributary/cluster';
import type { Clock } from '@tributary/core';
import type { LeaseView } from '../wire.ts';
import { leaseView } from './facts.ts';

/** What one service of a worker last told of itself. */
export interface Told {
  readonly worker: string;
  readonly service: string;
  readonly at: number;
  /** Milliseconds since 1970, for people. */
  readonly heardAt: number;
  /** The same on the monotonic clock, by which silence is measured: a clock that is set does not make anyone silent. */
  readonly heardOn: number;
  readonly actors: readonly ActorStatus[];
  readonly leases: readonly LeaseView[];
  readonly labels: Readonly<Record<string, string>> | null;
  readonly capacity: number | null;
  readonly takeovers: number;
}

/** Workers of other versions are on the same bus: what is missing counts as not told. @returns null for what no worker tells */
export function readTold(value: unknown, clock: Clock): Told | null {
  if (typeof value !== 'object' || value === null) return null;
  const { worker, service, at, actors, leases, labels, capacity, takeovers } = value as Partial<Told>;
  if (typeof worker !== 'string' || !Array.isArray(actors)) return null;
  return {
    worker,
    service: typeof service === 'string' ? service : '',
    at: typeof at === 'number' ? at : clock.now(),
    heardAt: clock.now(),
    heardOn: clock.monotonic(),
    actors: actors.filter(isActor),
    leases: (Array.isArray(leases) ? leases : []).map((lease) => leaseView(worker, lease)).filter((lease) => lease !== null),
    labels: typeof labels === 'object' ? labels : null,
    capacity: typeof capacity === 'number' ? capacity : null,
    takeovers: typeof takeovers === 'number' ? takeovers : 0,
  };
}

function isActor(value: unknown): value is ActorStatus {
  const actor = value as Partial<ActorStatus> | null;
  return typeof actor?.name === 'string' && typeof actor.kind === 'string' && typeof actor.facts === 'object';
}
