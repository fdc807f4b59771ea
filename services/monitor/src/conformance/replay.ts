import type { CaseCondition, EventOf, ObjectsIn } from '@tributary/config';
import { unreachable } from '@tributary/core';
import type { CaseEvent, CaseObject } from './judge.ts';
import type { EventShape } from './shapes.ts';

/** Objects of one type: the state of each, and how many are in each. */
class Population {
  readonly #states = new Map<string, string | null>();
  readonly #counts = new Map<string | null, number>();

  get size(): number {
    return this.#states.size;
  }

  /** Null: it is in no state, or not there. */
  stateOf(key: string): string | null {
    return this.#states.get(key) ?? null;
  }

  set(key: string, state: string | null): void {
    this.delete(key);
    this.#states.set(key, state);
    this.#counts.set(state, this.in(state) + 1);
  }

  delete(key: string): void {
    const state = this.#states.get(key);
    if (state === undefined) return;
    this.#states.delete(key);
    this.#counts.set(state, this.in(state) - 1);
  }

  in(state: string | null): number {
    return this.#counts.get(state) ?? 0;
  }
}

/** The objects of a case as they were after one event after the other. A step and a question cost the same however many there are. */
export class Replay {
  readonly #there = new Map<string, Population>();
  /** Names of what happened so far. */
  readonly happened = new Set<number>();

  /** Objects that were met in the middle of their lives are there from the beginning. */
  constructor(objects: readonly CaseObject[], events: readonly CaseEvent[]) {
    const met = objects.filter(({ born }) => !born);
    if (met.length === 0) return;
    const first = new Map<string, CaseEvent>();
    const known = new Map<string, CaseEvent>();
    for (const event of events) {
      const own = nameOf(event.shape.object, event.key);
      if (!first.has(own)) first.set(own, event);
      if (event.shape.kind !== 'milestone' && !known.has(own)) known.set(own, event);
    }
    for (const one of met) {
      const own = nameOf(one.object, one.key);
      const begins = first.get(own);
      if (begins ? began(begins.shape) : !one.alive) continue;
      const told = known.get(own);
      this.#of(one.object).set(one.key, told ? told.shape.before : one.state);
    }
  }

  /** @param names what the event is called */
  follow({ key, shape: { object, kind, activity, before, after } }: CaseEvent, names: readonly number[]): void {
    for (const name of names) this.happened.add(name);
    const there = this.#of(object);
    if (kind === 'deleted' || (kind === 'found' && after === null && activity === `${object} deleted`)) there.delete(key);
    else if (kind === 'milestone' || (after === null && before === null && kind === 'found')) there.set(key, there.stateOf(key));
    else there.set(key, after);
  }

  holds(condition: CaseCondition, happened: (event: EventOf) => boolean): boolean {
    switch (condition.kind) {
      case 'and':
        return condition.of.every((one) => this.holds(one, happened));
      case 'or':
        return condition.of.some((one) => this.holds(one, happened));
      case 'not':
        return !this.holds(condition.of, happened);
      case 'event':
        return happened(condition.event);
      case 'all':
        return this.#count(condition.objects) === this.#of(condition.objects.object).size;
      case 'any':
        return this.#count(condition.objects) > 0;
      case 'count':
        return compared(this.#count(condition.objects), condition.operator, condition.value);
      default:
        return unreachable(condition);
    }
  }

  #count({ object, states, within }: ObjectsIn): number {
    const there = this.#of(object);
    if (states === null) return there.size;
    let inside = 0;
    for (const state of new Set(states)) inside += there.in(state);
    return within ? inside : there.size - inside;
  }

  #of(object: string): Population {
    let there = this.#there.get(object);
    if (!there) this.#there.set(object, (there = new Population()));
    return there;
  }
}

function nameOf(object: string, key: string): string {
  return `${object}\0${key}`;
}

/** Does its life, as far as it is known, begin with this event? */
function began({ kind, before, after, activity, object }: EventShape): boolean {
  return kind === 'created' || (kind === 'found' && before === null && (after !== null || activity === `${object} created`));
}

function compared(n: number, operator: '<' | '<=' | '>' | '>=' | '=' | '!=', value: number): boolean {
  switch (operator) {
    case '<':
      return n < value;
    case '<=':
      return n <= value;
    case '>':
      return n > value;
    case '>=':
      return n >= value;
    case '=':
      return n === value;
    case '!=':
      return n !== value;
    default:
      return unreachable(operator);
  }
}
