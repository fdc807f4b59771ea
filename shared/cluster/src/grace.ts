import type { Clock } from '@tributary/core';

/** What a step that is under way when its actor is told to stop may still take, ms. */
const GRACE_MS = 250;

/**
 * How an actor ends in good time, whatever it is doing: it begins nothing new once `stop` aborts, a step that is under way
 * may still end by itself, and what takes longer than {@link GRACE_MS} is cut off, as a crash would. What is no step is cut
 * off at once.
 */
export class Grace {
  readonly #stop: AbortSignal;
  readonly #clock: Clock;
  readonly #cut = new AbortController();
  #steps = 0;

  constructor(stop: AbortSignal, clock: Clock) {
    this.#stop = stop;
    this.#clock = clock;
    stop.addEventListener('abort', this.#stopping, { once: true });
    if (stop.aborted) this.#stopping();
  }

  /** Aborts with the stop's reason, when what still runs must end at once. */
  get cut(): AbortSignal {
    return this.#cut.signal;
  }

  /** Something that is worth the grace: work that would have to be done again. */
  async step<T>(work: () => Promise<T>): Promise<T> {
    this.#steps++;
    try {
      return await work();
    } finally {
      this.#steps--;
      if (this.#stop.aborted && this.#steps === 0) this.#end();
    }
  }

  /** The actor has ended: `stop`, which outlives it, lets go of it. */
  forget(): void {
    this.#stop.removeEventListener('abort', this.#stopping);
  }

  readonly #stopping = (): void => {
    if (this.#steps === 0) this.#end();
    else void this.#clock.sleep(GRACE_MS).then(() => this.#end());
  };

  #end(): void {
    this.#cut.abort(this.#stop.reason);
  }
}
