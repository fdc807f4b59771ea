import {
  type ChangelogOptions,
  type ChangelogStatus,
  MemoryStore,
  type Place,
  type Store,
  type Stored,
} from '@tributary/changelog';
import { type Clock, Fault } from '@tributary/core';
import { Link, type Weather } from './link.ts';
import type { Process } from './scheduler.ts';
import { WORLD_BEGINS, type World } from './world.ts';

const unreachable = (why: string) => new Fault('broker_unreachable', why);

/** Told of what the broker stores and loses. */
export interface StoreWatch {
  stored(message: Stored, place: Place): void;
  lost(afterSeq: number): void;
}

/** How a message reaches the store; other than by its own `publish` only where a test breaks it on purpose. */
export type Publish = (store: MemoryStore, source: string, bytes: Uint8Array, place: Place) => Promise<void>;

/** The broker: one memory store for all, which may crash and lose what its disk had not got yet. */
export class Broker {
  readonly store: MemoryStore;
  readonly world: World;
  running = true;
  watch: StoreWatch | null = null;
  /** Stored at which moment of virtual time, by sequence; of the one changelog there is. */
  readonly storedAt = new Map<number, number>();

  readonly #publish: Publish;

  constructor(world: World, messageBytesMax: number, publish: Publish) {
    this.world = world;
    this.#publish = publish;
    const clock: Pick<Clock, 'now'> = { now: () => WORLD_BEGINS + Math.floor(world.now) };
    this.store = new MemoryStore(messageBytesMax, clock);
  }

  async publish(source: string, bytes: Uint8Array, place: Place): Promise<void> {
    await this.#publish(this.store, source, bytes, place);
    const seq = (await this.store.status(source))?.lastSeq ?? 0;
    this.storedAt.set(seq, this.world.now);
    this.world.tell(`stored ${seq} ${place.id} ${bytes.length}`);
    this.watch?.stored({ seq, bytes, storedAt: WORLD_BEGINS + this.world.now }, place);
  }

  /** The newest message that no crash can take any more: on disk for at least `syncMs`. */
  durableSeq(syncMs: number, lastSeq: number): number {
    for (let seq = lastSeq; seq > 0; seq--) if (this.world.now - (this.storedAt.get(seq) ?? 0) >= syncMs) return seq;
    return 0;
  }

  lose(source: string, afterSeq: number): void {
    this.store.lose(source, afterSeq);
    this.watch?.lost(afterSeq);
  }
}

/** One process's connection to the broker. */
export class SimStore implements Store {
  readonly messageBytesMax: number;
  readonly copies = null;
  readonly link: Link;
  readonly #broker: Broker;
  readonly #process: Process;

  constructor(broker: Broker, process: Process, weather: Weather) {
    this.#broker = broker;
    this.#process = process;
    this.messageBytesMax = broker.store.messageBytesMax;
    this.link = new Link(broker.world, process, { weather, unreachable, reconnects: true });
  }

  #ask<T>(answer: () => Promise<T>): Promise<T> {
    return this.link.call(() => {
      if (!this.#broker.running) throw unreachable('the broker is down');
      return answer();
    });
  }

  create(source: string, _options: ChangelogOptions): Promise<void> {
    return this.#ask(() => this.#broker.store.create(source));
  }

  status(source: string): Promise<ChangelogStatus | null> {
    return this.#ask(() => this.#broker.store.status(source));
  }

  list(): Promise<string[]> {
    return this.#ask(() => this.#broker.store.list());
  }

  get(source: string, seq: number): Promise<Stored | null> {
    return this.#ask(() => this.#broker.store.get(source, seq));
  }

  publish(source: string, bytes: Uint8Array, place: Place): Promise<void> {
    return this.#ask(() => this.#broker.publish(source, bytes, place));
  }

  onBreak(broken: () => void): () => void {
    return this.link.onBreak(broken);
  }

  async *follow(source: string, from: number, signal: AbortSignal): AsyncIterable<Stored> {
    const stop = new AbortController();
    const queue: Stored[] = [];
    let ended = false;
    let wake = () => {};
    const end = () => {
      ended = true;
      stop.abort();
      wake();
    };
    const unwatch = this.link.onBreak(end);
    const unhang = this.link.onHangup(() => stop.abort());
    signal.addEventListener('abort', end, { once: true });
    try {
      await this.#ask(async () => {
        void this.#serve(source, from, stop.signal, (message) => {
          if (message) queue.push(message);
          else ended = true;
          wake();
        });
      });
      while (!ended && !signal.aborted) {
        const message = queue.shift();
        if (message) yield message;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      stop.abort();
      unwatch();
      unhang();
      signal.removeEventListener('abort', end);
    }
  }

  /** The broker's side of {@link follow}; null = it ends. */
  async #serve(source: string, from: number, signal: AbortSignal, deliver: (message: Stored | null) => void): Promise<void> {
    for await (const message of this.#broker.store.follow(source, from, signal)) {
      if (signal.aborted || !this.#process.alive) return;
      this.link.down(() => deliver(message));
    }
    this.link.down(() => deliver(null));
  }
}
