import type { Kv, KvEntry, KvEvent } from '@tributary/core';

interface Watcher {
  readonly queue: KvEvent[];
  wake: () => void;
  broken: boolean;
}

/** The twin of the bucket: same rules, no I/O. `lose` forgets everything, as when a store is lost. */
export class MemoryKv implements Kv {
  #entries = new Map<string, { readonly text: string; readonly revision: number }>();
  #revision = 0;
  readonly #watchers = new Set<Watcher>();

  async get(key: string): Promise<KvEntry | null> {
    const entry = this.#entries.get(key);
    return entry ? { key, value: JSON.parse(entry.text), revision: entry.revision } : null;
  }

  async create(key: string, value: unknown): Promise<number | null> {
    return this.#entries.has(key) ? null : this.#put(key, value);
  }

  async update(key: string, value: unknown, revision: number): Promise<number | null> {
    return this.#entries.get(key)?.revision === revision ? this.#put(key, value) : null;
  }

  async delete(key: string, revision: number): Promise<boolean> {
    if (this.#entries.get(key)?.revision !== revision) return false;
    this.#entries.delete(key);
    this.#tell({ kind: 'delete', key, revision: ++this.#revision });
    return true;
  }

  async *watch(signal: AbortSignal, key?: string): AsyncIterable<KvEvent> {
    const wanted = (name: string) => key === undefined || name === key;
    const standing = [...this.#entries].filter(([name]) => wanted(name)).toSorted(([, a], [, b]) => a.revision - b.revision);
    const queue: KvEvent[] = standing.map(([name, entry]) => put(name, entry));
    const watcher: Watcher = { queue: [...queue, { kind: 'current' }], wake: () => {}, broken: false };
    const poke = () => watcher.wake();
    this.#watchers.add(watcher);
    signal.addEventListener('abort', poke);
    try {
      while (!signal.aborted && !watcher.broken) {
        const event = watcher.queue.shift();
        if (event && (event.kind === 'current' || wanted(event.key))) yield event;
        else if (!event) await new Promise<void>((resolve) => (watcher.wake = resolve));
      }
    } finally {
      signal.removeEventListener('abort', poke);
      this.#watchers.delete(watcher);
    }
  }

  /** Every watch ends, as when the connection breaks. */
  breakConnection(): void {
    for (const watcher of this.#watchers) {
      watcher.broken = true;
      watcher.wake();
    }
  }

  /** The bucket is gone; it is made anew by the next write. */
  lose(): void {
    this.#entries = new Map();
    this.#revision = 0;
    this.breakConnection();
  }

  #put(key: string, value: unknown): number {
    const entry = { text: JSON.stringify(value), revision: ++this.#revision };
    this.#entries.set(key, entry);
    this.#tell(put(key, entry));
    return entry.revision;
  }

  #tell(event: KvEvent): void {
    for (const watcher of this.#watchers) {
      watcher.queue.push(event);
      watcher.wake();
    }
  }
}

function put(key: string, { text, revision }: { readonly text: string; readonly revision: number }): KvEvent {
  return { kind: 'put', key, value: JSON.parse(text), revision };
}
