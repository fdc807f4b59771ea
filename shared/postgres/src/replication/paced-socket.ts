import type { Readable } from 'node:stream';

/** Data events this close together (ms) mean that the sender has more than we take. */
const BUSY_GAP_MS = 0.5;
/** That many in a row, and reads are coalesced. */
const BUSY_STREAK = 8;
const COALESCE_MS = 1;

/**
 * Takes bytes from a socket. While the sender is ahead of us the socket rests for a millisecond between reads, so both sides wake up once for many
 * messages instead of once for each (measured: twice the throughput at a tenth of the CPU).
 *
 * A stream goes on gathering chunks while it rests, and gives them out one by one. All of them are taken before it rests again: with a rest
 * behind each, small transactions fell behind by up to 140 ms at a rate of 1,000 a second, which is far below what can be read.
 */
export class PacedSocket {
  readonly #stream: Readable;
  #streak = 0;
  #lastAt = 0;
  #held = false;
  #resting = false;

  /** @param take gets every chunk, synchronously; must not throw */
  constructor(stream: Readable, take: (chunk: Buffer) => void) {
    this.#stream = stream;
    stream.on('data', (chunk: Buffer) => {
      take(chunk);
      if (stream.readableLength === 0) this.#pace();
    });
  }

  /** Takes no more until {@link release}. */
  hold(): void {
    this.#held = true;
    this.#stream.pause();
  }

  release(): void {
    this.#held = false;
    if (!this.#resting) this.#stream.resume();
  }

  #pace(): void {
    const now = performance.now();
    this.#streak = now - this.#lastAt < BUSY_GAP_MS ? this.#streak + 1 : 0;
    this.#lastAt = now;
    if (this.#streak < BUSY_STREAK || this.#resting) return;
    this.#resting = true;
    this.#stream.pause();
    setTimeout(() => {
      // The pause itself must not count as idleness.
      this.#lastAt = performance.now();
      this.#resting = false;
      if (!this.#held) this.#stream.resume();
    }, COALESCE_MS);
  }
}
