import type { Duck } from '@tributary/duckdb';
import { eventsSql, inPeriod, type Scope } from './steps.ts';

export interface ProcessCase {
  readonly case: string;
  readonly events: number;
  /** ISO 8601. */
  readonly first: string;
  readonly last: string;
  readonly durationMs: number;
  readonly activity: string;
}

/** ISO 8601 with microseconds. */
export const isoSql = (us: string) => `strftime(make_timestamp(${us}), '%Y-%m-%dT%H:%M:%S.%fZ')`;

/** The cases with an event in the period, newest first; `activity` is the last one that happened. */
export async function processCases(duck: Duck, scope: Scope, limit: number): Promise<ProcessCase[]> {
  return duck.rows<ProcessCase>(
    `SELECT c AS "case", count(*) AS events, ${isoSql('min(at_us)')} AS first, ${isoSql('max(at_us)')} AS last,
            (max(at_us) - min(at_us)) / 1000.0 AS "durationMs", arg_max(activity, (tick, source)) AS activity
       FROM (${eventsSql(scope)}) GROUP BY c HAVING bool_or(${inPeriod(scope)}) ORDER BY max(at_us) DESC, c LIMIT ${limit}`,
  );
}
