import type { ProcessConfig } from '@tributary/config';

/** In which order events are told that happened too close to each other to know. */
export interface CaseOrder {
  /** Ticks (microseconds) of two sources at most so far apart say nothing. */
  readonly skewUs: number;
  /** In the order that is told then. */
  readonly sources: readonly string[];
}

/** Null: the definition says nothing of skew, so events are in the order of their times. */
export function caseOrderOf({
  objects,
  conformance: { concurrentMs },
}: Pick<ProcessConfig, 'objects' | 'conformance'>): CaseOrder | null {
  const sources = [...new Set(objects.map(({ source }) => source))];
  return concurrentMs > 0 && sources.length > 1 ? { skewUs: concurrentMs * 1_000, sources } : null;
}

interface Ticked {
  readonly tick: number;
  readonly atUs: number;
  readonly source: string;
}

/** An event in the order that is told. */
export interface Placed {
  readonly tick: number;
  readonly source: string;
  /** Its time, or that of an event which is told before it and happened at most the skew later. */
  readonly atUs: number;
  /** It and the one before it are of two sources, and within the skew: which was first is not known. */
  readonly near: boolean;
}

/**
 * Orders the events of one case. What is known is kept: the order of a source, and that of two sources where ticks are further apart than
 * the skew. The rest is told in the order of the sources: of the next events of all sources, those within the skew of the earliest could be
 * next, and of these the one of the first source is. So the answer depends on what is known alone: clocks that differ by less
 * make one way of a case, not two. An event is told at most the skew away from its time.
 *
 * (Not taken: stretches of time whose events are sorted. Where such a stretch begins depends on a clock, so two events within the skew
 * are in one or in two of them by chance.)
 * @param events of one case, in the order of (tick, source); those behind a pause that is longer than the skew may be left for another call
 */
export function ordered(events: readonly Ticked[], { skewUs, sources }: CaseOrder): Placed[] {
  const queues = [...new Set(events.map(({ source }) => source))]
    .toSorted((a, b) => rank(sources, a) - rank(sources, b) || (a < b ? -1 : 1))
    .map((source) => ({ own: events.filter((event) => event.source === source), next: 0 }));
  const placed: Placed[] = [];
  let before: Ticked | null = null;
  let latest: Ticked | null = null;
  while (placed.length < events.length) {
    let earliest = Infinity;
    for (const { own, next } of queues) earliest = Math.min(earliest, own[next]?.tick ?? Infinity);
    const queue = queues.find(({ own, next }) => (own[next]?.tick ?? Infinity) <= earliest + skewUs);
    const event = queue?.own[queue.next++];
    if (!event) break;
    const atUs = latest && latest.tick > event.tick ? Math.max(event.atUs, latest.atUs) : event.atUs;
    const near = before !== null && before.source !== event.source && Math.abs(event.tick - before.tick) <= skewUs;
    placed.push({ tick: event.tick, source: event.source, atUs, near });
    before = event;
    if (!latest || event.tick > latest.tick) latest = event;
  }
  return placed;
}

function rank(sources: readonly string[], source: string): number {
  const at = sources.indexOf(source);
  return at === -1 ? sources.length : at;
}
