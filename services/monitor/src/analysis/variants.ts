import type { Duck } from '@tributary/duckdb';
import { eventsSql, inPeriod, type Scope } from './steps.ts';

/** A way through the process that cases took, from their first event to their last. */
export interface Variant {
  readonly activities: readonly string[];
  readonly cases: number;
  /** Of all cases. */
  readonly share: number;
  /** Of the time from the first event to the last. */
  readonly medianMs: number;
}

/** The `limit` most frequent ways. Cases with an event in the period count, as a whole. */
export async function processVariants(duck: Duck, scope: Scope, limit: number): Promise<Variant[]> {
  return duck.rows<Variant>(
    `SELECT activities, count(*) AS cases, count(*) / sum(count(*)) OVER () AS share, median(d) / 1000.0 AS "medianMs"
       FROM (SELECT list(activity ORDER BY tick, source) AS activities, max(at_us) - min(at_us) AS d, bool_or(${inPeriod(scope)}) AS inside
               FROM (${eventsSql(scope)}) GROUP BY c)
      WHERE inside GROUP BY activities ORDER BY cases DESC, activities LIMIT ${limit}`,
  );
}
