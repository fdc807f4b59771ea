import type { Position, SourcePosition, StoredBatch } from '@tributary/core';

/**
 * A keeper of a result made from one changelog. The driver (`runProjection`) reads, groups, retries and reports;
 * a projection only knows where it stands and how to apply.
 *
 * I6 `apply` commits its effect and `after` in one atomic write: a crash anywhere leaves both or neither.
 */
export interface Projection {
  /** Where it stands: read once per start. ORIGIN when it holds nothing. */
  position(): Promise<Position>;
  /**
   * Applies whole transactions: the group ends at a transaction end (unless `partial` is true: a transaction
   * larger than memory, of which this is a part; then the effect must stay invisible, or be safe to repeat,
   * until a later call without `partial`).
   * A projection whose effects take long, or cannot be committed yet, may say that it has accepted the group and takes more; it then
   * counts as applied when that is `settled`. What is accepted and not settled is forgotten at the next `position()`.
   */
  apply(group: Group): Promise<void> | Promise<Accepted | null>;
  /** Empties the result and sets the position to ORIGIN, in one atomic write. Used by replay. */
  reset(): Promise<void>;
  /**
   * Sets the position back, keeping what it holds, in one atomic write: what follows is then applied once more over the
   * newer state. Histories let go of everything behind `to`, except of the tables in `kept`.
   */
  rewind(rewind: Rewind): Promise<void>;
  /**
   * Tables that hold everything up to a position beyond the projection's own, since a rewind that kept them: the driver
   * leaves out their changes up to there. As of the last `position()`.
   */
  held(): ReadonlyMap<string, SourcePosition>;
  /** Does it want rows of `schema.table`? The others never reach {@link apply}. Default: all. */
  wants?(table: string): boolean;
  /** Its effects are not kept in a state: applying a change once more is what a replay is for, whatever the table. */
  readonly repeats?: boolean;
  /** Lets go of connections and files. */
  close(): Promise<void>;
  /** What it tells of itself beyond position and lag. */
  facts?(): Record<string, unknown>;
  /** Questions it answers on `tributary.projection.<sink>.<source>.<name>`; `quarantine` takes the place of the driver's answer. */
  commands?(driver: DriverView): Record<string, (question: unknown) => AsyncIterable<unknown>>;
}

/** A group on its way. */
export interface Accepted {
  /** Resolves when effect and position are durable, in the order of the groups. @throws as `apply` does */
  readonly settled: Promise<void>;
}

export interface Rewind {
  readonly to: Position;
  /** Microseconds since 1970: up to when the source is complete at `to`; 0 = not known. */
  readonly watermark: number;
  /** Where the projection stands until now. */
  readonly until: SourcePosition;
  /** Tables (`schema.table`) that stay as they are: their changes up to `until` are not applied again. */
  readonly kept: ReadonlySet<string>;
  /**
   * What it holds is of a history that the changelog does not have: every table is read again behind `to`, so nothing is
   * kept, and nothing that was noted counts any more.
   */
  readonly foreign: boolean;
  /** Tables of which a snapshot begins between `to` and `until`, and where the first one does: keys noted for a later one count no more. */
  readonly begun: ReadonlyMap<string, SourcePosition>;
}

/** What a projection's commands may ask of the driver. */
export interface DriverView {
  /** Resolves when the projection holds this sequence. */
  reached(seq: number): Promise<void>;
  readonly signal: AbortSignal;
}

export interface Group {
  readonly batches: readonly StoredBatch[];
  /** Position after the last batch. */
  readonly after: Position;
  /** Source commit time (microseconds since 1970) up to which the source is complete after this group. */
  readonly watermark: number;
  readonly partial: boolean;
  /** To be applied before another is taken: it is being found out which one cannot be. */
  readonly alone?: boolean;
  /** Noted in the same write: the table holds everything up to there ({@link Projection.held}). */
  readonly holds?: { readonly table: string; readonly until: SourcePosition };
}
