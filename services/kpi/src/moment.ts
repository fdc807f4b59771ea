import { Fault, formatLsn } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import type { Engine } from './engine.ts';
import { asOf, now, type View } from './relations.ts';
import { SourceState } from './source-state.ts';
import { formatVector, momentOf } from './vector.ts';

/** How far the answer is, so that anyone can compute it anew at the same place and compare. */
export interface KpiFreshness {
  /** Age of what is complete, ms. */
  readonly lagMs: number;
  readonly sources: Readonly<Record<string, { readonly lsn: string; readonly committedAt: string | null }>>;
  /** Everything that was committed up to then, on every source, is in the answer; null = not known. */
  readonly completeTo: string | null;
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
    return { view: now, completeTo, position: formatVector(places), sources: Object.fromEntries(sources) };
  }
  const { ticks, sources } = await momentOf(duck, text, places);
  const told = [...sources].map(([name, { lsn, watermark }]) => [name, { lsn, committedAt: isoOf(watermark) }] as const);
  return {
    view: asOf((source) => ticks.get(source) ?? 0),
    completeTo: Math.min(...[...sources.values()].map(({ watermark }) => watermark)),
    position: [...sources]
      .map(([name, { place }]) => `${name}:${place}`)
      .toSorted()
      .join(','),
    sources: Object.fromEntries(told),
  };
}

export function freshnessOf(
  engine: Engine,
  { completeTo, position, sources }: Viewed,
  rest: { version: string; revision: number; inexact: readonly string[] },
): KpiFreshness {
  const lagMs = Math.max(0, Math.round(engine.clock.now() - completeTo / 1_000));
  const { version: definitionVersion, ...others } = rest;
  return { lagMs, sources, completeTo: isoOf(completeTo), definitionVersion, ...others, position };
}

function isoOf(micros: number): string | null {
  return micros > 0 ? new Date(micros / 1_000).toISOString() : null;
}
