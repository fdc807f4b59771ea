import type { Clock } from '@tributary/core';
import type { Engine, EngineKpi } from './engine.ts';

/** What was done for one KPI since its actor began. */
export interface KpiWork {
  /** Questions for values that were answered, and how long that took in all, ms. */
  readonly queries: number;
  readonly queryMs: number;
  /** From the newest commit of its sources until its values had it, ms; null: there was none since. */
  readonly reactionMs: number | null;
  /** Rows of what is kept of it that differed from its definition, at checks. */
  readonly differing: number;
}

/** Measures what is done for one KPI: how quick answers are, and how soon values follow a commit. How old they are is another question. */
export class Work {
  readonly #clock: Clock;
  #queries = 0;
  #queryMs = 0;
  #reactionMs: number | null = null;
  /** By source: the newest commit that was seen, µs. */
  readonly #seen = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  async query<T>(answer: () => Promise<T>): Promise<T> {
    const began = this.#clock.monotonic();
    const answered = await answer();
    this.#queries++;
    this.#queryMs += this.#clock.monotonic() - began;
    return answered;
  }

  /** Looks at every commit of the engine. @returns the function that ends it */
  follow(engine: Pick<Engine, 'listen' | 'sources'>, { tables }: Pick<EngineKpi, 'tables'>): () => void {
    const sources = new Set(tables.map(({ source }) => source));
    const look = () => {
      for (const source of sources) {
        const committedAt = engine.sources.get(source)?.place.committedAt ?? 0;
        const before = this.#seen.get(source);
        this.#seen.set(source, committedAt);
        // What stood there when looking began was taken at some time before.
        if (before !== undefined && committedAt > before)
          this.#reactionMs = Math.max(0, Math.round(this.#clock.now() - committedAt / 1_000));
      }
    };
    look();
    return engine.listen(look);
  }

  told({ differing }: Pick<EngineKpi, 'differing'>): KpiWork {
    return { queries: this.#queries, queryMs: Math.round(this.#queryMs), reactionMs: this.#reactionMs, differing };
  }
}
