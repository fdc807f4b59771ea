import type { CaseEvent, CaseHistory, CaseObject, Judgement } from './judge.ts';
import type { Shapes } from './shapes.ts';

/** A case as it was judged last. Everything in numbers: as objects an event would take ten times as much. */
interface Held {
  /** {@link WIDTH} numbers an event, in the order of the case. */
  readonly numbers: readonly number[];
  /** Keys of its objects, as events name them. */
  readonly keys: readonly string[];
  /** Objects that were met in the middle of their lives. */
  readonly met: readonly CaseObject[];
  /** What {@link marksOf} says of the judgement. */
  readonly marks: Marks;
}

/** What was found of a case, to see whether it is found again. */
export interface Marks {
  readonly violations: string;
  readonly owed: string;
}

/** Of an event: tick, time, shape and key, LSN, ordinal. */
const WIDTH = 5;
/** Keys of a case: with a shape in one number that is exact. */
const KEYS_MAX = 2 ** 20;
/** Bytes of a case beside its events and keys: its entry here, lists, texts. As measured. */
const CASE_BYTES = 320;
const KEY_BYTES = 48;

const NONE: readonly never[] = [];

/** In the order of a case. */
export function inOrder(a: CaseEvent, b: CaseEvent): number {
  return a.tick - b.tick || (a.shape.source < b.shape.source ? -1 : a.shape.source > b.shape.source ? 1 : 0);
}

export function marksOf({ violations, owed }: Pick<Judgement, 'violations' | 'owed'>): Marks {
  return {
    violations: violations
      .map(({ rule, level, atUs, event }) => `${rule} ${level} ${atUs} ${event.tick} ${event.shape.source}`)
      .join('\n'),
    owed: owed.map(({ rule, sinceUs, dueUs, awaits }) => `${rule} ${sinceUs} ${dueUs} ${awaits.join(' ')}`).join('\n'),
  };
}

/**
 * The events of the cases that something happened in last, in memory, so that a case that goes on is judged without reading it again. What
 * is here is what the store holds as of the last commit, or nothing: whoever rolls back forgets.
 *
 * About 40 bytes an event: below 1 KB for a case of ten. Those that were not touched for longest go first; they are read again when
 * something happens in them.
 *
 * Road not taken: automata that keep a state per rule instead of events. Sources are read one after the other and tell late what happened
 * earlier, so a state would have to go back; and a case that is judged as a whole cannot differ from a recompute. A judgement of ten
 * events costs less than writing one.
 */
export class Histories {
  readonly #bytesMax: number;
  #bytes = 0;
  readonly #held = new Map<string, Held>();
  readonly #shapes: Shapes;

  constructor(shapes: Shapes, bytesMax: number) {
    this.#shapes = shapes;
    this.#bytesMax = bytesMax;
  }

  get(own: string): { readonly history: CaseHistory; readonly marks: Marks } | null {
    const held = this.#held.get(own);
    if (!held) return null;
    return { history: { case: own, events: this.#unpacked(held), objects: held.met }, marks: held.marks };
  }

  /** Keeps a case as it was judged. */
  put({ case: own, events, objects }: CaseHistory, marks: Marks): void {
    this.forget(own);
    const met = objects.filter(({ born }) => !born);
    const packed = this.#packed(own, events);
    if (!packed) return;
    const held = { numbers: packed.numbers, keys: packed.keys, met: met.length > 0 ? met : NONE, marks };
    this.#bytes += bytesOf(held);
    this.#held.set(own, held);
    if (this.#bytes <= this.#bytesMax) return;
    for (const [oldest, one] of this.#held) {
      if (this.#bytes <= this.#bytesMax) break;
      this.#bytes -= bytesOf(one);
      this.#held.delete(oldest);
    }
  }

  forget(own: string): void {
    const held = this.#held.get(own);
    if (!held) return;
    this.#bytes -= bytesOf(held);
    this.#held.delete(own);
  }

  clear(): void {
    this.#held.clear();
    this.#bytes = 0;
  }

  /** Null: it holds a number that is not exact here. */
  #packed(own: string, events: readonly CaseEvent[]): Pick<Held, 'numbers' | 'keys'> | null {
    const numbers: number[] = [];
    const keys: string[] = [];
    const keyIds = new Map<string, number>();
    for (const event of events) {
      if (typeof event.lsn === 'bigint' || keys.length >= KEYS_MAX) return null;
      let key = keyIds.get(event.key);
      if (key === undefined) {
        keyIds.set(event.key, (key = keys.length));
        // The root's key is the case: one text for both.
        keys.push(event.key === own ? own : event.key);
      }
      numbers.push(event.tick, event.atUs, event.shape.id * KEYS_MAX + key, event.lsn, event.ordinal);
    }
    // Copied: a list that grew keeps room for half as much again.
    return { numbers: numbers.slice(), keys: keys.slice() };
  }

  #unpacked({ numbers, keys }: Held): CaseEvent[] {
    const events: CaseEvent[] = [];
    for (let i = 0; i < numbers.length; i += WIDTH) {
      const what = numbers[i + 2] as number;
      events.push({
        tick: numbers[i] as number,
        atUs: numbers[i + 1] as number,
        lsn: numbers[i + 3] as number,
        ordinal: numbers[i + 4] as number,
        key: keys[what % KEYS_MAX] as string,
        shape: this.#shapes.at(Math.floor(what / KEYS_MAX)),
      });
    }
    return events;
  }
}

function bytesOf({ numbers, keys, met, marks }: Held): number {
  const texts = marks.violations.length + marks.owed.length;
  return CASE_BYTES + numbers.length * 8 + (keys.length + met.length * 4) * KEY_BYTES + texts;
}
