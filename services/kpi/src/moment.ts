import type { KpiConfig } from '@tributary/config';
import { type Clock, Fault, formatLsn } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import type { Engine } from './engine.ts';
import { versionOf } from './definition.ts';
import { asOf, now, type View } from './relations.ts';
import { SourceState } from './source-state.ts';
import { formatVector, momentOf } from './vector.ts';

/** How old values are, and how old they may be. */
export interface Age {
  /** Age of what is complete, ms. */
  readonly lagMs: number;
  /** Everything that was committed up to then, on every source, is in the answer; null = not known. */
  readonly completeTo: string | null;
  /** The `freshness.target` of the definition, ms; null: there is none. */
  readonly targetMs: number | null;
  /** Are they no older than that? Null where there is no target, and of the past. */
  readonly withinTarget: boolean | null;
}

/** How far the answer is, so that anyone can compute it anew at the same place and compare. */
export interface KpiFreshness extends Age {
  readonly sources: Readonly<Record<string, { readonly lsn: string; readonly committedAt: string | null }>>;
  readonly definitionVersion: string;
  /** The highest of any row. */
  readonly revision: number;
  /** Where each source stands, in one word: what `asOf` takes. */
  readonly position: string;
  /** Columns that were sent values which their type cannot hold: these count as NULL. */
  readonly inexact: readonly string[];
}

/** Shapes and places of the sources, as of the reader's moment. */
export async function sourcesAt(engine: Engine, duck: Duck, names: ReadonlySet<string>): Promise<Map<string, SourceState>> {
  const states = new Map<string, SourceState>();
  for (const name of [...names].toSorted()) {
    if (!engine.sources.has(name))
      throw new Fault('config_invalid', `engine ${engine.name} holds no table of ${name}; apply the Kpi to have it read`);
    const state = new SourceState(name);
    await state.read(duck);
    states.set(name, state);
  }
  return states;
}

export interface Viewed {
  readonly view: View;
  /** Of the past: as someone asked for it. */
  readonly past: boolean;
  readonly completeTo: number;
  readonly position: string;
  readonly sources: KpiFreshness['sources'];
}

/** The newest moment, or one of the past. */
export async function viewed(duck: Duck, text: string | undefined, states: ReadonlyMap<string, SourceState>): Promise<Viewed> {
  const places = new Map([...states].map(([name, { place }]) => [name, place]));
  if (text === undefined) {
    const sources = [...places].map(
      ([name, { position, committedAt }]) => [name, { lsn: formatLsn(position.lsn), committedAt: isoOf(committedAt) }] as const,
    );
    const completeTo = Math.min(...[...places.values()].map(({ watermark }) => watermark));
    return { view: now, past: false, completeTo, position: formatVector(places), sources: Object.fromEntries(sources) };
  }
  const { ticks, sources } = await momentOf(duck, text, places);
  const told = [...sources].map(([name, { lsn, watermark }]) => [name, { lsn, committedAt: isoOf(watermark) }] as const);
  return {
    view: asOf((source) => ticks.get(source) ?? 0),
    past: true,
    completeTo: Math.min(...[...sources.values()].map(({ watermark }) => watermark)),
    position: [...sources]
      .map(([name, { place }]) => `${name}:${place}`)
      .toSorted()
      .join(','),
    sources: Object.fromEntries(told),
  };
}

export function freshnessOf(
  { clock }: Pick<Engine, 'clock'>,
  { completeTo, past, position, sources }: Viewed,
  rest: { config: KpiConfig; revision: number; inexact: readonly string[] },
): KpiFreshness {
  const { config, ...others } = rest;
  return { ...ageOf(config, { clock, completeTo, past }), sources, definitionVersion: versionOf(config), ...others, position };
}

/** @param completeTo µs since 1970; 0 = not known */
export function ageOf(
  { freshnessTargetMs: targetMs }: Pick<KpiConfig, 'freshnessTargetMs'>,
  { clock, completeTo, past = false }: { clock: Clock; completeTo: number; past?: boolean },
): Age {
  const lagMs = Math.max(0, Math.round(clock.now() - completeTo / 1_000));
  const withinTarget = targetMs === null || past ? null : lagMs <= targetMs;
  return { lagMs, completeTo: isoOf(completeTo), targetMs, withinTarget };
}

function isoOf(micros: number): string | null {
  return micros > 0 ? new Date(micros / 1_000).toISOString() : null;
}
