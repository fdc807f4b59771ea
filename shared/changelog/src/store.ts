import type { ChangelogOptions, ChangelogStatus } from './changelog.ts';

/** One stored message. */
export interface Stored {
  readonly seq: number;
  readonly bytes: Uint8Array;
  /** Milliseconds since 1970. */
  readonly storedAt: number;
}

/**
 * The fence around one message. A sequence alone does not fence pipelined messages: when a rival's message takes
 * the place of the first of them, the second one's expected sequence is right again and it would be stored
 * (reproduced; test/contract). So every message also names the one before it by an id that is never given twice.
 */
export interface Place {
  /** Sequence of the message before. */
  readonly after: number;
  /** Id of the message before; null for a writer's first message, which only the sequence fences. */
  readonly afterId: string | null;
  /** This message's own id, unique for ever. */
  readonly id: string;
}

/**
 * What the changelog needs of a broker: an append that is refused unless it follows a given message, and
 * reads in order. NATS and memory implement it; everything about batches is written once, above it.
 */
export interface Store {
  /** Largest message, in bytes. */
  readonly messageBytesMax: number;
  create(source: string, options: ChangelogOptions): Promise<void>;
  /** @returns null when there is no such changelog */
  status(source: string): Promise<ChangelogStatus | null>;
  list(): Promise<string[]>;
  /** @returns null when that message is not (or no longer) there */
  get(source: string, seq: number): Promise<Stored | null>;
  /**
   * Stores a message if it goes where its place says; may be called again before it resolves: order is kept.
   * @throws Fault `fenced`, `broker_unreachable`
   */
  publish(source: string, bytes: Uint8Array, place: Place): Promise<void>;
  /** Called when the connection broke: whatever was under way may or may not have been stored. */
  onBreak(broken: () => void): () => void;
  /**
   * Messages from a sequence on, in order, waiting for new ones. Ends without an error when the connection
   * broke or no sign of life came for too long: the caller looks where it stands and opens again.
   */
  follow(source: string, from: number, signal: AbortSignal): AsyncIterable<Stored>;
  /** Null where there is one copy alone. */
  readonly copies: Copies | null;
}

/** What a broker of several servers can do about copies of a changelog that are not the same. */
export interface Copies {
  /** How many there should be. @throws Fault `broker_unreachable`, as the others do */
  count(source: string): Promise<number>;
  /** Another copy counts from now on. @returns false when there is none that could */
  another(source: string): Promise<boolean>;
  /** All others are made anew of the one that counts. */
  renew(source: string): Promise<void>;
}
