import type { FindingKind } from '@tributary/config';
import type { Clock } from '@tributary/core';
import type { Finding } from './finding.ts';

/** What one look at what is learned found. */
export interface UsualLook {
  /** What was looked for. */
  readonly kinds: readonly FindingKind[];
  readonly findings: readonly Finding[];
  /** By the clock. */
  readonly nowUs: number;
}

/**
 * The newest look at what is learned of a process: a look sorts all events, so whoever asks takes what the watch saw, as long as the
 * watch is about to look again.
 */
export class Usual {
  readonly #clock: Clock;
  #look: UsualLook | null = null;
  /** On the monotonic clock. */
  #untilMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @param nextMs the next look is there by then, from now on */
  saw(look: UsualLook, nextMs: number): void {
    this.#look = look;
    this.#untilMs = this.#clock.monotonic() + nextMs;
  }

  /** Null: there was none yet. */
  get newest(): UsualLook | null {
    return this.#look;
  }

  /** Null: there was none yet, or the next one is overdue. */
  lately(): UsualLook | null {
    return this.#clock.monotonic() <= this.#untilMs ? this.#look : null;
  }
}
