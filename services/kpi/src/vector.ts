import { Fault, formatLsn, formatSourcePosition, parseSourcePosition, type SourcePosition } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { type Place, sortable } from './source-state.ts';

/** Where each source of an engine stands, as one word: `crm:0/1A2B+3,shop:0/16B3748+1`. */
export function formatVector(places: ReadonlyMap<string, Place>): string {
  return [...places]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([source, { position }]) => `${source}:${formatSourcePosition(position)}`)
    .join(',');
}

/** The moment that an as-of asks for: a tick for every source. */
export interface Moment {
  readonly ticks: ReadonlyMap<string, number>;
  readonly sources: ReadonlyMap<string, { readonly lsn: string; readonly place: string; readonly watermark: number }>;
}

/**
 * Finds a moment of the past in the state.
 * @param text a position vector, a position where there is one source, or a time (ISO 8601): what was complete then
 * @throws Fault `outside_history` where history does not reach back that far, or has not come that far
 */
export async function momentOf(duck: Duck, text: string, places: ReadonlyMap<string, Place>): Promise<Moment> {
  const wanted = conditions(text, [...places.keys()]);
  const ticks = new Map<string, number>();
  const sources = new Map<string, { lsn: string; place: string; watermark: number }>();
  for (const [source, place] of places) {
    const [condition, value] = wanted(source);
    const [row] = await duck.rows<{ tick: number; lsn: string; watermark: number; place: string }>(
      `SELECT tick, lsn, watermark, place FROM _meta.moments WHERE source = $1 AND ${condition} ORDER BY tick DESC LIMIT 1`,
      [source, value],
    );
    if (!row || row.tick < place.floor)
      throw new Fault('outside_history', `the history of ${source} does not reach back to ${text}`, {
        source,
        parameter: 'asof',
      });
    ticks.set(source, row.tick);
    sources.set(source, { lsn: row.lsn, place: `${row.lsn}+${Number(row.place.split('+')[1])}`, watermark: row.watermark });
  }
  return { ticks, sources };
}

function conditions(text: string, sources: readonly string[]): (source: string) => readonly [string, string] {
  const time = /^\d{4}-\d\d-\d\d/.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isNaN(time)) return () => ['watermark <= $2::BIGINT', String(time * 1_000)];
  const named = new Map<string, string>();
  for (const part of text.split(',')) {
    const at = part.indexOf(':');
    const source = at === -1 && sources.length === 1 ? (sources[0] as string) : part.slice(0, Math.max(0, at));
    named.set(source.trim(), sortable(parsed(part.slice(at + 1), text)));
  }
  return (source) => {
    const place = named.get(source);
    if (place === undefined)
      throw new Fault('outside_history', `"${text}" names no position of ${source}. Sources: ${sources.join(', ')}`, {
        parameter: 'asof',
      });
    return ['place <= $2', place];
  };
}

function parsed(text: string, whole: string): SourcePosition {
  try {
    return parseSourcePosition(text);
  } catch (error) {
    const example = `shop:${formatLsn(0x16b3748n)}`;
    throw new Fault(
      'outside_history',
      `"${whole}" is no time and no position vector such as ${example}`,
      { parameter: 'asof' },
      { cause: error },
    );
  }
}
