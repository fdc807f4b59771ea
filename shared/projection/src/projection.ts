import type { Position, StoredBatch } from '@tributary/core';

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
   */
  apply(group: Group): Promise<void>;
  /** Empties the result and sets the position to ORIGIN, in one atomic write. Used by replay. */
  reset(): Promise<void>;
  /** Lets go of connections and files. */
  close(): Promise<void>;
  /** What it tells of itself beyond position and lag. */
  facts?(): Record<string, unknown>;
  /** Questions it answers on `tributary.projection.<sink>.<source>.<name>`. */
  commands?(driver: DriverView): Record<string, (question: unknown) => AsyncIterable<unknown>>;
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
}
