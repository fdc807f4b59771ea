import type { ProcessConfig } from '@tributary/config';
import type { Duck } from '@tributary/duckdb';
import { durationText } from '../pictures/words.ts';
import { type EventRow, eventColumns, eventOfRow, type Finding, FINDINGS_MAX, type Found, foundOf } from './finding.ts';
import { lagging, overCases, shareText, type Sight } from './sight.ts';

/** Of a state that fewer objects leave, staying is usual. */
const LEFT_SHARE_MIN = 0.5;

/**
 * Objects that stay in a state for longer than is usual: than `quantile` of the stays in it that are over, of at least `casesMin`.
 *
 * - An object is in a state from the event that brought it there until its next one, or its end. Both must have been seen: a change that
 *   only a snapshot found has no time of its own, so such a stay teaches nothing, and is not judged.
 * - Nothing is learned of a state that most objects stay in: it is an end. A case that is over waits for nothing.
 * - Only the source of the object can tell that it moved on: it is stuck once that source was read beyond its time; until then it is
 *   unknown.
 */
export async function stuckObjects(duck: Duck, process: ProcessConfig, sight: Sight): Promise<Found> {
  const { quantile, casesMin } = process.watch.usual;
  const rows = await duck.rows<EventRow & { limitUs: number }>(
    `WITH turn AS (
       SELECT ${eventColumns('event')}, kind, lead(at_us) OVER w AS left_us, lead(kind) OVER w AS left_kind FROM event
        WHERE kind IN ('created', 'deleted') OR (kind = 'state' AND before IS DISTINCT FROM after) OR (kind = 'found' AND (after IS NOT NULL OR activity = object || ' deleted'))
       WINDOW w AS (PARTITION BY object, key ORDER BY tick)),
     stay AS (SELECT * FROM turn WHERE after IS NOT NULL AND kind <> 'found'),
     usual AS (
       SELECT object, after, quantile_disc(left_us - "atUs", ${quantile}) FILTER (left_kind <> 'found') AS limit_us FROM stay GROUP BY ALL
       HAVING count(*) FILTER (left_kind <> 'found') >= ${casesMin} AND count(left_us) >= ${LEFT_SHARE_MIN} * count(*))
     SELECT s.* EXCLUDE (kind, left_us, left_kind), limit_us AS "limitUs" FROM stay s JOIN usual u ON u.object = s.object AND u.after = s.after
      WHERE left_us IS NULL AND "atUs" + limit_us < ${Math.round(latest(sight))} AND c IS NOT NULL AND c NOT IN (${overCases(process)})
      ORDER BY "atUs" DESC, source, tick LIMIT ${FINDINGS_MAX}`,
  );
  return foundOf(
    rows.map((row): readonly [Finding, string | null] => {
      const untilUs = row.atUs + row.limitUs;
      const usual = `${shareText(quantile)} of stays are over after ${durationText(row.limitUs / 1_000)}`;
      const finding: Finding = {
        kind: 'stuck',
        rule: `stuck.${row.object}.${row.after}`,
        severity: 'warning',
        case: row.c,
        id: `stuck ${row.source} ${row.tick}`,
        atUs: untilUs,
        reason: `${row.object} ${row.key} is still ${row.after}: ${usual}`,
        event: eventOfRow(row),
      };
      return [finding, lagging(sight, row, untilUs)];
    }),
  );
}

/** The latest time at which anything can be late: by the clock, or by a source whose clock is ahead. */
export function latest({ nowUs, marks }: Sight): number {
  return Math.max(nowUs, ...marks.values());
}
