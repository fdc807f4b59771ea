import type { CaseEvent } from './judge.ts';

/** So few are looked at one by one. */
const FEW = 16;

/**
 * Events of a case in its order, and where among them those of a time, or behind a tick, can be: so that a rule looks at a stretch instead
 * of at all of them. Times do not rise with the order (clocks go back, and sources differ), so the bounds come from extremes: the latest time
 * so far, and the earliest from there on. A stretch may hold others too; what lies outside of it is surely none.
 */
export class Line {
  readonly events: readonly CaseEvent[];
  #latest: Float64Array | null = null;
  #earliest: Float64Array | null = null;

  constructor(events: readonly CaseEvent[]) {
    this.events = events;
  }

  /** Events at that time or later have this index or a higher one. */
  from(us: number): number {
    if (this.#few || us === -Infinity) return 0;
    this.#latest ??= extremes(this.events, 1);
    const latest = this.#latest;
    return first(latest.length, (i) => (latest[i] as number) >= us);
  }

  /** Events at that time or earlier have a lower index than this. */
  to(us: number): number {
    if (this.#few || us === Infinity) return this.events.length;
    this.#earliest ??= extremes(this.events, -1);
    const earliest = this.#earliest;
    return first(earliest.length, (i) => (earliest[i] as number) > us);
  }

  /** Events behind that tick have this index or a higher one. */
  after(tick: number): number {
    return this.#few ? 0 : first(this.events.length, (i) => (this.events[i] as CaseEvent).tick > tick);
  }

  /** Events before that tick have a lower index than this. */
  before(tick: number): number {
    return this.#few ? this.events.length : first(this.events.length, (i) => (this.events[i] as CaseEvent).tick >= tick);
  }

  indexOf(event: CaseEvent): number {
    return this.events.indexOf(event, this.#few ? 0 : this.before(event.tick));
  }

  some(holds: (event: CaseEvent) => boolean, stretch: Stretch): boolean {
    return this.find(holds, stretch) !== undefined;
  }

  find(holds: (event: CaseEvent) => boolean, { from, to }: Stretch): CaseEvent | undefined {
    for (let i = from; i < Math.min(to, this.events.length); i++) {
      const event = this.events[i] as CaseEvent;
      if (holds(event)) return event;
    }
    return undefined;
  }

  findLast(holds: (event: CaseEvent) => boolean, { from, to }: Stretch): CaseEvent | undefined {
    for (let i = Math.min(to, this.events.length) - 1; i >= from; i--) {
      const event = this.events[i] as CaseEvent;
      if (holds(event)) return event;
    }
    return undefined;
  }

  get #few(): boolean {
    return this.events.length <= FEW;
  }
}

/** Indices from `from`, and below `to`. */
interface Stretch {
  readonly from: number;
  readonly to: number;
}

/** The latest time up to each event (1), or the earliest from each on (-1). */
function extremes(events: readonly CaseEvent[], sign: 1 | -1): Float64Array {
  const n = events.length;
  const found = new Float64Array(n);
  let extreme = -Infinity;
  for (let k = 0; k < n; k++) {
    const i = sign === 1 ? k : n - 1 - k;
    extreme = Math.max(extreme, sign * (events[i] as CaseEvent).atUs);
    found[i] = sign * extreme;
  }
  return found;
}

/** The first index at which it holds; `n` when it never does. It holds for all behind one for which it holds. */
function first(n: number, holds: (index: number) => boolean): number {
  let [low, high] = [0, n];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (holds(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}
