import type { Clock, Random } from '@tributary/core';
import type { SourceSession } from './database.ts';
import type { Stream } from './stream.ts';

interface HeartOptions {
  readonly session: SourceSession;
  readonly stream: Stream;
  readonly random: Random;
  readonly fail: (error: unknown) => void;
}

/** Writes logical messages into the WAL: they move the watermark when nothing else commits, and mark barriers. */
export class Heart {
  readonly #options: HeartOptions;
  #beating: Promise<void> | null = null;
  #again = false;

  constructor(options: HeartOptions) {
    this.#options = options;
  }

  /** One heartbeat soon; many callers share one. */
  beat(): void {
    if (this.#beating) {
      this.#again = true;
      return;
    }
    this.#beating = this.#emit('beat').then(() => {
      this.#beating = null;
      if (!this.#again) return;
      this.#again = false;
      this.beat();
    }, this.#options.fail);
  }

  /** Resolves with the sequence of a batch that covers everything committed before the call, once it is stored. */
  async pass(): Promise<number> {
    const { random, stream } = this.#options;
    const token = `barrier ${random.token(16)}`;
    const heard = stream.heard(token);
    await this.#emit(token);
    return heard;
  }

  async run(everyMs: number, clock: Clock, signal: AbortSignal): Promise<void> {
    const { stream } = this.#options;
    let seen = -1;
    while (!signal.aborted) {
      if (stream.commits === seen || seen === -1) this.beat();
      seen = stream.commits;
      await clock.sleep(everyMs, signal);
    }
  }

  #emit(content: string): Promise<void> {
    return this.#options.session.emit(content);
  }
}
