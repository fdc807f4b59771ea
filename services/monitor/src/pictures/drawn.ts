import type { MapEdge, ProcessMap } from '../analysis/map.ts';

/** A node of a picture: an activity, or where cases begin and end. */
export interface DrawnNode {
  readonly id: string;
  readonly kind: 'activity' | 'start' | 'end';
  readonly name: string;
  /** Events of an activity; cases of the beginning and the end. */
  readonly count: number;
  /** Cases that stand here now. */
  readonly waiting: number;
}

export interface DrawnEdge {
  readonly from: string;
  readonly to: string;
  readonly count: number;
  /** Null from the beginning and to the end. */
  readonly times: Pick<MapEdge, 'medianMs' | 'p95Ms'> | null;
  /** Much of the time of all cases passes here. */
  readonly slow: boolean;
}

/** What of a map a picture shows. */
export interface Drawn {
  readonly nodes: readonly DrawnNode[];
  readonly edges: readonly DrawnEdge[];
  /** Edges that are left out because there are too many. */
  readonly left: number;
}

/** More than this nobody can read, and laying it out takes seconds. */
const EDGES_MAX = 150;
/** Share of the time between all steps. */
export const SLOW_SHARE = 0.15;
/** Of all cases: seldom beginnings and ends are only in the numbers. */
const ENDS_SHARE_MIN = 0.01;

/** Chooses what is drawn: the most frequent edges, the activities, and where cases begin and end (those that stand somewhere have not ended). */
export function drawn(map: ProcessMap): Drawn {
  const steps = map.edges.slice(0, EDGES_MAX);
  const totalMs = map.edges.reduce((sum, { count, meanMs }) => sum + count * meanMs, 0);
  const ids = new Map(Object.keys(map.activities).map((name, i) => [name, `a${i}`]));
  const idOf = (name: string) => ids.get(name) as string;
  const outer = (counts: Readonly<Record<string, number>>, stay: Readonly<Record<string, number>> = {}) =>
    Object.entries(counts)
      .map(([name, count]) => [name, count - (stay[name] ?? 0)] as const)
      .filter(([, count]) => count > 0 && count >= ENDS_SHARE_MIN * map.cases);
  const starts = outer(map.start);
  const ends = outer(map.end, map.waiting);
  const sum = (counts: readonly (readonly [string, number])[]) => counts.reduce((all, [, count]) => all + count, 0);
  const end = (kind: 'start' | 'end', counts: typeof starts): DrawnNode[] =>
    counts.length === 0 ? [] : [{ id: kind, kind, name: kind, count: sum(counts), waiting: 0 }];
  const plain = (from: string, to: string, count: number): DrawnEdge => ({ from, to, count, times: null, slow: false });
  return {
    nodes: [
      ...end('start', starts),
      ...Object.entries(map.activities).map(
        ([name, count]): DrawnNode => ({ id: idOf(name), kind: 'activity', name, count, waiting: map.waiting[name] ?? 0 }),
      ),
      ...end('end', ends),
    ],
    edges: [
      ...starts.map(([name, count]) => plain('start', idOf(name), count)),
      ...steps.map(
        ({ from, to, count, meanMs, medianMs, p95Ms }): DrawnEdge => ({
          from: idOf(from),
          to: idOf(to),
          count,
          times: { medianMs, p95Ms },
          slow: totalMs > 0 && count * meanMs >= SLOW_SHARE * totalMs,
        }),
      ),
      ...ends.map(([name, count]) => plain(idOf(name), 'end', count)),
    ],
    left: map.edges.length - steps.length,
  };
}
