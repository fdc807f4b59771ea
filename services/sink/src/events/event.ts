import type { EventOp } from '@tributary/config';
import type { EventPlace } from './place.ts';
import type { RowChange } from './row-changes.ts';

/** One event, ready to be sent. */
export interface OutEvent {
  /** The same whoever sends it, however often: receivers drop repeats by it. Holds no full stop. */
  readonly id: string;
  readonly place: EventPlace;
  /** `schema.table`; `*` for one of a whole transaction. */
  readonly table: string;
  /**
   * Names of the rows that it speaks of, unique over all tables: events that share one are sent in order. Empty: it speaks
   * of whole tables, and keeps its place among all their events.
   */
  readonly keys: readonly string[];
  /** Tables that it speaks of; empty: it keeps its place among all events. */
  readonly tables: readonly string[];
  /** For subjects; null where it is of no single table. */
  readonly words: { readonly schema: string; readonly table: string; readonly op: EventOp | 'begin' | 'end' } | null;
  readonly contentType: string;
  /** Beside those of every event. */
  readonly headers: Readonly<Record<string, string>>;
  /** Null: a tombstone. */
  readonly body: string | null;
}

/** What a format needs to know of where a change comes from. */
export interface Origin {
  readonly source: string;
  readonly database: string;
  readonly epoch: string;
}

/**
 * Makes events of changes, in order. It holds what a transaction needs until its end, and nothing else: `begin` may be
 * called for a transaction anew, and then makes the same events again.
 */
export interface Format {
  /** A change of the transaction (or snapshot) that runs. */
  change(change: RowChange, origin: Origin): Iterable<OutEvent>;
  /** The transaction of the last change has ended. */
  end(origin: Origin): Iterable<OutEvent>;
  /** A snapshot of a table begins or ends here. */
  mark?(
    mark: {
      readonly place: EventPlace;
      readonly step: 'begin' | 'end';
      readonly table: string;
      readonly reset: boolean;
      readonly generation: number;
      readonly storedAt: number;
    },
    origin: Origin,
  ): Iterable<OutEvent>;
}

/** `<epoch>:<place>`; the epoch's full stop is written `_`, because signatures are made over `id.timestamp.body`. */
export function idOf(epoch: string, place: string): string {
  return `${epoch.replaceAll('.', '_')}:${place}`;
}
