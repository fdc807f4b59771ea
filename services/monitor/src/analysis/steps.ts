import type { Duck } from '@tributary/duckdb';
import type { KeptSteps, StepTables } from './kept-steps.ts';
import { inPeriod, type Scope } from './scope.ts';

/** What {@link overSteps} offers beside its views. */
export interface Moment {
  /** Microseconds since 1970: up to when every source is complete; null = an imported log, in which nothing goes on. */
  readonly asOfUs: number | null;
  /** What the views show. */
  readonly tables: StepTables;
}

/**
 * Makes what questions are answered from, for as long as `work` takes:
 *
 * - `stepped (c, activity, at_us, tick, previous, previous_us, next_us, last, nth)`: every event with its neighbours and place in its case (a
 *   number: {@link StepTables});
 * - `step`: those of them that are in the period. Neighbours are found over all events, so a period makes no starts and ends that did not happen;
 * - `final (id, activity)`: what ends a case. Of the older half of its events fewer than half were followed by another one of their case.
 *   (The older half, because what happened just now was followed by nothing yet.) Learned, as a definition need not say what the end is;
 * - `standing (c, activity, since_us)`: cases that go on, each with its last event. None in an imported log.
 */
export async function overSteps<Answer>(
  steps: KeptSteps,
  scope: Scope,
  work: (duck: Duck, moment: Moment) => Promise<Answer>,
): Promise<Answer> {
  const { duck } = steps;
  const [place] = await duck.rows<{ n: number; watermark: number | null }>(
    'SELECT count(*) AS n, min(watermark) AS watermark FROM place',
  );
  const asOfUs = place && place.n > 0 ? Number(place.watermark) : null;
  const tables = await steps.tables(scope);
  await duck.run(`CREATE OR REPLACE TEMP VIEW stepped AS SELECT s.c, n.activity, s.at_us, s.tick, p.activity AS previous, s.previous_us, s.next_us, s.last, s.nth
    FROM ${tables.step} s JOIN ${tables.activity} n ON n.id = s.a LEFT JOIN ${tables.activity} p ON p.id = s.p`);
  await duck.run(`CREATE OR REPLACE TEMP VIEW step AS SELECT * FROM stepped WHERE ${inPeriod(scope)}`);
  await duck.run(`CREATE OR REPLACE TEMP TABLE final AS ${finalSql(tables)}`);
  await duck.run(`CREATE OR REPLACE TEMP VIEW standing AS SELECT c, activity, at_us AS since_us FROM stepped
    WHERE last AND ${asOfUs !== null} AND activity NOT IN (SELECT activity FROM final)`);
  const answer = await work(duck, { asOfUs, tables });
  for (const view of ['standing', 'step', 'stepped']) await duck.run(`DROP VIEW ${view}`);
  await steps.done(scope);
  return answer;
}

/** The older half is half of the events at least: what fewer than a quarter of all ends cannot be one. */
function finalSql({ step, activity }: StepTables): string {
  return `WITH few AS MATERIALIZED (SELECT a FROM ${step} GROUP BY a HAVING 4 * count(*) FILTER (last) > count(*)),
     own AS MATERIALIZED (SELECT a, at_us, last FROM ${step} SEMI JOIN few USING (a)),
     half AS (SELECT a, quantile_disc(at_us, 0.5) AS middle FROM own GROUP BY a)
   SELECT id, activity FROM ${activity} WHERE id IN (SELECT a FROM own JOIN half USING (a) WHERE at_us <= middle GROUP BY a
     HAVING 2 * count(*) FILTER (last) > count(*))`;
}
