import type { ProcessConfig } from '@tributary/config';
import { type Duck, duckLiteral } from '@tributary/duckdb';
import { durationText } from '../pictures/words.ts';
import { type EventRow, eventColumns, eventOfRow, type Finding, FINDINGS_MAX, type Found, foundOf } from './finding.ts';
import { lagging, overCases, shareText, type Sight } from './sight.ts';
import { latest } from './stuck.ts';

/** Of the cases that had the time for it, so many must have what usually follows. */
const FOLLOWS_SHARE_MIN = 0.95;
/** The newest cases teach what is usual. */
const LEARNED_CASES = 20_000;

/**
 * Activities that usually follow in a case and did not, with no rule written: where of the cases that had an activity A, and the time for it,
 * at least 95 % (of at least `casesMin`) have B, and B is not there after `quantile` of the times from A to B.
 *
 * - Of all activities that B follows the one that comes shortly before it is A. So of a chain only the first that is missing is told: where
 *   that is not there, nothing waits for what would follow it.
 * - Every source from which B was told must have been read beyond the time; until then it is unknown.
 * - A case that is over waits for nothing, nor one that stands on an activity that ends cases (which fewer than half leave, learned).
 * - A case with an object of B's type that was met in the middle of its life may have had B before.
 */
export async function missingEvents(duck: Duck, process: ProcessConfig, sight: Sight): Promise<Found> {
  const { quantile, casesMin } = process.watch.usual;
  const skewUs = process.conformance.skewMs * 1_000;
  const marks = [...sight.marks].map(([source, mark]) => `WHEN ${duckLiteral(source)} THEN ${mark}`).join(' ');
  const mark = marks === '' ? '0' : `(CASE f.source ${marks} ELSE 0 END)`;
  const rows = await duck.rows<
    EventRow & { missing: string; ofObject: string; ofSource: string; limitUs: number; share: number }
  >(
    `WITH happened AS (SELECT * FROM event WHERE "case" IS NOT NULL AND kind NOT IN ('found', 'deleted')),
     born AS (SELECT "case" AS c, min(at_us) AS born_us FROM happened GROUP BY 1 ORDER BY 2 DESC LIMIT ${LEARNED_CASES}),
     first AS MATERIALIZED (SELECT "case" AS c, activity, min(at_us) AS us, arg_max(object, tick) AS object, arg_max(source, tick) AS source FROM happened
       WHERE "case" IN (SELECT c FROM born) GROUP BY ALL),
     teller AS (SELECT f.activity, max(f.object) AS object, max(f.source) AS source, min(${mark}) AS mark FROM first f GROUP BY 1),
     pair AS (SELECT a.activity AS a, b.activity AS b, count(*) AS n, count(*) FILTER (b.us >= a.us) AS after,
         median(b.us - a.us) AS middle, quantile_disc(b.us - a.us, ${quantile}) AS limit_us
       FROM first a JOIN first b ON b.c = a.c AND b.activity <> a.activity GROUP BY ALL
       HAVING n >= ${casesMin} AND after >= ${FOLLOWS_SHARE_MIN} * n AND middle > 0),
     usual AS (SELECT p.a, p.b, p.middle, p.limit_us, t.object, t.source, count(*) AS cases, count(b.c) AS followed
       FROM pair p JOIN teller t ON t.activity = p.b
       JOIN first a ON a.activity = p.a AND a.us + p.limit_us + ${skewUs} < t.mark
       LEFT JOIN first b ON b.c = a.c AND b.activity = p.b GROUP BY ALL
       HAVING followed >= ${casesMin} AND followed >= ${FOLLOWS_SHARE_MIN} * cases),
     nearest AS (SELECT * FROM usual QUALIFY row_number() OVER (PARTITION BY b ORDER BY middle, a) = 1),
     last AS (SELECT c, arg_max(activity, (us, activity)) AS activity, max(us) AS us FROM first GROUP BY c),
     ends AS (SELECT f.activity FROM first f JOIN (SELECT activity, quantile_disc(us, 0.5) AS middle FROM first GROUP BY 1) m ON m.activity = f.activity
       LEFT JOIN last l ON l.c = f.c AND l.activity = f.activity
       WHERE f.us <= m.middle GROUP BY 1 HAVING 2 * count(l.c) > count(*)),
     waits AS (SELECT f.c, f.us, n.* FROM nearest n JOIN first f ON f.activity = n.a
       WHERE f.us + n.limit_us + ${skewUs} < ${Math.round(latest(sight))}
         AND NOT EXISTS (FROM first b WHERE b.c = f.c AND b.activity = n.b)
         AND NOT EXISTS (FROM event e WHERE e."case" = f.c AND e.activity = n.b)
         AND NOT EXISTS (FROM last l WHERE l.c = f.c AND l.activity IN (SELECT activity FROM ends))
         AND NOT EXISTS (FROM object o WHERE o."case" = f.c AND o.object = n.object AND NOT o.born)
         AND f.c NOT IN (${overCases(process)}))
     SELECT ${eventColumns('e')}, w.b AS missing, w.object AS "ofObject", w.source AS "ofSource", w.limit_us AS "limitUs", w.followed / w.cases AS share
       FROM waits w JOIN event e ON e."case" = w.c AND e.activity = w.a AND e.at_us = w.us
      WHERE e.kind NOT IN ('found', 'deleted') QUALIFY row_number() OVER (PARTITION BY w.c, w.b ORDER BY e.tick) = 1
      ORDER BY e.at_us DESC, e.source, e.tick LIMIT ${FINDINGS_MAX}`,
  );
  return foundOf(
    rows.map((row): readonly [Finding, string | null] => {
      const untilUs = row.atUs + row.limitUs + skewUs;
      const usual = `${shareText(row.share)} of cases have it, ${shareText(quantile)} of them within ${durationText(row.limitUs / 1_000)}`;
      const finding: Finding = {
        kind: 'missing',
        rule: `missing.${row.missing}`,
        severity: 'warning',
        case: row.c,
        id: `missing ${row.missing} ${row.source} ${row.tick}`,
        atUs: untilUs,
        reason: `no "${row.missing}" after "${row.activity}": ${usual}`,
        event: eventOfRow(row),
      };
      return [finding, lagging(sight, { source: row.ofSource, object: row.ofObject }, untilUs)];
    }),
  );
}
