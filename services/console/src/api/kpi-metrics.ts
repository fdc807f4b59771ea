import { askOne, type Bus, type Clock, Fault, type Kv } from '@tributary/core';
import type { Sample } from '@tributary/ops';
import { kpiNames } from './kpis.ts';

/** A KPI that does not answer for so long is left out of a scrape. */
const SCRAPE_IDLE_MS = 900;

interface Shown {
  /** Of workers of this version. */
  readonly work?: {
    readonly queries: number;
    readonly queryMs: number;
    readonly reactionMs: number | null;
    readonly differing: number;
  };
  /** Null while it cannot be answered. */
  readonly freshness: { readonly lagMs: number; readonly targetMs: number | null } | null;
  readonly definition: { readonly kind: string; readonly time: { readonly grains: readonly string[] } | null };
  readonly access: object | null;
}

interface Told {
  readonly rows: readonly { readonly values?: Readonly<Record<string, unknown>> }[];
}

/**
 * Every KPI as gauges: how old its values are, how old they may be, and the values of the bucket that now is in, for each grain, over all dimensions.
 * A KPI that cannot be answered now has none; one of the short form, and one with `access` (whoever scrapes has no claims), has no values.
 */
export async function kpiSamples({ bus, kv, clock }: { bus: Bus; kv: Kv; clock: Clock }): Promise<Sample[]> {
  const names = await kpiNames({ kv });
  return (await Promise.all(names.map((kpi) => samplesOf(bus, kpi, clock.now())))).flat();
}

async function samplesOf(bus: Bus, kpi: string, now: number): Promise<Sample[]> {
  const ask = <T>(what: string, question: object) =>
    askOne<T>(bus, `tributary.kpi.${kpi}.${what}`, { ...question, reader: 'local' }, { idleMs: SCRAPE_IDLE_MS });
  try {
    const { definition, access, freshness, work } = await ask<Shown>('show', {});
    if (!freshness) return [];
    const samples: Sample[] = [{ name: 'tributary_kpi_lag_seconds', labels: { kpi }, value: freshness.lagMs / 1_000 }];
    const { targetMs } = freshness;
    if (targetMs !== null)
      samples.push({ name: 'tributary_kpi_freshness_target_seconds', labels: { kpi }, value: targetMs / 1_000 });
    if (work)
      for (const [name, value] of [
        ['tributary_kpi_reaction_seconds', work.reactionMs === null ? null : work.reactionMs / 1_000],
        ['tributary_kpi_queries_total', work.queries],
        ['tributary_kpi_query_seconds_total', work.queryMs / 1_000],
        ['tributary_kpi_differences_total', work.differing],
      ] as const)
        samples.push({ name, labels: { kpi }, value });
    if (definition.kind !== 'measures' || access !== null) return samples;
    const within = { from: new Date(now).toISOString(), to: new Date(now + 1).toISOString() };
    const questions = definition.time?.grains.map((grain) => ({ grain, fill: 'empty', ...within })) ?? [{}];
    for (const question of questions) {
      const { rows } = await ask<Told>('values', { ...question, by: [] });
      const grain = 'grain' in question ? question.grain : '';
      for (const [measure, value] of Object.entries(rows[0]?.values ?? {}))
        samples.push({
          name: 'tributary_kpi_value',
          labels: { kpi, measure, grain },
          value: value === null ? null : Number(value),
        });
    }
    return samples;
  } catch (error) {
    if (error instanceof Fault) return [];
    throw error;
  }
}
