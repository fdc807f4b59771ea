import type { ProcessConfig } from '@tributary/config';
import { type Duck, duckLiteral } from '@tributary/duckdb';
import { type EventRow, eventColumns, eventOfRow, type Finding, FINDINGS_MAX } from './finding.ts';
import { shareText } from './sight.ts';

/** What more objects do than this is how things go there. */
const USUAL_SHARE = 0.2;
/** One state comes before another where it does in so many of the objects that had both. */
const ORDER_SHARE_MIN = 0.95;

/**
 * Changes that nobody announces and that seldom are meant: a state that moves backwards, and rows that are deleted before their case is done.
 *
 * - Backwards: to a state that the object had before, or one that comes earlier in nearly all objects that had both.
 * - What a fifth of the objects does (of those that left the state; of those of the type) is usual, and not told. Nothing is learned of fewer
 *   than `casesMin` objects.
 * - Of a type with allowed transitions only deletes are told: rules judge its states.
 *
 * These are facts: nothing has to be waited for.
 */
export async function silentChanges(duck: Duck, process: ProcessConfig): Promise<Finding[]> {
  const { casesMin } = process.watch.usual;
  const judged = process.conformance.allowed.map(({ object }) => ` AND object <> ${duckLiteral(object)}`).join('');
  const rows = await duck.rows<EventRow & { move: string; share: number }>(
    `WITH change AS (SELECT *, row_number() OVER (PARTITION BY object, key, after ORDER BY tick) > 1 AS again FROM event
       WHERE kind IN ('created', 'state') AND after IS NOT NULL AND before IS DISTINCT FROM after${judged}),
     visit AS (SELECT object, key, after AS state, min(tick) AS tick FROM change GROUP BY ALL),
     earlier AS (SELECT a.object, a.state AS a, b.state AS b FROM visit a JOIN visit b ON b.object = a.object AND b.key = a.key AND b.state <> a.state
       GROUP BY ALL HAVING count(*) >= ${casesMin} AND count(*) FILTER (a.tick < b.tick) >= ${ORDER_SHARE_MIN} * count(*)),
     leaving AS (SELECT object, before, count(DISTINCT key) AS n FROM change WHERE before IS NOT NULL GROUP BY ALL HAVING n >= ${casesMin}),
     moving AS (SELECT object, before, after, count(DISTINCT key) AS n FROM change GROUP BY ALL),
     backwards AS (SELECT e.*, m.n / l.n AS share FROM change e JOIN leaving l ON l.object = e.object AND l.before = e.before
       JOIN moving m ON m.object = e.object AND m.before = e.before AND m.after = e.after
       WHERE e.kind = 'state' AND m.n < ${USUAL_SHARE} * l.n
         AND (e.again OR EXISTS (FROM earlier r WHERE r.object = e.object AND r.a = e.after AND r.b = e.before))),
     size AS (SELECT object, count(*) AS n, count(*) FILTER (NOT alive) AS gone FROM object GROUP BY 1 HAVING n >= ${casesMin}),
     deleted AS (SELECT e.*, s.gone / s.n AS share FROM event e JOIN size s ON s.object = e.object LEFT JOIN followed f ON f."case" = e."case"
       WHERE e.kind = 'deleted' AND s.gone < ${USUAL_SHARE} * s.n AND (f.done_us IS NULL OR f.done_us > e.at_us))
     SELECT ${eventColumns('e')}, move, share FROM (
         SELECT * EXCLUDE again, before || '>' || after AS move FROM backwards UNION ALL BY NAME SELECT *, 'deleted' AS move FROM deleted) e
      WHERE "case" IS NOT NULL ORDER BY e.at_us DESC, e.source, e.tick LIMIT ${FINDINGS_MAX}`,
  );
  return rows.map((row): Finding => {
    const what = row.move === 'deleted' ? 'was deleted before its case was done' : `went back from ${row.before} to ${row.after}`;
    return {
      kind: 'silent',
      rule: `silent.${row.object}.${row.move}`,
      severity: 'warning',
      case: row.c,
      id: `silent ${row.source} ${row.tick}`,
      atUs: row.atUs,
      reason: `${row.object} ${row.key} ${what}, as ${shareText(row.share)} do`,
      event: eventOfRow(row),
    };
  });
}
