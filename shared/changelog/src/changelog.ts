import type { BatchHeader, Fault, Kv, Position, StoredBatch } from '@tributary/core';
import type { DeadLetters } from './dead-letters.ts';
import type { EventStreams } from './event-stream.ts';
import type { SectionDraft } from './draft.ts';

/** A batch on its way in: the changelog fills in the chain (`follows`) and the sequence. */
export interface BatchDraft {
  readonly header: Omit<BatchHeader, 'follows' | 'stateSeq'>;
  readonly sections: readonly SectionDraft[];
}

/** The last whole batch of a changelog, without its rows: all that a new leader needs. */
export interface LastBatch {
  readonly seq: number;
  readonly header: BatchHeader;
  /** `state` of the newest batch that carries one, found through `stateSeq`; null when there is none. */
  readonly state: unknown;
  /** The place of the batch that carries `state`; null when there is none. */
  readonly statePosition: Position | null;
}

/** A whole batch, without its rows, and its place in the stream. */
export interface Placed {
  readonly seq: number;
  readonly header: BatchHeader;
}

/** What {@link Changelogs.seek} found: the ends of the retained history, and the place asked for. */
export interface Sought {
  readonly first: Placed;
  readonly last: Placed;
  /** The last batch of the prefix asked for; null when not even the first one belongs to it. */
  readonly found: Placed | null;
}

/** What the stream itself knows. */
export interface ChangelogStatus {
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly messages: number;
  readonly bytes: number;
}

/**
 * The one writer of one changelog.
 *
 * I2 Batches stand in the stream in the order of `append`, without gap: each names the sequence it expects
 *    to follow, and after the first refusal every later one is refused too.
 * I3 A writer that was refused once never writes again (`fenced`); its owner starts over from `last()`.
 */
export interface ChangelogWriter {
  /** The last whole batch when this writer was opened; null for an empty changelog. */
  readonly last: LastBatch | null;
  /**
   * Sends a batch, pipelined: does not wait for earlier ones. Encoding is done before it returns.
   * @returns the sequence, once the broker has stored it
   * @throws Fault `fenced`, `broker_unreachable`
   */
  append(batch: BatchDraft): Promise<number>;
  /** Bytes appended and not yet stored. */
  readonly pendingBytes: number;
  /** Resolves as soon as `pendingBytes` is at most `bytes`; rejects when the writer failed. */
  belowPending(bytes: number): Promise<void>;
  /** Sends nothing more; resolves when everything appended is stored or refused. */
  close(): Promise<void>;
}

/** Stream settings, from config. */
export interface ChangelogOptions {
  readonly replicas: number;
  /** Milliseconds; 0 = for ever. */
  readonly maxAgeMs: number;
  /** 0 = unlimited. */
  readonly maxBytes: number;
}

export interface ReadOptions {
  /** Goes on after this position. A position of sequence 0 means from the first message that is there. */
  readonly after: Position;
  readonly signal: AbortSignal;
  /**
   * Tables (`schema.table`) whose sections are wanted; the others are passed over undecoded. Every batch comes all the same,
   * with its header, because it moves the position. Asked once a section and batch: it must be cheap. Default: all.
   */
  readonly wants?: (table: string) => boolean;
  /**
   * Asked when the connection broke, which may have cost the changelog its newest messages: may reading go on behind what
   * was yielded last? Otherwise it throws `broker_unreachable`. Default: yes.
   */
  readonly resumes?: () => boolean;
}

/** All changelogs of one broker. The memory twin passes the same contract suite as NATS. */
export interface Changelogs {
  /** What projections could not apply, until somebody takes it back or gives it up. */
  readonly deadLetters: DeadLetters;
  /** Streams for programs outside. */
  readonly eventStreams: EventStreams;
  /** Where projections stand that have no other place for it; as durable as a changelog. */
  readonly positions: Kv;
  /** Creates the stream when missing, and takes the pen: the newest writer wins, older ones are fenced. */
  write(source: string, options: ChangelogOptions): Promise<ChangelogWriter>;
  /**
   * Follows a changelog for ever, in order, from a position. Checks the chain at every message:
   * a stream that lost its tail and was refilled, or was trimmed, is noticed and the reader finds its place by
   * source position. Waits for the stream when it does not exist yet.
   * A batch of another epoch must follow exactly what the reader holds: otherwise its position means nothing there.
   * @throws Fault `ahead_of_history`, `other_epoch`, `other_system`, `history_trimmed`, `reader_stalled`, `broker_unreachable`, `changelog_format`
   */
  read(source: string, options: ReadOptions): AsyncIterable<StoredBatch>;
  last(source: string): Promise<LastBatch | null>;
  /**
   * For a changelog that lost what the broker had acknowledged, where other servers keep copies of it: they may hold it. The first copy that `holds` what is
   * missing counts from then on, else the longest, and the others are made anew of it. A writer must be opened again then.
   * @returns false when there are no copies, and nothing was done
   * @throws Fault `broker_unreachable`
   */
  reconcileCopies(source: string, holds: (last: LastBatch | null) => boolean): Promise<boolean>;
  status(source: string): Promise<ChangelogStatus | null>;
  /** The first position whose message was stored at or after a time (ms since 1970); null when there is none. */
  find(source: string, storedAt: number): Promise<Position | null>;
  /**
   * The last whole batch that `holds`, by halving the retained sequences: about log2 of their number of single reads.
   * @param holds true for a prefix of the changelog and false behind it, such as "lies at or before a position"
   * @returns null when the changelog is empty or not there
   */
  seek(source: string, holds: (header: BatchHeader) => boolean): Promise<Sought | null>;
  /**
   * Why a reader that stands there could not go on, as `read` would throw it; its fact `replayFrom` says from where it
   * could. Null when the position belongs to this changelog's history.
   */
  foreign(source: string, held: Position): Promise<Fault | null>;
  /**
   * The sequence up to which a reader that stands there holds this changelog, whatever it was called when the reader came
   * by it (a stream that was lost begins again at 1). 0 = nothing of it, or there is none.
   */
  reached(source: string, held: Position): Promise<number>;
  /** Names of the sources that have a changelog here. */
  list(): Promise<string[]>;
}
