import type { KeptSteps, StepTables } from './kept-steps.ts';
import { inPeriod, type Scope } from './scope.ts';
import { overSteps } from './steps.ts';

/**
 * The map of every type of object, side by side. Where an event may concern several objects there are three ways to count, and each number
 * here is called after its own:
 *
 * | | of an activity | of an edge |
 * |---|---|---|
 * | `events`, `couples` | events | couples of events that follow each other in the life of some object of the type |
 * | `uniqueObjects` | objects that it happened to | objects that went this way, however often |
 * | `totalObjects` | events, each as often as it concerns objects | couples, each as often as there are objects that it is in the life of |
 *
 * Of the root the life is its case: everything that happened to what belongs to it.
 */
export interface ObjectMap {
  readonly objects: readonly { readonly object: string; readonly uniqueObjects: number }[];
  readonly activities: readonly ObjectActivity[];
  readonly edges: readonly ObjectEdge[];
}

interface ObjectActivity {
  readonly object: string;
  readonly activity: string;
  readonly events: number;
  readonly uniqueObjects: number;
  readonly totalObjects: number;
}

interface ObjectEdge {
  readonly object: string;
  readonly from: string;
  readonly to: string;
  readonly couples: number;
  readonly uniqueObjects: number;
  readonly totalObjects: number;
  /** Time between the two, of `totalObjects`. */
  readonly medianMs: number;
  readonly p95Ms: number;
}

/**
 * @param root its type
 * @param minShare leaves out edges that are less than this share of all `totalObjects`
 */
export async function processObjectMap(
  steps: KeptSteps,
  scope: Omit<Scope, 'object'>,
  { root, minShare }: { readonly root: string; readonly minShare: number },
): Promise<ObjectMap> {
  const { duck } = steps;
  const types = await duck.rows<{ object: string }>('SELECT object FROM event UNION SELECT object FROM relation ORDER BY object');
  // Of row changes, each event is of one object. A log that says otherwise has one source, so that a tick is an event.
  const [{ several } = { several: false }] = await duck.rows<{ several: boolean }>('SELECT EXISTS (FROM relation) AS several');
  const parts: ObjectMap[] = [];
  for (const { object } of types) {
    const own = { ...scope, ...(object === root ? {} : { object }) };
    parts.push(await overSteps(steps, own, (_duck, { tables }) => mapOf(steps, { object, tables, several, scope })));
  }
  const edges = parts.flatMap((part) => part.edges);
  const all = edges.reduce((sum, { totalObjects }) => sum + totalObjects, 0);
  return {
    objects: parts.flatMap(({ objects }) => objects),
    activities: parts.flatMap(({ activities }) => activities),
    edges: edges.filter(({ totalObjects }) => totalObjects >= minShare * all),
  };
}

async function mapOf(
  { duck }: KeptSteps,
  { object, tables, several, scope }: { object: string; tables: StepTables; several: boolean; scope: Scope },
): Promise<ObjectMap> {
  const inside = `(SELECT *, lag(tick) OVER (PARTITION BY c ORDER BY nth) AS before FROM ${tables.step})`;
  const counts = (distinct: string, as: string) =>
    `${several ? `count(DISTINCT ${distinct})` : 'count(*)'} AS ${as}, count(DISTINCT c) AS "uniqueObjects", count(*) AS "totalObjects"`;
  const activities = await duck.rows<Omit<ObjectActivity, 'object'>>(
    `SELECT n.activity, e.* EXCLUDE a FROM (SELECT a, ${counts('tick', 'events')} FROM ${inside} WHERE ${inPeriod(scope)} GROUP BY a) e
       JOIN ${tables.activity} n ON n.id = e.a ORDER BY "totalObjects" DESC, 1`,
  );
  const edges = await duck.rows<Omit<ObjectEdge, 'object'>>(
    `SELECT p.activity AS "from", n.activity AS "to", e.* EXCLUDE (p, a) FROM (
         SELECT p, a, ${counts('(before, tick)', 'couples')}, median(at_us - previous_us) / 1000.0 AS "medianMs",
                quantile_cont((at_us - previous_us) / 1000.0, 0.95) AS "p95Ms"
           FROM ${inside} WHERE p IS NOT NULL AND ${inPeriod(scope)} GROUP BY p, a) e
       JOIN ${tables.activity} p ON p.id = e.p JOIN ${tables.activity} n ON n.id = e.a ORDER BY "totalObjects" DESC, 1, 2`,
  );
  const [size] = await duck.rows<{ n: number }>(`SELECT count(DISTINCT c) AS n FROM ${tables.step} WHERE ${inPeriod(scope)}`);
  return {
    objects: [{ object, uniqueObjects: size?.n ?? 0 }],
    activities: activities.map((one) => ({ object, ...one })),
    edges: edges.map((one) => ({ object, ...one })),
  };
}
