import { isoMicros } from '@tributary/core';
import type { KeptSteps } from './kept-steps.ts';
import type { Scope } from './scope.ts';
import { overSteps } from './steps.ts';

/** How many cases stood after each activity, at times that are equally far from each other. */
export interface WorkInProgress {
  /** ISO 8601. */
  readonly times: readonly string[];
  /** Cases at each time, the most first. */
  readonly activities: readonly { readonly activity: string; readonly cases: readonly number[] }[];
}

/**
 * A case stands after an event until the next one; after the last one only while it goes on. From the first event, or the beginning
 * of the period, to its end, or to now.
 * @param buckets stretches between the times
 */
export function processWip(steps: KeptSteps, scope: Scope, buckets: number): Promise<WorkInProgress> {
  return overSteps(steps, scope, async (duck, { asOfUs }) => {
    const [span] = await duck.rows<{ first: number | null; last: number | null }>(
      'SELECT min(at_us) AS first, max(at_us) AS last FROM stepped',
    );
    const from = scope.fromUs ?? span?.first ?? null;
    const to = scope.toUs ?? asOfUs ?? span?.last ?? null;
    if (from === null || to === null || to < from) return { times: [], activities: [] };
    const width = Math.max(1, Math.ceil((to - from) / buckets));
    // The first time that is not before the moment.
    const index = (us: string) => `greatest(0, ceil((${us} - ${from}) / ${width}))::BIGINT`;
    const changes = await duck.rows<{ activity: string; bucket: number; delta: number }>(
      `WITH stay AS (SELECT activity, ${index('at_us')} AS "begin", CASE WHEN NOT last THEN ${index('next_us')}
           WHEN activity NOT IN (SELECT activity FROM final) AND ${asOfUs !== null} THEN ${buckets + 1} ELSE 0 END AS "end" FROM stepped)
       SELECT activity, bucket, sum(delta)::BIGINT AS delta FROM (
         SELECT activity, "begin" AS bucket, 1 AS delta FROM stay WHERE "begin" < "end"
         UNION ALL SELECT activity, "end", -1 FROM stay WHERE "begin" < "end")
       WHERE bucket <= ${buckets} GROUP BY ALL ORDER BY activity, bucket`,
    );
    const counts = new Map<string, number[]>();
    for (const { activity, bucket, delta } of changes) {
      const cases = counts.get(activity) ?? Array.from({ length: buckets + 1 }, () => 0);
      counts.set(activity, cases);
      cases[bucket] = delta;
    }
    const activities = [...counts].map(([activity, deltas]) => {
      let standing = 0;
      return { activity, cases: deltas.map((delta) => (standing += delta)) };
    });
    const sum = (cases: readonly number[]) => cases.reduce((all, n) => all + n, 0);
    return {
      times: Array.from({ length: buckets + 1 }, (_, i) => isoMicros(from + i * width)),
      activities: activities.toSorted((a, b) => sum(b.cases) - sum(a.cases) || (a.activity < b.activity ? -1 : 1)),
    };
  });
}
