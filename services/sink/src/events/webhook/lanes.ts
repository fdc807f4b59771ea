import { assert } from '@tributary/core';

/** What must be known of an event to keep its order. */
export interface Ordered {
  /** Rows that it speaks of; none: it waits for all events before it of its tables, and those behind it wait for it. */
  readonly keys: readonly string[];
  /** Tables that it speaks of; none: it waits for everything, and everything for it. */
  readonly tables: readonly string[];
}

/** One thing that events share: a row's key, a table, or all of them. */
interface Resource<E> {
  /** Events that hold it together. */
  shared: number;
  /** Held by one alone. */
  held: boolean;
  readonly waiting: { readonly event: E; readonly alone: boolean }[];
}

const EVERYTHING = '';

/**
 * Says which events may be sent now, so that events of one row go one after the other, while rows do not wait for each
 * other. A row's events hold its key alone and their table together with others; an event of a whole table holds the
 * table alone. Everything is asked for in order, at once, and given out first come first served: so nobody waits for
 * one that waits for him.
 */
export class Lanes<E extends Ordered> {
  readonly #resources = new Map<string, Resource<E>>();
  /** How many things an event still waits for; taken or ready events have none. */
  readonly #wanting = new Map<E, number>();
  #ready: E[] = [];

  add(event: E): void {
    assert(!this.#wanting.has(event), 'an event was added twice');
    const wants = wantsOf(event);
    this.#wanting.set(event, wants.length);
    for (const [name, alone] of wants) this.#ask(name, event, alone);
  }

  /** The next event that waits for nothing; null when there is none now. It holds what it needs until {@link release}. */
  take(): E | null {
    return this.#ready.shift() ?? null;
  }

  /** The event has been dealt with. */
  release(event: E): void {
    assert(this.#wanting.get(event) === 0, 'an event was released that waits');
    this.#wanting.delete(event);
    for (const [name, alone] of wantsOf(event)) {
      const resource = this.#resources.get(name) as Resource<E>;
      if (alone) resource.held = false;
      else resource.shared--;
      this.#giveOut(resource);
      if (!resource.held && resource.shared === 0) this.#resources.delete(name);
    }
  }

  #ask(name: string, event: E, alone: boolean): void {
    const resource = this.#resources.get(name) ?? { shared: 0, held: false, waiting: [] };
    this.#resources.set(name, resource);
    resource.waiting.push({ event, alone });
    this.#giveOut(resource);
  }

  #giveOut(resource: Resource<E>): void {
    for (let next = resource.waiting[0]; next; next = resource.waiting[0]) {
      if (resource.held || (next.alone && resource.shared > 0)) return;
      resource.waiting.shift();
      if (next.alone) resource.held = true;
      else resource.shared++;
      const left = (this.#wanting.get(next.event) as number) - 1;
      this.#wanting.set(next.event, left);
      if (left === 0) this.#ready.push(next.event);
    }
  }
}

/** What an event needs, each with whether it needs it alone. */
function wantsOf({ keys, tables }: Ordered): [name: string, alone: boolean][] {
  if (tables.length === 0) return [[EVERYTHING, true]];
  const rows = [...new Set(keys)];
  return [
    [EVERYTHING, false],
    ...tables.map((table): [string, boolean] => [`table ${table}`, rows.length === 0]),
    ...rows.map((key): [string, boolean] => [`row ${key}`, true]),
  ];
}
