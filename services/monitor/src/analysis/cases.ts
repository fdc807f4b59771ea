import type { KeptSteps } from './kept-steps.ts';
import { inPeriod, type Scope } from './scope.ts';
import { overSteps } from './steps.ts';

export interface ProcessCase {
  readonly case: string;
  readonly events: number;
  /** ISO 8601. */
  readonly first: string;
  readonly last: string;
  readonly durationMs: number;
  readonly activity: string;
  /** It goes on (`overSteps`). */
  readonly open: boolean;
  /** Since its last event; null = it does not go on, or everything is complete only to before that event, as a source lags. */
  readonly waitingMs: number | null;
}

/** Which cases, and in which order: `longest` from the first event to the last, or to now where they go on; `waiting` since the last event. */
export interface CasesAsked {
  readonly ended?: boolean;
  readonly sort?: 'newest' | 'longest' | 'waiting';
  readonly limit: number;
}

/** ISO 8601 with microseconds. */
export const isoSql = (us: string) => `strftime(make_timestamp(${us}), '%Y-%m-%dT%H:%M:%S.%fZ')`;

/** The cases with an event in the period, newest first unless asked otherwise; `activity` is the last one that happened. */
export function processCases(
  steps: KeptSteps,
  scope: Scope,
  { ended, sort = 'newest', limit }: CasesAsked,
): Promise<ProcessCase[]> {
  return overSteps(steps, scope, (duck, { asOfUs, tables }) => {
    const wanted = ended === undefined ? 'true' : ended ? 'NOT open' : 'open';
    const order = {
      newest: 'last_us DESC',
      longest: '(CASE WHEN open THEN greatest(now_us, last_us) ELSE last_us END - first_us) DESC',
      waiting: 'open DESC, last_us',
    }[sort];
    return duck.rows<ProcessCase>(
      `SELECT k.c AS "case", events, ${isoSql('first_us')} AS first, ${isoSql('last_us')} AS last, (last_us - first_us) / 1000.0 AS "durationMs",
              activity, open, CASE WHEN open AND last_us <= now_us THEN (now_us - last_us) / 1000.0 END AS "waitingMs"
         FROM (SELECT c, count(*) AS events, min(at_us) AS first_us, max(at_us) AS last_us, any_value(activity) FILTER (last) AS activity,
                      c IN (SELECT c FROM standing) AS open, ${asOfUs ?? 0} AS now_us
                 FROM stepped GROUP BY c HAVING bool_or(${inPeriod(scope)})) e
         JOIN ${tables.key} k ON k.id = e.c WHERE ${wanted} ORDER BY ${order}, k.c LIMIT ${limit}`,
    );
  });
}
