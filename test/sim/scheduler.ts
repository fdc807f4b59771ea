/** An operating system process: what it does happens only while it lives and is not stopped. */
export class Process {
  readonly name: string;
  alive = true;
  /** Held up by SIGSTOP: what would have happened waits. Null = it runs. */
  held: Event[] | null = null;

  constructor(name: string) {
    this.name = name;
  }
}

export interface Event {
  readonly at: number;
  readonly order: number;
  readonly owner: Process | null;
  run: (() => void) | null;
}

/**
 * Virtual time: a queue of events, each run to its end (with every promise that it settles) before the next.
 *
 * Between two events the queue of microtasks is drained by one turn of the real event loop; nothing in the simulated
 * world waits for anything real, so that turn has nothing else to do and the order of everything is a function of the seed.
 */
export class Scheduler {
  /** Milliseconds. */
  now = 0;
  /** Of the moments and the order of everything that happened. */
  hash = 0x811c9dc5;
  events = 0;
  readonly #heap: Event[] = [];
  #order = 0;

  /** @returns the function that takes it back */
  after(delay: number, run: () => void, owner: Process | null = null): () => void {
    const event: Event = { at: this.now + Math.max(0, delay), order: this.#order++, owner, run };
    this.#push(event);
    return () => {
      event.run = null;
    };
  }

  /** Runs events until `done` says so or virtual time reaches `until`. @returns true when done */
  async run(until: number, done: () => boolean = () => false): Promise<boolean> {
    for (;;) {
      if (done()) return true;
      const next = this.#heap[0];
      if (!next || next.at > until) {
        this.now = until;
        return done();
      }
      this.#pop();
      if (!next.run || next.owner?.alive === false) continue;
      this.now = Math.max(this.now, next.at);
      if (next.owner?.held) {
        next.owner.held.push(next);
        continue;
      }
      this.mix(next.order);
      this.mix(Math.floor(this.now * 1000));
      this.events++;
      next.run();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  stop(process: Process): void {
    process.held ??= [];
  }

  /** What waited happens now, in its order. */
  resume(process: Process): void {
    const held = process.held ?? [];
    process.held = null;
    for (const { run, owner } of held) if (run) this.after(0, run, owner);
  }

  mix(value: number): void {
    this.hash = Math.imul(this.hash ^ value, 0x01000193) >>> 0;
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(event, heap[parent] as Event)) break;
      heap[at] = heap[parent] as Event;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop() as Event;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1] as Event, heap[child] as Event)) child++;
      if (!before(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
  }
}

function before(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
