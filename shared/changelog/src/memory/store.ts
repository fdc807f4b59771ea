import { type Clock, Fault, systemClock } from '@tributary/core';
import type { ChangelogStatus } from '../changelog.ts';
import type { Place, Store, Stored } from '../store.ts';

interface Stream {
  messages: Stored[];
  lastSeq: number;
  lastId: string;
  grown: Set<() => void>;
}

/**
 * The twin of the broker: same rules, no I/O. `lose` and `trim` do what a broker can do to a stream,
 * `breakConnection` what a network can.
 */
export class MemoryStore implements Store {
  readonly messageBytesMax: number;
  readonly copies = null;
  readonly #clock: Pick<Clock, 'now'>;
  readonly #streams = new Map<string, Stream>();
  readonly #broken = new Set<() => void>();

  constructor(messageBytesMax = 1024 * 1024, clock: Pick<Clock, 'now'> = systemClock) {
    this.messageBytesMax = messageBytesMax;
    this.#clock = clock;
  }

  async create(source: string): Promise<void> {
    if (!this.#streams.has(source)) this.#streams.set(source, { messages: [], lastSeq: 0, lastId: '', grown: new Set() });
  }

  async status(source: string): Promise<ChangelogStatus | null> {
    const stream = this.#streams.get(source);
    if (!stream) return null;
    const bytes = stream.messages.reduce((sum, m) => sum + m.bytes.length, 0);
    const firstSeq = stream.messages[0]?.seq ?? stream.lastSeq + 1;
    return { firstSeq, lastSeq: stream.lastSeq, messages: stream.messages.length, bytes };
  }

  async list(): Promise<string[]> {
    return [...this.#streams.keys()].sort();
  }

  async get(source: string, seq: number): Promise<Stored | null> {
    const stream = this.#streams.get(source);
    return (stream && messageAt(stream, seq)) ?? null;
  }

  async publish(source: string, bytes: Uint8Array, { after, afterId, id }: Place): Promise<void> {
    const stream = this.#streams.get(source);
    if (!stream) throw new Fault('broker_unreachable', `no stream for ${source}`, { source });
    if (stream.lastSeq !== after || (afterId !== null && stream.lastId !== afterId)) {
      throw new Fault('fenced', `changelog ${source} stands at ${stream.lastSeq}, not ${after}`, { source, after });
    }
    stream.lastSeq++;
    stream.lastId = id;
    stream.messages.push({ seq: stream.lastSeq, bytes, storedAt: this.#clock.now() });
    for (const grown of stream.grown) grown();
  }

  onBreak(broken: () => void): () => void {
    this.#broken.add(broken);
    return () => this.#broken.delete(broken);
  }

  async *follow(source: string, from: number, signal: AbortSignal): AsyncIterable<Stored> {
    const stream = this.#streams.get(source);
    if (!stream) return;
    let next = from;
    let broken = false;
    let wake = () => {};
    const poke = () => wake();
    const snap = () => {
      broken = true;
      wake();
    };
    stream.grown.add(poke);
    this.#broken.add(snap);
    signal.addEventListener('abort', poke);
    try {
      while (!signal.aborted && !broken) {
        const message = messageAt(stream, Math.max(next, stream.messages[0]?.seq ?? 0));
        if (message) {
          next = message.seq + 1;
          yield message;
        } else {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
    } finally {
      stream.grown.delete(poke);
      this.#broken.delete(snap);
      signal.removeEventListener('abort', poke);
    }
  }

  /** The broker loses the newest messages, as after a crash before fsync. */
  lose(source: string, afterSeq: number): void {
    const stream = this.#streams.get(source) as Stream;
    stream.messages = stream.messages.filter((m) => m.seq <= afterSeq);
    stream.lastSeq = afterSeq;
    this.breakConnection();
  }

  /** Retention removes the oldest messages. */
  trim(source: string, beforeSeq: number): void {
    const stream = this.#streams.get(source) as Stream;
    stream.messages = stream.messages.filter((m) => m.seq >= beforeSeq);
  }

  breakConnection(): void {
    for (const broken of this.#broken) broken();
  }
}

/** Sequences have no holes, so the place in the list is known. */
function messageAt({ messages }: Stream, seq: number): Stored | undefined {
  return messages[seq - (messages[0]?.seq ?? 0)];
}
