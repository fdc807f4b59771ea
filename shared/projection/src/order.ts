import type { Projection } from './projection.ts';

/** Something that somebody asked of a projection and that must not run beside a group: obeyed between two of them. */
export interface Order {
  /** Leaves the projection as it was when it throws: the asker is told, and the projection goes on. */
  readonly obey: (projection: Projection, signal: AbortSignal) => Promise<void>;
  /** Told when it is not obeyed. */
  readonly failed: (error: Error) => void;
}
