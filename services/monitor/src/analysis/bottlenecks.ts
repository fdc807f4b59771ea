import type { KeptSteps } from './kept-steps.ts';
import { inPeriod, type Scope } from './scope.ts';
import { overSteps } from './steps.ts';

/** Time between two events of a case. */
export interface Waited {
  readonly count: number;
  readonly medianMs: number;
  readonly p95Ms: number;
  readonly totalMs: number;
}

/** Where time goes at one activity. */
export interface Bottleneck {
  readonly activity: string;
  readonly events: number;
  /** Of the time of all cases, what passes after this activity until the next one, or until now where cases go on. 0 to 1. */
  readonly share: number;
  /** Since the event before; null = every case begins here. */
  readonly before: Waited | null;
  /** Until the next event; null = every case ends here, or goes on here. */
  readonly after: Waited | null;
  /** Cases that go on and whose last event this is, and for how long; null = of none that is known: everything is complete only to before they came here, as a source lags. */
  readonly waiting: { readonly cases: number; readonly medianMs: number | null; readonly longestMs: number | null };
  /** Cases in which it happened more than once, and how often beyond the first time. */
  readonly rework: { readonly cases: number; readonly repeats: number };
}

interface Standing {
  readonly activity: string;
  readonly cases: number;
  readonly medianMs: number | null;
  readonly longestMs: number | null;
  readonly totalMs: number | null;
}

const WAITED = (us: string) =>
  `count(*) AS count, median(${us}) / 1000.0 AS "medianMs", quantile_cont((${us}) / 1000.0, 0.95) AS "p95Ms", sum(${us})::DOUBLE / 1000.0 AS "totalMs"`;

/** Activities, those that most time passes after first. */
export function processBottlenecks(steps: KeptSteps, scope: Scope): Promise<Bottleneck[]> {
  return overSteps(steps, scope, async (duck, { asOfUs }) => {
    const grouped = <Row>(what: string, from: string) =>
      duck
        .rows<Row & { activity: string }>(`SELECT activity, ${what} FROM ${from} GROUP BY activity`)
        .then((rows) => new Map(rows.map(({ activity, ...row }) => [activity, row as unknown as Row])));
    const events = await grouped<{ events: number }>('count(*) AS events', 'step');
    const before = await grouped<Waited>(WAITED('at_us - previous_us'), 'step WHERE previous IS NOT NULL');
    const after = await grouped<Waited>(WAITED('next_us - at_us'), 'step WHERE next_us IS NOT NULL');
    // Whether a case that came here later than that still stands here is not known.
    const age = `(CASE WHEN since_us <= ${asOfUs ?? 0} THEN ${asOfUs ?? 0} - since_us END)`;
    const standing = await grouped<Standing>(
      `count(*) AS cases, median(${age}) / 1000.0 AS "medianMs", max(${age}) / 1000.0 AS "longestMs", sum(${age})::DOUBLE / 1000.0 AS "totalMs"`,
      `standing WHERE ${inPeriod(scope).replaceAll('at_us', 'since_us')}`,
    );
    const rework = await grouped<{ cases: number; repeats: number }>(
      'count(*) AS cases, (sum(n) - count(*))::BIGINT AS repeats',
      '(SELECT c, activity, count(*) AS n FROM step GROUP BY ALL HAVING count(*) > 1)',
    );
    const spent = (activity: string) => (after.get(activity)?.totalMs ?? 0) + (standing.get(activity)?.totalMs ?? 0);
    const all = [...events.keys()].reduce((sum, activity) => sum + spent(activity), 0);
    return [...events]
      .map(([activity, { events: n }]): Bottleneck => {
        const { cases = 0, medianMs = null, longestMs = null } = standing.get(activity) ?? {};
        return {
          activity,
          events: n,
          share: all > 0 ? spent(activity) / all : 0,
          before: before.get(activity) ?? null,
          after: after.get(activity) ?? null,
          waiting: { cases, medianMs, longestMs },
          rework: rework.get(activity) ?? { cases: 0, repeats: 0 },
        };
      })
      .toSorted((a, b) => b.share - a.share || (a.activity < b.activity ? -1 : 1));
  });
}
