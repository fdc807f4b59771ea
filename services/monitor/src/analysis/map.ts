import { type KeptSteps, type StepTables, WAY } from './kept-steps.ts';
import { inPeriod, type Scope } from './scope.ts';
import { overSteps } from './steps.ts';

export interface MapEdge {
  readonly from: string;
  readonly to: string;
  /** How often `to` came directly after `from` in a case. */
  readonly count: number;
  /** Of these, where the two were too close, and of two sources, to know which was first (`skew`); absent: never. */
  readonly concurrent?: number;
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

/** Of times in microseconds: both quantiles of one sort. */
const SPREAD = (us: string) =>
  `quantile_cont(${us}, [0.5, 0.95]) AS quantiles, avg(${us}) / 1000.0 AS "meanMs", min(${us}) / 1000.0 AS "minMs", max(${us}) / 1000.0 AS "maxMs"`;

interface Spread extends Pick<Durations, 'meanMs' | 'minMs' | 'maxMs'> {
  readonly quantiles: readonly number[] | null;
}

interface SpreadEdge extends Spread {
  readonly from: string;
  readonly to: string;
  readonly count: number;
  readonly concurrent: number;
}

/** Null where there are none. */
function durationsOf({ quantiles, meanMs, minMs, maxMs }: Spread): Durations {
  const [medianUs, p95Us] = quantiles ?? [];
  const ms = (us: number | undefined) => (us === undefined ? null : us / 1_000);
  return { medianMs: ms(medianUs), p95Ms: ms(p95Us), meanMs, minMs, maxMs };
}

/**
 * The map of what happened.
 * @param minShare leaves out edges that are less than this share of all steps
 */
export function processMap(steps: KeptSteps, scope: Scope, minShare = 0): Promise<ProcessMap> {
  return overSteps(steps, scope, async (duck, { asOfUs, tables }) => {
    const inside = `(SELECT * FROM ${tables.step} WHERE ${inPeriod(scope)})`;
    const edges = await duck.rows<SpreadEdge>(
      `SELECT p.activity AS "from", n.activity AS "to", e.* EXCLUDE (p, a) FROM (
         SELECT p, a, count(*) AS count, count(*) FILTER (near) AS concurrent, ${SPREAD('at_us - previous_us')} FROM ${inside} WHERE p IS NOT NULL GROUP BY p, a) e
       JOIN ${tables.activity} p ON p.id = e.p JOIN ${tables.activity} n ON n.id = e.a ORDER BY count DESC, 1, 2`,
    );
    const activities = await duck.rows<Counted>(
      `SELECT n.activity AS name, e.n, e.first, e.last, n.id IN (SELECT id FROM final) AS final FROM (
         SELECT a, count(*) AS n, count(*) FILTER (p IS NULL) AS first, count(*) FILTER (last) AS last FROM ${inside} GROUP BY a) e
       JOIN ${tables.activity} n ON n.id = e.a`,
    );
    const period = scope.fromUs !== undefined || scope.toUs !== undefined;
    const ways = period ? `(${waysInside(inside)})` : tables.way;
    const [whole] = await duck.rows<{ cases: number; variants: number } & Spread>(
      `SELECT count(*) AS cases, count(DISTINCT (v, w)) AS variants, ${SPREAD('last_us - first_us')} FROM ${ways}`,
    );
    const { cases, variants, ...spread } = whole as NonNullable<typeof whole>;
    const rework = await duck.rows<{ name: string; n: number }>(
      `SELECT n.activity AS name, count(*) AS n FROM ${period ? `(${againInside(inside, tables)})` : tables.again} r JOIN ${tables.activity} n ON n.id = r.a GROUP BY 1`,
    );
    const counted = (count: (one: Counted) => number) => record(activities.map((one) => ({ name: one.name, n: count(one) })));
    const all = edges.reduce((sum, edge) => sum + edge.count, 0);
    return {
      cases,
      events: activities.reduce((sum, { n }) => sum + n, 0),
      variants,
      activities: counted(({ n }) => n),
      edges: edges
        .filter(({ count }) => count >= minShare * all)
        .map(({ from, to, count, concurrent, ...times }) => {
          const near = concurrent > 0 ? { concurrent } : {};
          return { from, to, count, ...near, ...durationsOf(times) } as MapEdge;
        }),
      start: counted(({ first }) => first),
      end: counted(({ last }) => last),
      waiting: counted(({ last, final }) => (final || asOfUs === null ? 0 : last)),
      durations: durationsOf(spread),
      rework: record(rework),
    };
  });
}

/** As `way`, of what is in the period: places are counted from its first event on. Most cases are in it with events that follow each other. */
function waysInside(inside: string): string {
  return `WITH inside AS MATERIALIZED ${inside},
     span AS MATERIALIZED (SELECT c, min(nth) AS first, max(nth) - min(nth) + 1 = count(*) AS whole, min(at_us) AS first_us, max(at_us) AS last_us FROM inside GROUP BY c),
     placed AS (SELECT c, a, nth - first AS nth FROM inside JOIN span USING (c) WHERE whole
       UNION ALL SELECT c, a, row_number() OVER (PARTITION BY c ORDER BY nth) - 1 FROM inside JOIN span USING (c) WHERE NOT whole)
   SELECT c, first_us, last_us, v, w FROM span JOIN (SELECT c, ${WAY} FROM placed GROUP BY c) USING (c)`;
}

/** As `again`, of what is in the period. */
function againInside(inside: string, { again }: StepTables): string {
  return `SELECT c, a FROM ${inside} SEMI JOIN ${again} USING (c, a) GROUP BY ALL HAVING count(*) > 1`;
}

interface Counted {
  readonly name: string;
  /** Events, first and last ones of cases. */
  readonly n: number;
  readonly first: number;
  readonly last: number;
  /** It ends cases. */
  readonly final: boolean;
}

/** The most first, without those that there are none of. */
function record(rows: readonly { readonly name: string; readonly n: number }[]): Record<string, number> {
  const sorted = rows.filter(({ n }) => n > 0).toSorted((a, b) => b.n - a.n || (a.name < b.name ? -1 : 1));
  return Object.fromEntries(sorted.map(({ name, n }) => [name, n]));
}
