import type { Changelogs } from '@tributary/changelog';
import type { Position } from '@tributary/core';
import { GroupQueue, readInWholes, type Taken } from '@tributary/projection';

export interface InputsOptions {
  readonly changelogs: Changelogs;
  readonly groupBytes: number;
  /** Is `schema.table` of an input wanted? */
  readonly wants: (input: string, table: string) => boolean;
}

export interface InputGroup extends Taken {
  readonly input: string;
}

interface Reader {
  readonly queue: GroupQueue;
  readonly stop: AbortController;
  readonly done: Promise<void>;
  next: Promise<{ readonly input: string; readonly taken: Taken | null }> | null;
}

/**
 * Reads several changelogs side by side and gives out their groups one at a time: whichever comes first, and in turns while
 * several wait. A transaction in several groups is given out to its end before anything else, so that it stays in one piece.
 */
export class Inputs {
  readonly #options: InputsOptions;
  readonly #readers = new Map<string, Reader>();
  #open: string | null = null;
  /** Somebody wants to be heard between groups; `wake` = what tells a `next` that waits. */
  #nudged = false;
  #wake: (() => void) | null = null;

  constructor(options: InputsOptions) {
    this.#options = options;
  }

  /** Begins to follow an input, or follows it from another place. */
  async follow(input: string, after: Position): Promise<void> {
    await this.#end(input);
    const { groupBytes } = this.#options;
    const queue = new GroupQueue(groupBytes);
    const stop = new AbortController();
    this.#readers.set(input, { queue, stop, done: this.#read(input, after, { queue, stop }), next: null });
  }

  /** A `next` that waits, or the one that comes, gives `nudged` instead of a group. */
  nudge(): void {
    this.#nudged = true;
    this.#wake?.();
  }

  /** The next group; null when nothing more comes. @throws what reading an input threw */
  async next(): Promise<InputGroup | 'nudged' | null> {
    const chosen = this.#open === null ? [...this.#readers] : [...this.#readers].filter(([input]) => input === this.#open);
    if (chosen.length === 0) return null;
    const waits = chosen.map(([input, reader]) => (reader.next ??= reader.queue.take().then((taken) => ({ input, taken }))));
    const nudged = new Promise<'nudged'>((resolve) => (this.#wake = () => resolve('nudged')));
    const first = this.#nudged ? 'nudged' : await Promise.race([...waits, nudged]);
    if (first === 'nudged') {
      this.#nudged = false;
      return first;
    }
    const { input, taken } = first;
    const reader = this.#readers.get(input) as Reader;
    reader.next = null;
    // To the end of the line: the others come first now.
    this.#readers.delete(input);
    this.#readers.set(input, reader);
    if (!taken) return null;
    this.#open = taken.partial ? input : null;
    return { input, ...taken };
  }

  /** Ends reading; a `next` that waits gets null. */
  stop(): void {
    for (const { stop, queue } of this.#readers.values()) {
      stop.abort();
      queue.end();
    }
  }

  async close(): Promise<void> {
    for (const input of this.#readers.keys()) await this.#end(input);
  }

  async #end(input: string): Promise<void> {
    const reader = this.#readers.get(input);
    if (!reader) return;
    this.#readers.delete(input);
    if (this.#open === input) this.#open = null;
    reader.stop.abort();
    reader.queue.end();
    reader.next?.catch(() => {});
    await reader.done;
  }

  async #read(input: string, after: Position, { queue, stop }: Pick<Reader, 'queue' | 'stop'>): Promise<void> {
    const { changelogs, wants } = this.#options;
    try {
      const options = { after, signal: stop.signal, wants: (table: string) => wants(input, table) };
      for await (const batch of readInWholes(changelogs, input, options)) {
        const full = queue.push(batch);
        if (full) await full;
        if (stop.signal.aborted) break;
      }
      queue.end();
    } catch (error) {
      queue.end(error);
    }
  }
}
