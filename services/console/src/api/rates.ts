import type { RateHistory } from '../wire.ts';

interface Counter {
  total: number;
  at: number;
}

/**
 * Turns counters that actors tell of into rates, one sample a tick, kept for a bounded time.
 *
 * A counter that falls was restarted from zero, so what it shows now is what it counted since.
 * A counter that nobody told of since the last tick gives null: a gap in the chart, not a false zero.
 * Costs 8 bytes × `samplesMax` × series.
 */
export class Rates {
  readonly #samplesMax: number;
  readonly #at: number[] = [];
  readonly #series = new Map<string, (number | null)[]>();
  readonly #told = new Map<string, Counter>();
  readonly #sampled = new Map<string, Counter>();
  #latest: Record<string, number | null> = {};

  constructor(samplesMax: number) {
    this.#samplesMax = samplesMax;
  }

  /** @param at when the worker told it, milliseconds since 1970 */
  tell(name: string, total: number, at: number): void {
    this.#told.set(name, { total, at });
  }

  /** Takes one sample of every series. @param at milliseconds since 1970 */
  tick(at: number): void {
    this.#latest = {};
    for (const [name, now] of this.#told) {
      const rate = rateBetween(this.#sampled.get(name), now);
      this.#sampled.set(name, now);
      this.#latest[name] = rate;
      if (!this.#series.has(name))
        this.#series.set(
          name,
          this.#at.map(() => null),
        );
    }
    this.#at.push(at);
    for (const [name, samples] of this.#series) samples.push(this.#latest[name] ?? null);
    if (this.#at.length <= this.#samplesMax) return;
    this.#at.shift();
    for (const [name, samples] of this.#series) {
      samples.shift();
      if (samples.every((sample) => sample === null) && !this.#told.has(name)) this.#series.delete(name);
    }
  }

  /** Lets go of a series that is no longer told of; its past stays until it has left the window. */
  forget(name: string): void {
    this.#told.delete(name);
    this.#sampled.delete(name);
  }

  /** Rates of the last tick. */
  latest(): Readonly<Record<string, number | null>> {
    return this.#latest;
  }

  history(): RateHistory {
    return {
      at: [...this.#at],
      series: Object.fromEntries([...this.#series].map(([name, samples]) => [name, [...samples]])),
    };
  }
}

function rateBetween(before: Counter | undefined, now: Counter): number | null {
  if (!before || now.at <= before.at) return null;
  const grown = now.total >= before.total ? now.total - before.total : now.total;
  return Math.round((grown * 10_000) / (now.at - before.at)) / 10;
}
