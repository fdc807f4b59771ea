import type { StoredBatch } from '@tributary/core';
import { WholeReads } from './whole-reads.ts';

export interface Taken {
  readonly batches: StoredBatch[];
  /** The last transaction, or the reading of a table in one piece, goes on in a later group. */
  readonly partial: boolean;
}

/**
 * Between the reader of a changelog and the one who applies: takes what comes, gives out groups that end at a
 * transaction end, and outside of {@link WholeReads}. A group is whatever has come together, so it is small when nothing waits (latency) and as large
 * as `groupBytes` when much does (throughput). A transaction larger than that is given out in parts.
 */
export class GroupQueue {
  readonly #groupBytes: number;
  #queue: { readonly batch: StoredBatch; readonly inside: boolean }[] = [];
  readonly #reads = new WholeReads();
  #bytes = 0;
  #wakeTaker: () => void = () => {};
  #wakeFeeder: () => void = () => {};
  #ended: { readonly error: unknown } | null = null;

  constructor(groupBytes: number) {
    this.#groupBytes = groupBytes;
  }

  /** @returns null when more may come at once, else a promise that resolves when it may */
  push(batch: StoredBatch): Promise<void> | null {
    this.#reads.pass(batch.header);
    this.#queue.push({ batch, inside: batch.header.more || this.#reads.open });
    this.#bytes += batch.bytes;
    this.#wakeTaker();
    if (this.#ended || this.#bytes <= 2 * this.#groupBytes) return null;
    return new Promise<void>((resolve) => (this.#wakeFeeder = resolve));
  }

  /** Nothing more comes: because of `error`, or for good. */
  end(error: unknown = null): void {
    this.#ended ??= { error };
    this.#wakeTaker();
    this.#wakeFeeder();
  }

  /** The next group; null when the queue has ended. @throws what it ended with */
  async take(): Promise<Taken | null> {
    const batches: StoredBatch[] = [];
    let bytes = 0;
    let partial = false;
    for (;;) {
      const next = this.#queue.shift();
      if (!next) {
        if (batches.length > 0 && !partial) return { batches, partial };
        if (this.#ended) {
          if (this.#ended.error) throw this.#ended.error;
          return null;
        }
        await new Promise<void>((resolve) => (this.#wakeTaker = resolve));
        continue;
      }
      const { batch } = next;
      partial = next.inside;
      this.#bytes -= batch.bytes;
      if (this.#bytes <= this.#groupBytes) this.#wakeFeeder();
      batches.push(batch);
      bytes += batch.bytes;
      if (bytes >= this.#groupBytes) return { batches, partial };
    }
  }
}
