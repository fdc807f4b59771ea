import { assert, type Position } from '@tributary/core';
import type { Standing } from '../outlet.ts';
import { behind, comparePlaces, type EventPlace, sequenceOf } from '../place.ts';

/** An event that was taken. */
export interface Entry {
  readonly number: number;
  readonly place: EventPlace;
  readonly resume: Position;
}

/** The end of a group: everything before it has been taken. */
export interface GroupEnd {
  readonly number: number;
  readonly after: Position;
}

/** What a ledger says: everything up to `done` is settled, but for `missing`. */
export type LedgerStanding = Omit<Standing, 'replay'>;

/**
 * Keeps account of events that are settled out of order: one waits for its receiver while others go on.
 *
 *   taken    E1   E2   E3   E4
 *   settled  yes  no   yes  yes
 *   says     done = E4, missing = {E2}, resume = where E2 can be made again
 *
 * So whoever goes on from there sends again only what was under way. It holds what is not settled, nothing else.
 */
export class Ledger {
  #number = 0;
  /** In the order in which they were taken. */
  readonly #open = new Map<number, Entry>();
  readonly #ends: GroupEnd[] = [];
  /** Missing when this ledger was opened, and not yet settled. */
  readonly #old: Set<string>;
  readonly #oldDone: EventPlace;
  #done: EventPlace;
  #resume: Position;

  constructor({ resume, done, missing }: LedgerStanding) {
    this.#resume = resume;
    this.#done = done;
    this.#oldDone = done;
    this.#old = new Set(missing);
  }

  get open(): number {
    return this.#open.size;
  }

  /** @param resume reading from there makes the event again */
  take(place: EventPlace, resume: Position): Entry {
    const entry = { number: ++this.#number, place, resume };
    this.#open.set(entry.number, entry);
    this.#reach(place);
    return entry;
  }

  settle(entry: Entry): void {
    assert(this.#open.delete(entry.number), 'an event was settled twice');
    if (this.#old.size > 0) this.#old.delete(sequenceOf(entry.place));
    this.#close();
  }

  /** Everything up to `after` has been taken. @returns it counts as closed when all before it is settled */
  end(after: Position): GroupEnd {
    const end = { number: ++this.#number, after };
    this.#ends.push(end);
    this.#reach(behind(after));
    // What was missing and has not come again never will: the filter leaves it out now.
    if (comparePlaces(behind(after), this.#oldDone) >= 0)
      for (const sequence of this.#old) if (!this.#isOpen(sequence)) this.#old.delete(sequence);
    this.#close();
    return end;
  }

  closed(end: GroupEnd): boolean {
    return end.number < this.#firstOpen();
  }

  standing(): LedgerStanding {
    const [oldest] = this.#open.values();
    const missing = new Set(this.#old);
    for (const { place } of this.#open.values()) missing.add(sequenceOf(place));
    return { resume: oldest?.resume ?? this.#resume, done: this.#done, missing };
  }

  #isOpen(sequence: string): boolean {
    return [...this.#open.values()].some(({ place }) => sequenceOf(place) === sequence);
  }

  #reach(place: EventPlace): void {
    if (comparePlaces(place, this.#done) > 0) this.#done = place;
  }

  #firstOpen(): number {
    const [first] = this.#open.keys();
    return first ?? Number.POSITIVE_INFINITY;
  }

  #close(): void {
    const open = this.#firstOpen();
    for (let end = this.#ends[0]; end && end.number < open; end = this.#ends[0]) {
      this.#resume = end.after;
      this.#ends.shift();
    }
  }
}
