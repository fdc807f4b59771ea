import { type Clock, type Kv, type KvEntry, type KvEvent } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import type { Log } from './actor.ts';
import { readLease } from './lease.ts';
import { aborted } from './together.ts';
import { type Assignment, Worker } from './worker.ts';

const quiet: Log = { debug() {}, info() {}, warn() {}, error() {} };
const TTL_MS = 10_000;

/** Time that stands still until it is moved; everything that became due runs to its end before `pass` goes on. */
class HeldClock implements Clock {
  #now = 0;
  #sleepers = new Set<{ readonly at: number; readonly wake: () => void }>();

  now(): number {
    return this.#now;
  }

  monotonic(): number {
    return this.#now;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason as Error);
      const abort = () => this.#sleepers.delete(sleeper) && reject(signal?.reason as Error);
      const wake = () => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
      const sleeper = { at: this.#now + ms, wake };
      this.#sleepers.add(sleeper);
      signal?.addEventListener('abort', abort, { once: true });
    });
  }

  async pass(ms: number): Promise<void> {
    const until = this.#now + ms;
    await settled();
    for (;;) {
      const next = [...this.#sleepers].toSorted((a, b) => a.at - b.at)[0];
      if (!next || next.at > until) break;
      this.#now = Math.max(this.#now, next.at);
      this.#sleepers.delete(next);
      next.wake();
      await settled();
    }
    this.#now = until;
  }
}

/** Everything that runs without waiting for time has run. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** How long a question waits for an answer that does not come, ms. */
const TIMEOUT_MS = 3_000;

/** A bucket whose link to one worker can be cut, and which can be without a leader. */
class Bucket {
  readonly #clock: Clock;
  /** Questions asked meanwhile are never answered. */
  leaderless = false;
  /** Of every answer, ms. */
  delayMs = 0;
  readonly entries = new Map<string, KvEntry>();
  #revision = 0;
  readonly #watchers = new Set<(event: KvEvent) => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** One worker's connection; while `cut`, nothing is answered and nothing told. */
  link(): Kv & { cut: boolean } {
    const link: Kv & { cut: boolean } = {
      cut: false,
      get: (key) => this.#reach(link, () => this.entries.get(key) ?? null),
      create: (key, value) => this.#reach(link, () => (this.entries.has(key) ? null : this.#put(key, value))),
      update: (key, value, revision) =>
        this.#reach(link, () => (this.entries.get(key)?.revision === revision ? this.#put(key, value) : null)),
      delete: (key, revision) =>
        this.#reach(link, () => {
          if (this.entries.get(key)?.revision !== revision) return false;
          this.entries.delete(key);
          this.#tell({ kind: 'delete', key, revision: ++this.#revision });
          return true;
        }),
      watch: (signal) => this.#watch(link, signal),
    };
    return link;
  }

  async #reach<T>(link: { readonly cut: boolean }, act: () => T): Promise<T> {
    if (link.cut) throw new Error('cut');
    if (this.leaderless) {
      await this.#clock.sleep(TIMEOUT_MS);
      throw new Error('TIMEOUT');
    }
    const answer = act();
    if (this.delayMs > 0) await this.#clock.sleep(this.delayMs);
    return answer;
  }

  async *#watch(link: { readonly cut: boolean }, signal: AbortSignal): AsyncGenerator<KvEvent> {
    const queue: KvEvent[] = [...this.entries.values()].map((entry) => ({ kind: 'put', ...entry }));
    queue.push({ kind: 'current' });
    let wake = () => {};
    const hear = (event: KvEvent) => {
      if (!link.cut) queue.push(event);
      wake();
    };
    this.#watchers.add(hear);
    signal.addEventListener('abort', () => wake());
    while (!signal.aborted) {
      const event = queue.shift();
      if (event) yield event;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
    this.#watchers.delete(hear);
  }

  #put(key: string, value: unknown): number {
    const revision = ++this.#revision;
    this.entries.set(key, { key, value, revision });
    this.#tell({ kind: 'put', key, value, revision });
    return revision;
  }

  #tell(event: KvEvent): void {
    for (const hear of this.#watchers) hear(event);
  }
}

/** Workers over one bucket and one clock, and who runs what. */
class Cluster {
  readonly clock = new HeldClock();
  readonly bucket = new Bucket(this.clock);
  /** Worker by assignment that runs at this moment; several = two run it. */
  readonly running = new Map<string, string[]>();
  readonly most = new Map<string, number>();

  assignments(id: string, names: readonly string[], fingerprint = '1'): Assignment[] {
    return names.map((name) => ({
      name,
      labels: {},
      fingerprint,
      actors: [
        {
          name,
          kind: 'source',
          make: () => ({
            facts: () => ({}),
            run: async (signal: AbortSignal, ready: () => void) => {
              const mark = `${id} ${fingerprint}`;
              this.running.set(name, [...(this.running.get(name) ?? []), mark]);
              this.most.set(name, Math.max(this.most.get(name) ?? 0, this.running.get(name)?.length ?? 0));
              ready();
              await aborted(signal);
              this.running.set(
                name,
                (this.running.get(name) ?? []).filter((one) => one !== mark),
              );
            },
          }),
        },
      ],
    }));
  }

  join(id: string, names: readonly string[]): { worker: Worker; kv: Kv & { cut: boolean } } {
    const kv = this.bucket.link();
    const { clock } = this;
    const worker = new Worker({
      id,
      service: 'source',
      labels: {},
      capacity: 1,
      kv,
      clock,
      log: quiet,
      ttlMs: TTL_MS,
      changed() {},
    });
    worker.start(this.assignments(id, names));
    return { worker, kv };
  }

