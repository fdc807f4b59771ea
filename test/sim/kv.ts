import { MemoryKv } from '@tributary/changelog';
import { Fault, type Kv, type KvEntry, type KvEvent } from '@tributary/core';
import type { Broker } from './broker.ts';
import type { Link } from './link.ts';
import type { World } from './world.ts';

interface LeaseValue {
  readonly owner: string;
  readonly epoch: number;
}

/** The bucket, and the rule of leases: an epoch belongs to one owner, and epochs only rise. */
export class KvModel {
  readonly bucket = new MemoryKv();
  readonly #world: World;
  readonly #epochs = new Map<string, LeaseValue>();
  /** Revisions and epochs begin anew in a bucket that was lost, so an old owner may overwrite a new one: it costs a moment. */
  #lost = false;

  constructor(world: World) {
    this.#world = world;
  }

  /** A write of a lease was accepted. */
  written(key: string, value: unknown): void {
    if (!key.startsWith('lease.')) return;
    const { owner, epoch } = value as LeaseValue;
    const known = this.#epochs.get(key);
    if (known?.epoch !== epoch || known.owner !== owner) this.#world.tell(`${key}: ${owner || 'free'} at epoch ${epoch}`);
    this.#epochs.set(key, { owner, epoch });
    if (this.#lost) return;
    if (known && epoch < known.epoch) this.#world.broke('lease', `${key} fell from epoch ${known.epoch} to ${epoch}`);
    if (known && epoch === known.epoch && owner !== known.owner && owner !== '') {
      this.#world.broke('lease', `${key}: epoch ${epoch} was ${known.owner || 'given up'} and is ${owner}`);
    }
  }

  /** The store is gone. */
  lose(): void {
    this.#world.tell('the bucket is lost');
    this.#lost = true;
    this.bucket.lose();
  }
}

/** One process's view of the bucket, over its connection to the broker. */
export class SimKv implements Kv {
  readonly #model: KvModel;
  readonly #broker: Broker;
  readonly #link: Link;

  constructor(model: KvModel, broker: Broker, link: Link) {
    this.#model = model;
    this.#broker = broker;
    this.#link = link;
  }

  #ask<T>(answer: (bucket: MemoryKv) => Promise<T>): Promise<T> {
    return this.#link.call(() => {
      if (!this.#broker.running) throw new Fault('broker_unreachable', 'the broker is down');
      return answer(this.#model.bucket);
    });
  }

  get(key: string): Promise<KvEntry | null> {
    return this.#ask((bucket) => bucket.get(key));
  }

  create(key: string, value: unknown): Promise<number | null> {
    return this.#ask((bucket) => this.#noted(key, value, bucket.create(key, value)));
  }

  update(key: string, value: unknown, revision: number): Promise<number | null> {
    return this.#ask((bucket) => this.#noted(key, value, bucket.update(key, value, revision)));
  }

  async #noted(key: string, value: unknown, writing: Promise<number | null>): Promise<number | null> {
    const revision = await writing;
    if (revision !== null) this.#model.written(key, value);
    return revision;
  }

  delete(key: string, revision: number): Promise<boolean> {
    return this.#ask((bucket) => bucket.delete(key, revision));
  }

  async *watch(signal: AbortSignal, key?: string): AsyncIterable<KvEvent> {
    const stop = new AbortController();
    const queue: KvEvent[] = [];
    let ended = false;
    let wake = () => {};
    const end = () => {
      ended = true;
      stop.abort();
      wake();
    };
    const unwatch = this.#link.onBreak(end);
    const unhang = this.#link.onHangup(() => stop.abort());
    signal.addEventListener('abort', end, { once: true });
    try {
      await this.#ask(async (bucket) => {
        void this.#serve(bucket.watch(stop.signal, key), (event) => {
          if (event) queue.push(event);
          else ended = true;
          wake();
        });
      });
      while (!ended && !signal.aborted) {
        const event = queue.shift();
        if (event) yield event;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      stop.abort();
      unwatch();
      unhang();
      signal.removeEventListener('abort', end);
    }
  }

  /** The broker's side of {@link watch}; null = it ends. */
  async #serve(events: AsyncIterable<KvEvent>, deliver: (event: KvEvent | null) => void): Promise<void> {
    for await (const event of events) this.#link.down(() => deliver(event));
    this.#link.down(() => deliver(null));
  }
}
