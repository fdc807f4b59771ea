import type { Clock } from '@tributary/core';

/** A pause that can be cut short; a call for it that comes while nobody pauses is remembered. */
export class Rest {
  readonly #clock: Clock;
  #called = false;
  #end: (() => void) | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Ends the pause, or the next one before it begins. */
  call(): void {
    if (this.#end) this.#end();
    else this.#called = true;
  }

  /** Resolves after `ms`, when called, or when `signal` aborts. Road not taken: `AbortSignal.any`, which keeps what it is made from in Node 20. */
  async take(ms: number, signal: AbortSignal): Promise<void> {
    const called = this.#called;
    this.#called = false;
    if (called || signal.aborted) return;
    const cut = new AbortController();
    const end = () => cut.abort(new Error('called'));
    this.#end = end;
    signal.addEventListener('abort', end, { once: true });
    try {
      await this.#clock.sleep(ms, cut.signal).catch(() => {
        // Called: that is what ends a rest early.
      });
    } finally {
      signal.removeEventListener('abort', end);
      this.#end = null;
    }
  }
}
