import type { ProcessConfig } from '@tributary/config';
import { type Duck, duckLiteral } from '@tributary/duckdb';
import { readPlaces } from '../live/place.ts';

/** How far a look sees. */
export interface Sight {
  /** By the clock, µs since 1970. */
  readonly nowUs: number;
  /** Watermarks by source, µs since 1970. */
  readonly marks: ReadonlyMap<string, number>;
  /** Types of objects whose table a snapshot reads: what the stream did not tell of them is known at its end. */
  readonly reading: ReadonlySet<string>;
}

export async function sightOf(duck: Duck, { objects }: ProcessConfig, nowUs: number): Promise<Sight> {
  const marks = new Map([...(await readPlaces(duck))].map(([source, { watermark }]) => [source, watermark]));
  const running = await duck.rows<{ source: string; table: string }>(
    'SELECT source, "table" FROM snapshot WHERE generation IS NOT NULL',
  );
  const reading = objects.filter((type) => running.some(({ source, table }) => type.source === source && type.table === table));
  return { nowUs, marks, reading: new Set(reading.map(({ name }) => name)) };
}

/** Why it is not known yet whether something did not happen up to a time; null: it is known. */
export function lagging(
  { nowUs, marks, reading }: Sight,
  { source, object }: { source: string; object: string },
  untilUs: number,
): string | null {
  if (reading.has(object)) return `source ${source} reads the table of ${object} again`;
  const mark = marks.get(source) ?? 0;
  if (mark > untilUs) return null;
  return mark === 0 ? `source ${source} was not read yet` : `source ${source} lags ${Math.round((nowUs - mark) / 1e6)} s`;
}

/** SQL of the cases that wait for nothing: they are done, or their root is gone. */
export function overCases({ root }: ProcessConfig): string {
  return `SELECT "case" FROM followed WHERE done_us IS NOT NULL UNION ALL SELECT key FROM object WHERE object = ${duckLiteral(root)} AND NOT alive`;
}

/** A share as people say it: `99.5 %`. */
export function shareText(share: number): string {
  return `${Number((share * 100).toFixed(3))} %`;
}
