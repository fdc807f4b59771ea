import { describeError, Fault, type Kv, type KvEntry, type KvEvent } from '@tributary/core';
import { type KV, type KvEntry as NatsEntry, KvWatchInclude, NatsError, type QueuedIterator, StorageType } from 'nats';
import type { NatsLink } from './connection.ts';

/** Leases, workers, desired state. */
export const CLUSTER_BUCKET = 'tributary';
/** Where projections stand that have no database of their own to note it in. */
export const POSITIONS_BUCKET = 'tributary_positions';
const WRONG_LAST_SEQUENCE = 10071;
const STREAM_NOT_FOUND = 10059;
/** Shorter than what is left of a lease when its renewal begins: an answer that comes later is of no use. */
const TIMEOUT_MS = 3_000;

/**
 * A JetStream KV bucket as {@link Kv}; `nats kv get BUCKET …` reads it. It is made by the first write, and again
 * when it was lost. Reads go to the stream's leader (no direct get): a follower may answer with what was.
 */
export class NatsKv implements Kv {
  readonly #link: NatsLink;
  readonly #replicas: number;
  readonly #name: string;
  #bucket: Promise<KV> | null = null;

  constructor(link: NatsLink, name: string, replicas: number) {
    this.#link = link;
    this.#name = name;
    this.#replicas = replicas;
  }

  async get(key: string): Promise<KvEntry | null> {
    const entry = await this.#asked((bucket) => bucket.get(key));
    return entry?.operation === 'PUT' ? { key, value: read(entry), revision: entry.revision } : null;
  }

  create(key: string, value: unknown): Promise<number | null> {
    return this.#written((bucket) => bucket.create(key, JSON.stringify(value)));
  }

  update(key: string, value: unknown, revision: number): Promise<number | null> {
    return this.#written((bucket) => bucket.update(key, JSON.stringify(value), revision));
  }

  async delete(key: string, revision: number): Promise<boolean> {
    const written = await this.#written(async (bucket) => {
      await bucket.delete(key, { previousSeq: revision });
      return revision;
    });
    return written !== null;
  }

  async *watch(signal: AbortSignal, key = '>'): AsyncIterable<KvEvent> {
    const queue: KvEvent[] = [];
    let ended = signal.aborted;
    let wake = () => {};
    const push = (event: KvEvent) => {
      queue.push(event);
      wake();
    };
    let leave = () => {};
    const left = new Promise<null>((resolve) => (leave = () => resolve(null)));
    const end = () => {
      ended = true;
      leave();
      wake();
    };
    if (ended) return;
    const unwatch = this.#link.onBreak(end);
    signal.addEventListener('abort', end);
    let entries: QueuedIterator<NatsEntry> | null = null;
    try {
      const opening = this.#asked((bucket) =>
        bucket.watch({ key, include: KvWatchInclude.LastValue, initializedFn: () => push({ kind: 'current' }) }),
      );
      entries = await Promise.race([opening, left]);
      // Nobody waits any more for a broker that does not answer; what it opens then is closed again.
      if (!entries) {
        opening.then(
          (late) => late.stop(),
          () => {},
        );
        return;
      }
      void drain(entries, push, end);
      while (!ended) {
        const event = queue.shift();
        if (event) yield event;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      unwatch();
      signal.removeEventListener('abort', end);
      entries?.stop();
    }
  }

  /** @returns null when the write was refused because of the revision */
  async #written(write: (bucket: KV) => Promise<number>): Promise<number | null> {
    try {
      return await this.#asked(write);
    } catch (error) {
      if (code(error) === WRONG_LAST_SEQUENCE) return null;
      throw error;
    }
  }

  async #asked<T>(question: (bucket: KV) => Promise<T>): Promise<T> {
    try {
      return await question(await this.#open());
    } catch (error) {
      if (!(error instanceof NatsError)) throw error;
      if (code(error) === WRONG_LAST_SEQUENCE) throw error;
      if (lost(error)) this.#bucket = null;
      throw new Fault('broker_unreachable', `NATS: bucket ${this.#name}: ${describeError(error)}`, {}, { cause: error });
    }
  }

  #open(): Promise<KV> {
    if (this.#bucket) return this.#bucket;
    const opening = this.#link.connection
      .jetstream({ timeout: TIMEOUT_MS })
      .views.kv(this.#name, { history: 1, storage: StorageType.File, replicas: this.#replicas, allow_direct: false });
    this.#bucket = opening;
    opening.catch(() => {
      if (this.#bucket === opening) this.#bucket = null;
    });
    return opening;
  }
}

async function drain(entries: QueuedIterator<NatsEntry>, push: (event: KvEvent) => void, end: () => void): Promise<void> {
  try {
    for await (const entry of entries) {
      const { key, revision } = entry;
      push(entry.operation === 'PUT' ? { kind: 'put', key, value: read(entry), revision } : { kind: 'delete', key, revision });
    }
  } catch {
    // The watch is opened again by its reader, whatever ended it.
  }
  end();
}

/** Anybody may write to a bucket; what is not JSON is nobody's value. */
function read(entry: NatsEntry): unknown {
  try {
    return entry.json();
  } catch {
    return null;
  }
}

function code(error: unknown): number | undefined {
  return error instanceof NatsError ? error.api_error?.err_code : undefined;
}

/** No stream answers: the bucket is gone, or nobody leads it at the moment. */
function lost(error: NatsError): boolean {
  return code(error) === STREAM_NOT_FOUND || error.code === '503' || error.code === '404';
}
