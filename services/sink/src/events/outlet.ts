import type { Position } from '@tributary/core';
import type { OutEvent } from './event.ts';
import type { EventPlace } from './place.ts';

/** Where the sending of one source's events stands. */
export interface Standing {
  /** Reading goes on behind this position: the end of a transaction, and not behind `done`. */
  readonly resume: Position;
  /** Every event up to here was sent. */
  readonly done: EventPlace;
  /** Events behind `done` are wanted, and of those up to it only these (they were under way when it was noted). */
  readonly missing: ReadonlySet<string>;
  /** Rises with every replay: what was sent before may be sent again. */
  readonly replay: number;
}

/** Sends events, in order, to one place. */
export interface Outlet {
  /** Where it stands, as the place itself or what is noted beside it tells; forgets whatever is under way. */
  open(): Promise<Standing>;
  /**
   * Takes an event. @param resume where reading must begin so that this event is made again
   * @returns a promise while it is full: the next event may come when it resolves
   */
  send(event: OutEvent, resume: Position): Promise<void> | null;
  /** Resolves when everything taken so far is settled, and that it stands at `after` is as durable as what was sent. */
  settle(after: Position): Promise<void>;
  /** Goes on from another position; whatever is under way is forgotten. */
  moveTo(to: Position): Promise<void>;
  /** Ends what is under way and notes where it stands. */
  close(): Promise<void>;
  facts(): Record<string, unknown>;
  commands?(): Record<string, (question: unknown) => AsyncIterable<unknown>>;
}
