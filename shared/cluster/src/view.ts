import { type Clock, describeError, type Kv, type KvEntry } from '@tributary/core';
import type { Log } from './actor.ts';

const REOPEN_MS = 200;

export interface Seen extends KvEntry {
  /** Monotonic time at which this revision was first seen. */
  readonly movedAt: number;
}

/**
 * What one worker has seen of the bucket, and since when each key stands still before its own eyes: the only measure
 * of time in the cluster. Road not taken: time stamps in values, which compare two machines' clocks, and the bucket's
 * `max_age`, which depends on the server's clock and on how often it looks.
 */
export class View {
  readonly #kv: Kv;
  readonly #clock: Clock;
  readonly #log: Log;
  /** Called when a value is another one, came or went. */
  readonly #changed: () => void;
  #seen = new Map<string, Seen>();
  #current = false;

  constructor(world: { readonly kv: Kv; readonly clock: Clock; readonly log: Log }, changed: () => void) {
    this.#kv = world.kv;
    this.#clock = world.clock;
    this.#log = world.log;
    this.#changed = changed;
  }

  /** True once everything that stood has been seen. */
  get current(): boolean {
    return this.#current;
  }

  get(key: string): Seen | undefined {
    return this.#seen.get(key);
  }

  /** Keys with this prefix. */
  under(prefix: string): Seen[] {
    return [...this.#seen.values()].filter((seen) => seen.key.startsWith(prefix));
  }

  /** Takes note of what was read or written beside the watch. */
  note(entry: KvEntry): void {
    const known = this.#seen.get(entry.key);
    if (known && known.revision >= entry.revision) return;
    this.#seen.set(entry.key, { ...entry, movedAt: this.#clock.monotonic() });
    this.#changed();
  }

  /** Watches until `signal` aborts; after a break what stood still before and stands there still keeps its time. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#watch(signal);
      } catch (error) {
        if (!signal.aborted) this.#log.warn({ error: describeError(error) }, 'the cluster cannot be watched; trying again');
      }
      if (signal.aborted) return;
      await this.#clock.sleep(REOPEN_MS, signal).catch(() => {});
    }
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const before = this.#seen;
    let seen = new Map<string, Seen>();
    let standing = true;
    for await (const event of this.#kv.watch(signal)) {
      let told = true;
      if (event.kind === 'current') {
        this.#seen = seen;
        this.#current = true;
        standing = false;
      } else if (event.kind === 'delete') {
        seen.delete(event.key);
      } else {
        const { key, value, revision } = event;
        const known = (standing ? before : this.#seen).get(key);
        const movedAt = known?.revision === revision ? known.movedAt : this.#clock.monotonic();
        seen.set(key, { key, value, revision, movedAt });
        // A renewal writes the same again: it counts as a sign of life, and changes nothing.
        told = JSON.stringify(known?.value) !== JSON.stringify(value);
      }
      if (!standing) {
        seen = this.#seen;
        if (told) this.#changed();
      }
    }
  }
}
