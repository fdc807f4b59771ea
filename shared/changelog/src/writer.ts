import { assert, Fault, ORIGIN, type Random, type SourcePosition } from '@tributary/core';
import type { BatchDraft, ChangelogWriter, LastBatch } from './changelog.ts';
import { encodeBatch } from './codec.ts';
import { fragment } from './fragments.ts';
import type { Store } from './store.ts';
import { Unanswered } from './unanswered.ts';

export interface WriterOptions {
  readonly source: string;
  readonly last: LastBatch | null;
  /** Sequence of the last message of the stream; 0 = none yet. */
  readonly lastSeq: number;
  readonly random: Random;
}

interface Waiter {
  readonly bytes: number;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** I2, I3. Sends at once, counts what is under way, and is dead after the first refusal. */
export class Writer implements ChangelogWriter {
  readonly last: LastBatch | null;
  readonly #store: Store;
  readonly #source: string;
  readonly #unwatch: () => void;
  /** Names this writer among all there ever were. */
  readonly #nonce: string;
  /** Sequence of the last message sent (not only stored). */
  #seq: number;
  #lastId: string | null = null;
  #place: SourcePosition;
  #stateSeq: number;
  #pending = 0;
  #failure: unknown = null;
  #closed = false;
  #waiters: Waiter[] = [];
  readonly #unanswered = new Unanswered();

  constructor(store: Store, { source, last, lastSeq, random }: WriterOptions) {
    this.#store = store;
    this.#nonce = random.token(9);
    this.#source = source;
    this.last = last;
    this.#seq = lastSeq;
    this.#place = last?.header.position ?? ORIGIN;
    this.#stateSeq = last ? (last.header.state === null ? last.header.stateSeq : last.seq) : 0;
    this.#unwatch = store.onBreak(() =>
      this.#fail(new Fault('broker_unreachable', `connection lost while writing changelog ${source}`, { source })),
    );
  }

  get pendingBytes(): number {
    return this.#pending;
  }

  async append(draft: BatchDraft): Promise<number> {
    assert(!this.#closed, `changelog ${this.#source} was closed for writing`);
    if (this.#failure) throw this.#failure;
    const message = encodeBatch(draft, this.#place, draft.header.state === null ? this.#stateSeq : 0);
    const messages = fragment(message, this.#store.messageBytesMax);
    const sent = messages.map((bytes) => this.#send(bytes));
    const seq = this.#seq;
    this.#place = draft.header.position;
    if (draft.header.state !== null) this.#stateSeq = seq;
    await this.#unanswered.wait(Promise.all(sent));
    return seq;
  }

  async #send(bytes: Uint8Array): Promise<void> {
    this.#pending += bytes.length;
    const after = this.#seq++;
    const place = { after, afterId: this.#lastId, id: `${this.#nonce}.${after}` };
    this.#lastId = place.id;
    try {
      await this.#store.publish(this.#source, bytes, place);
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#pending -= bytes.length;
      this.#wake();
    }
    // Also when only an earlier message was refused: this one was then refused or never had a place.
    if (this.#failure) throw this.#failure;
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#unwatch();
    this.#unanswered.fail(this.#failure);
    this.#wake();
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (this.#failure) waiter.reject(this.#failure);
      else if (this.#pending <= waiter.bytes) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }

  belowPending(bytes: number): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure as Error);
    if (this.#pending <= bytes) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiters.push({ bytes, resolve, reject }));
  }

  async close(): Promise<void> {
    this.#closed = true;
    try {
      await this.belowPending(0);
    } catch {
      // Whoever appended has been told already.
    }
    this.#unwatch();
  }
}
