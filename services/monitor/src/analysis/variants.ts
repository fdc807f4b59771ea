import type { KeptSteps } from './kept-steps.ts';
import { inPeriod, type Scope } from './scope.ts';
import { overSteps } from './steps.ts';

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
export function processVariants(steps: KeptSteps, scope: Scope, limit: number): Promise<Variant[]> {
  const period = scope.fromUs !== undefined || scope.toUs !== undefined;
  return overSteps(steps, scope, (duck, { tables }) => {
    const inside = period ? `WHERE c IN (SELECT c FROM ${tables.step} WHERE ${inPeriod(scope)})` : '';
    return duck.rows<Variant>(
      `WITH ways AS (SELECT min(c) AS c, count(*) AS cases, count(*) / sum(count(*)) OVER () AS share, median(last_us - first_us) / 1000.0 AS "medianMs"
           FROM ${tables.way} ${inside} GROUP BY v, w)
       SELECT list(n.activity ORDER BY s.nth) AS activities, any_value(cases) AS cases, any_value(share) AS share, any_value("medianMs") AS "medianMs"
         FROM ways JOIN ${tables.step} s USING (c) JOIN ${tables.activity} n ON n.id = s.a GROUP BY c ORDER BY 2 DESC, 1 LIMIT ${limit}`,
    );
  });
}
