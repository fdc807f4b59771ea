import { assert, type Lsn } from '@tributary/core';

/** More batches than this are never under way or waiting to be old enough. */
const PENDING_MAX = 2_000_000;
/** Stored batches this close together (ms) are remembered as one. */
const GRAIN_MS = 100;

interface Sent {
  restart: Lsn;
  sentAt: number;
  /** When the broker said that it has it; null = not yet. */
  storedAt: number | null;
}

/**
 * Answers one question: up to which position may PostgreSQL forget?
 *
 * Batches are sent in order but acknowledged out of order, so the answer is the end of the longest stored prefix,
 * not the newest stored batch:
 *
 *   sent    B1  B2  B3  B4
 *   stored  yes yes no  yes
 *   safe        ^ end of B2
 *
 * And because a broker acknowledges before its disk does, a batch counts only once the broker is known to have had it
 * for `delayMs`. Time alone does not tell: a broker may have crashed and lost it while this process saw nothing of it (it
 * was stopped, or idle). What tells is a later batch, sent `delayMs` after this one was acknowledged, and stored: the broker
 * stores it only behind this one. Heartbeats see to it that there always is a later batch.
 *
 * I4 `safe` never moves back.   I5 `safe` never passes a batch that is not stored. Pure. All times are of one clock that
 * neither jumps nor goes back.
 */
export class ConfirmedPrefix {
  readonly #delayMs: number;
  #sent: Sent[] = [];
  #head = 0;
  #safe: Lsn;
  /** The broker had everything before a batch that was sent then. */
  #provenAt = Number.NEGATIVE_INFINITY;

  constructor(delayMs: number, start: Lsn) {
    this.#delayMs = delayMs;
    this.#safe = start;
  }

  /** A batch goes out, `sentAt` ms. @returns the function to call when it is stored, with the time (ms) */
  sent(restart: Lsn, sentAt: number): (storedAt: number) => void {
    const entry: Sent = { restart, sentAt, storedAt: null };
    this.#sent.push(entry);
    assert(this.#sent.length - this.#head <= PENDING_MAX, 'more batches under way than the reader may send');
    return (storedAt) => {
      assert(entry.storedAt === null, 'a batch was stored twice');
      entry.storedAt = storedAt;
      if (entry.sentAt > this.#provenAt) this.#provenAt = entry.sentAt;
    };
  }

  safe(): Lsn {
    while (this.#head < this.#sent.length) {
      const entry = this.#sent[this.#head] as Sent;
      if (entry.storedAt === null || (this.#delayMs > 0 && this.#provenAt - entry.storedAt < this.#delayMs)) break;
      if (entry.restart > this.#safe) this.#safe = entry.restart;
      this.#head++;
    }
    this.#compact();
    return this.#safe;
  }

  /** Merges neighbours that were stored at nearly the same time: what remains is bounded by delay / grain. */
  #compact(): void {
    if (this.#sent.length < 1_024) return;
    const kept: Sent[] = [];
    for (let i = this.#head; i < this.#sent.length; i++) {
      const entry = this.#sent[i] as Sent;
      const before = kept.at(-1);
      if (before && before.storedAt !== null && entry.storedAt !== null && entry.storedAt - before.storedAt < GRAIN_MS) {
        // The later time for both: waiting longer is always safe.
        kept[kept.length - 1] = { ...entry, storedAt: Math.max(before.storedAt, entry.storedAt) };
      } else {
        kept.push(entry);
      }
    }
    this.#sent = kept;
    this.#head = 0;
  }
}
