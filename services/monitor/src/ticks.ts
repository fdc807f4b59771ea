/**
 * Gives the events of one source their place in the order of a process: the time of an event (µs since 1970), but at least
 * one more than the tick before it.
 *
 * M1 Ticks rise strictly in the order in which they are asked for, whatever the times say.
 * A transaction of n events moves its last one n µs at most; far below the skew of any two databases' clocks.
 */
export class Ticks {
  #last: number;

  /** @param last the newest tick given, as stored; 0 = none */
  constructor(last = 0) {
    this.#last = last;
  }

  get last(): number {
    return this.#last;
  }

  next(atUs: number): number {
    return this.take(atUs, 1);
  }

  /** For `n` events at one time. @returns the first of so many ticks in a row */
  take(atUs: number, n: number): number {
    const first = Math.max(atUs, this.#last + 1);
    if (n > 0) this.#last = first + n - 1;
    return first;
  }
}
