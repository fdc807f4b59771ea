import type { Duck } from '@tributary/duckdb';
import { inPeriod, overSteps, type Scope } from './steps.ts';

export interface MapEdge {
  readonly from: string;
  readonly to: string;
  /** How often `to` came directly after `from` in a case. */
  readonly count: number;
  /** Time between the two. */
  readonly medianMs: number;
  readonly p95Ms: number;
  readonly meanMs: number;
  readonly minMs: number;
  readonly maxMs: number;
}

export interface Durations {
  readonly medianMs: number | null;
  readonly p95Ms: number | null;
  readonly meanMs: number | null;
  readonly minMs: number | null;
  readonly maxMs: number | null;
}

/** Directly-follows graph. Activities, start and end say how many events, and cases, there are of each. */
export interface ProcessMap {
  readonly cases: number;
  readonly events: number;
  readonly variants: number;
  readonly activities: Readonly<Record<string, number>>;
  readonly edges: readonly MapEdge[];
  readonly start: Readonly<Record<string, number>>;
  readonly end: Readonly<Record<string, number>>;
  /** Cases that go on and whose last event is this one (`overSteps`); none of an imported log. */
  readonly waiting: Readonly<Record<string, number>>;
  /** From the first event of a case to its last. */
  readonly durations: Durations;
  /** Cases that an activity happened in more than once. */
  readonly rework: Readonly<Record<string, number>>;
}

const MS = (us: string) => `(${us}) / 1000.0`;
const SPREAD = (us: string) => `median(${MS(us)}) AS "medianMs", quantile_cont(${MS(us)}, 0.95) AS "p95Ms",
  avg(${MS(us)}) AS "meanMs", min(${MS(us)}) AS "minMs", max(${MS(us)}) AS "maxMs"`;

/**
 * The map of what happened.
 * @param minShare leaves out edges that are less than this share of all steps
 */
export function processMap(duck: Duck, scope: Scope, minShare = 0): Promise<ProcessMap> {
  return overSteps(duck, scope, async () => {
    const [totals] = await duck.rows<{ cases: number; events: number }>(
      'SELECT count(DISTINCT c) AS cases, count(*) AS events FROM step',
    );
    const edges = await duck.rows<MapEdge>(
      `SELECT previous AS "from", activity AS "to", count(*) AS count, ${SPREAD('at_us - previous_us')}
         FROM step WHERE previous IS NOT NULL GROUP BY ALL ORDER BY count DESC, 1, 2`,
    );
    const steps = edges.reduce((sum, edge) => sum + edge.count, 0);
    const counted = (what: string) => duck.rows<Counted>(`${what} GROUP BY 1 ORDER BY 2 DESC, 1`).then(record);
    // Two sums of 64 bits over every (place, activity) instead of the lists themselves, which take ten times as long: two ways with the same
    // sums are less likely than a machine that errs.
    const whole = scope.fromUs === undefined && scope.toUs === undefined;
    const placed = whole
      ? 'step'
      : '(SELECT c, activity, row_number() OVER (PARTITION BY c ORDER BY tick, source) AS nth FROM step)';
    const variants = await duck.rows<{ n: number }>(
      `SELECT count(*) AS n FROM (SELECT DISTINCT v, w FROM (SELECT sum(hash(nth, activity)) AS v, bit_xor(hash(activity, nth)) AS w FROM ${placed} GROUP BY c))`,
    );
    const [durations] = await duck.rows<Durations>(
      `SELECT ${SPREAD('d')} FROM (SELECT max(at_us) - min(at_us) AS d FROM step GROUP BY c)`,
    );
    return {
      cases: totals?.cases ?? 0,
      events: totals?.events ?? 0,
      variants: variants[0]?.n ?? 0,
      activities: await counted('SELECT activity AS name, count(*) AS n FROM step'),
      edges: edges.filter((edge) => edge.count >= minShare * steps),
      start: await counted('SELECT activity AS name, count(*) AS n FROM step WHERE previous IS NULL'),
      end: await counted('SELECT activity AS name, count(*) AS n FROM step WHERE last'),
      waiting: await counted(
        `SELECT activity AS name, count(*) AS n FROM standing WHERE ${inPeriod(scope).replaceAll('at_us', 'since_us')}`,
      ),
      durations: durations as Durations,
      rework: await counted(
        'SELECT activity AS name, count(*) AS n FROM (SELECT c, activity FROM step GROUP BY ALL HAVING count(*) > 1)',
      ),
    };
  });
}

interface Counted {
  readonly name: string;
  readonly n: number;
}

function record(rows: readonly Counted[]): Record<string, number> {
  return Object.fromEntries(rows.map(({ name, n }) => [name, n]));
}
