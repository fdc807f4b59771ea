import type { EventKind } from '../state.ts';

/** What an event is, but for its place, time and object; events that are alike share one. */
export interface EventShape {
  readonly id: number;
  readonly source: string;
  readonly activity: string;
  readonly object: string;
  readonly kind: EventKind;
  readonly before: string | null;
  readonly after: string | null;
}

/** A state column may turn out to hold anything: more kinds of events than that are not kept. */
const SHAPES_MAX = 2 ** 16;

/** The shapes of the events of one process. */
export class Shapes {
  readonly #all: EventShape[] = [];
  readonly #byText = new Map<string, EventShape>();

  /** Are there so many that all that was made with them is to be forgotten? */
  get full(): boolean {
    return this.#all.length >= SHAPES_MAX;
  }

  of({ source, activity, object, kind, before, after }: Omit<EventShape, 'id'>): EventShape {
    const text = `${kind}\0${source}\0${object}\0${activity}\0${before ?? '\0'}\0${after ?? '\0'}`;
    let shape = this.#byText.get(text);
    if (!shape) {
      shape = { id: this.#all.length, source, activity, object, kind, before, after };
      this.#byText.set(text, shape);
      this.#all.push(shape);
    }
    return shape;
  }

  at(id: number): EventShape {
    const shape = this.#all[id];
    if (!shape) throw new Error('the event has no shape');
    return shape;
  }

  clear(): void {
    this.#all.length = 0;
    this.#byText.clear();
  }
}