  by(id: string): string[] {
    return [...this.running].filter(([, workers]) => workers.some((one) => one.startsWith(`${id} `))).map(([name]) => name);
  }

  lease(name: string) {
    return readLease(this.bucket.entries.get(`lease.${name}`)?.value);
  }
}

const four = ['source/a', 'source/b', 'source/c', 'source/d'];

describe('worker', () => {
  it('runs everything when alone, and shares when another joins, never twice at once', async () => {
    const cluster = new Cluster();
    const first = cluster.join('one', four);
    await cluster.clock.pass(100);
    expect(cluster.by('one').toSorted()).toEqual(four);
    const second = cluster.join('two', four);
    await cluster.clock.pass(1_000);
    expect([cluster.by('one').length, cluster.by('two').length]).toEqual([2, 2]);
    expect(Math.max(...cluster.most.values())).toBe(1);
    await Promise.all([first.worker.stop(), second.worker.stop()]);
  });

  it('W2: leaves at once, drained, and the other takes over without waiting for the lease to end', async () => {
    const cluster = new Cluster();
    const first = cluster.join('one', four);
    const second = cluster.join('two', four);
    await cluster.clock.pass(1_000);
    const stopped = first.worker.stop();
    await cluster.clock.pass(500);
    await stopped;
    expect(cluster.by('two').toSorted()).toEqual(four);
    expect(Math.max(...cluster.most.values())).toBe(1);
    expect(cluster.lease('source/a').epoch).toBeGreaterThan(0);
    await second.worker.stop();
    expect(four.map((name) => cluster.lease(name).owner)).toEqual(['', '', '', '']);
  });

  it('W1: a worker that is cut off stops before another may take its leases, and comes back', async () => {
    const cluster = new Cluster();
    const first = cluster.join('one', four);
    const second = cluster.join('two', four);
    await cluster.clock.pass(1_000);
    const before = cluster.lease(cluster.by('one')[0] as string).epoch;
    const mine = cluster.by('one');
    first.kv.cut = true;
    await cluster.clock.pass(TTL_MS * 0.8);
    expect(cluster.by('one')).toEqual([]);
    await cluster.clock.pass(TTL_MS * 0.6);
    expect(cluster.by('two').toSorted()).toEqual(four);
    expect(Math.max(...cluster.most.values())).toBe(1);
    expect(second.worker.takeovers).toBe(2);
    expect(cluster.lease(mine[0] as string).epoch).toBeGreaterThan(before);
    first.kv.cut = false;
    await cluster.clock.pass(TTL_MS);
    expect([cluster.by('one').length, cluster.by('two').length]).toEqual([2, 2]);
    await Promise.all([first.worker.stop(), second.worker.stop()]);
  });

  it('outlasts an election of the leader of the bucket, though what it asked meanwhile is never answered', async () => {
    const cluster = new Cluster();
    const first = cluster.join('one', four);
    const second = cluster.join('two', four);
    await cluster.clock.pass(1_000);
    const epochs = () => four.map((name) => cluster.lease(name));
    const before = epochs();
    for (let election = 0; election < 10; election++) {
      // Whatever the moment at which it begins.
      await cluster.clock.pass(TTL_MS + 330);
      cluster.bucket.leaderless = true;
      await cluster.clock.pass(4_400);
      cluster.bucket.leaderless = false;
      await cluster.clock.pass(1_000);
      expect(epochs()).toEqual(before);
    }
    await cluster.clock.pass(TTL_MS);
    await Promise.all([first.worker.stop(), second.worker.stop()]);
  });

  it('keeps its leases where every answer takes longer than it takes to ask again', async () => {
    const cluster = new Cluster();
    const { worker } = cluster.join('one', four);
    await cluster.clock.pass(1_000);
    cluster.bucket.delayMs = 1_700;
    await cluster.clock.pass(5 * TTL_MS);
    expect(four.map((name) => cluster.lease(name))).toEqual(four.map(() => ({ owner: 'one', epoch: 1 })));
    cluster.bucket.delayMs = 0;
    await worker.stop();
  });

  it('takes the leases of its own former self at once', async () => {
    const cluster = new Cluster();
    const killed = cluster.join('one', four);
    await cluster.clock.pass(100);
    killed.kv.cut = true;
    cluster.running.clear();
    const again = cluster.join('one', four);
    await cluster.clock.pass(100);
    expect(cluster.by('one').toSorted()).toEqual(four);
    expect(again.worker.takeovers).toBe(0);
    await again.worker.stop();
  });

  it('a lost bucket stops nobody: the lease is made anew with its epoch', async () => {
    const cluster = new Cluster();
    const { worker } = cluster.join('one', four);
    await cluster.clock.pass(100);
    cluster.bucket.entries.clear();
    await cluster.clock.pass(TTL_MS);
    expect(cluster.lease('source/a')).toEqual({ owner: 'one', epoch: 1 });
    expect(cluster.by('one').toSorted()).toEqual(four);
    expect(Math.max(...cluster.most.values())).toBe(1);
    await worker.stop();
  });

  it('follows another desired state without a restart of what did not change', async () => {
    const cluster = new Cluster();
    const { worker } = cluster.join('one', four);
    await cluster.clock.pass(100);
    worker.assign([...cluster.assignments('one', ['source/a']), ...cluster.assignments('one', ['source/b', 'source/e'], '2')]);
    await cluster.clock.pass(100);
    expect(Object.fromEntries([...cluster.running].filter(([, workers]) => workers.length > 0))).toEqual({
      'source/a': ['one 1'],
      'source/b': ['one 2'],
      'source/e': ['one 2'],
    });
    expect(cluster.lease('source/a').epoch).toBe(1);
    await worker.stop();
  });
});
