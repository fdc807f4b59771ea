import { Fault } from '@tributary/core';
import type { Look, Seen } from './alerts.ts';
import { lookedAt } from './asked.ts';
import type { Engine, EngineKpi } from './engine.ts';

/**
 * Looks at the alerts of one KPI, one after the other. One that cannot be answered shows nothing new: what is about its values is stale at once, and
 * what is about its freshness when that has lasted for longer than values may be old; a worker that only starts is not late.
 */
export class Looks {
  readonly #engine: Engine;
  readonly #kpi: EngineKpi;
  /** What was complete at the last look that showed any values, or when looking began; ms since 1970. */
  #completeTo: number;

  constructor(engine: Engine, kpi: EngineKpi) {
    this.#engine = engine;
    this.#kpi = kpi;
    this.#completeTo = engine.clock.now();
  }

  async look(): Promise<Look> {
    const [engine, kpi] = [this.#engine, this.#kpi];
    try {
      if (kpi.fault) throw kpi.fault;
      const looked = await engine.store.read((duck) => lookedAt(engine, kpi, duck));
      if (looked.freshness?.completeTo) this.#completeTo = Date.parse(looked.freshness.completeTo);
      return looked;
    } catch (error) {
      if (!(error instanceof Fault) || engine.store.invalid.aborted) throw error;
      const at = engine.clock.now();
      const late = at - this.#completeTo > kpi.config.staleAfterMs;
      const stale = kpi.config.alerts.filter(({ about }) => about === 'values' || late);
      return { at, freshness: null, alerts: new Map(stale.map(({ name }): [string, Seen] => [name, 'stale'])) };
    }
  }
}
