import { duckLiteral } from '@tributary/duckdb';

/** Which part of a process is looked at. */
export interface Scope {
  /** Microseconds since 1970; an event counts when it is not before. */
  readonly fromUs?: number;
  /** An event counts when it is before. */
  readonly toUs?: number;
  /** Type of object whose life is the case; default: the root. */
  readonly object?: string;
}

/**
 * SQL of the events of every case: `(c, activity, at_us, tick, source)`. An event of an object-centric log that concerns
 * several objects of the type is an event in the case of each.
 */
export function eventsSql({ object }: Scope): string {
  const type = object === undefined ? null : duckLiteral(object);
  const own =
    type === null
      ? `SELECT "case" AS c, * FROM event WHERE "case" IS NOT NULL`
      : `SELECT key AS c, * FROM event WHERE object = ${type}`;
  const related = type === null ? 'event."case" IS NOT NULL AND r.object = event.object' : `r.object = ${type}`;
  return `SELECT c, activity, at_us, tick, source FROM (${own})
    UNION ALL SELECT r.key, activity, at_us, tick, source FROM event JOIN relation r USING (source, tick)
     WHERE ${related} AND (r.object <> event.object OR r.key <> event.key)`;
}

/** SQL condition of a period over `at_us`. */
export function inPeriod({ fromUs, toUs }: Scope): string {
  const from = fromUs === undefined ? [] : [`at_us >= ${Math.round(fromUs)}`];
  const to = toUs === undefined ? [] : [`at_us < ${Math.round(toUs)}`];
  return [...from, ...to].join(' AND ') || 'true';
}
