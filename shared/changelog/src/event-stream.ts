/** One message for programs outside. */
export interface EventMessage {
  readonly subject: string;
  /** Unique for ever among what this stream is to hold once. */
  readonly id: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array | string;
}

export interface EventStreamOptions {
  /** With `*` for a word. */
  readonly subject: string;
  readonly replicas: number;
  /** 0 = for ever. */
  readonly maxAgeMs: number;
  /** 0 = unlimited. */
  readonly maxBytes: number;
}

/**
 * A stream that one projection writes for programs outside, fenced as changelogs are (I2, I3): every message names the
 * sequence and the id of the one before it. So the stream's own last message says what was sent, and nothing else need
 * be asked. Beyond that, the broker drops a message whose id it has seen within two minutes: then it is where a rival
 * with the same work put it, which is where this writer would have.
 */
export interface EventStreamWriter {
  /** Largest body, in bytes. */
  readonly bodyBytesMax: number;
  /** Sequence of the last message when this writer was opened; 0 = none ever. */
  readonly lastSeq: number;
  /** Headers of that message, by lower-case name; null = there is none, or it is gone. */
  readonly lastHeaders: ReadonlyMap<string, string> | null;
  /**
   * Sends at once, pipelined, in order. @returns the sequence, once the broker has stored it
   * @throws Fault `fenced`, `broker_unreachable`
   */
  append(message: EventMessage): Promise<number>;
  /** Nothing more is sent. */
  close(): void;
}

export interface EventStreams {
  /**
   * Makes the stream where it is missing, and opens it for writing.
   * @throws Fault `config_invalid` when its subjects belong to another stream
   */
  open(name: string, options: EventStreamOptions): Promise<EventStreamWriter>;
}
