import type { CaseCondition, EventOf, ObjectsIn } from '@tributary/config';
import { unreachable } from '@tributary/core';
import type { CaseEvent, CaseObject } from './judge.ts';

/** The objects of a case as they were after one event after the other. */
export class Replay {
  /** By type, then key: the state. */
  readonly #there = new Map<string, Map<string, string | null>>();
  /** Names of what happened so far. */
  readonly happened = new Set<number>();

  /** Objects that were met in the middle of their lives are there from the beginning. */
  constructor(objects: readonly CaseObject[], events: readonly CaseEvent[]) {
    for (const { object, key, state, born, alive } of objects) {
      if (born) continue;
      const own = events.filter((event) => event.object === object && event.key === key);
      const [first] = own;
      if (first ? began(first) : !alive) continue;
      const known = own.find(({ kind }) => kind !== 'milestone');
      this.#of(object).set(key, known ? known.before : state);
    }
  }

  /** @param names what the event is called */
  follow({ object, key, kind, activity, before, after }: CaseEvent, names: readonly number[]): void {
    for (const name of names) this.happened.add(name);
    const there = this.#of(object);
    if (kind === 'deleted' || (kind === 'found' && after === null && activity === `${object} deleted`)) there.delete(key);
    else if (kind === 'milestone' || (after === null && before === null && kind === 'found'))
      there.set(key, there.get(key) ?? null);
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
    let n = 0;
    for (const state of there.values()) if ((state !== null && states.includes(state)) === within) n++;
    return n;
  }

  #of(object: string): Map<string, string | null> {
    let there = this.#there.get(object);
    if (!there) this.#there.set(object, (there = new Map()));
    return there;
  }
}

/** Does its life, as far as it is known, begin with this event? */
function began({ kind, before, after, activity, object }: CaseEvent): boolean {
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
