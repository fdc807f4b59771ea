import type { Changelogs } from '@tributary/changelog';
import type { ActorStatus } from '@tributary/cluster';
import type { Bus } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { Observer } from './observer.ts';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const WATERMARK_MS = 1_000_000;

/** One changelog of ten messages of 500 bytes each. */
const changelogs = {
  list: async () => ['shop'],
  status: async () => ({ firstSeq: 1, lastSeq: 10, messages: 10, bytes: 5_000 }),
} as unknown as Changelogs;

function world() {
  let now = WATERMARK_MS;
  const clock = { now: () => now, monotonic: () => now, sleep: () => Promise.reject(new Error('nobody sleeps here')) };
  const registered = async () => [
    { name: 'source/shop', kind: 'source' },
    { name: 'ods/shop', kind: 'ods' },
    { name: 'lake', kind: 'query' },
  ];
  const observer = new Observer({ bus: {} as Bus, changelogs, clock, log: quiet, sources: [], registered });
  const lease = (worker: string, epoch: number) =>
    observer.hear({
      worker,
      service: 'sink',
      at: now,
      actors: [],
      leases: [{ assignment: 'ods/shop', epoch, heldMs: 1, renewedMs: 2 }],
    });
  const tell = (actor: Partial<ActorStatus>) =>
    observer.hear({
      worker: 'w',
      service: 'sink',
      at: now,
      actors: [{ name: 'ods/shop', kind: 'ods', state: 'running', restarts: 0, faults: {}, fault: null, facts: {}, ...actor }],
    });
  return { observer, tell, lease, at: (ms: number) => (now = ms) };
}

const stands = (seq: number) => ({ position: { seq, lsn: '0/1' }, watermark: WATERMARK_MS * 1_000, lagMs: 3, applied: 1 });

describe('what is known of a projection', () => {
  it('lag is how late the last group came while nothing waits', async () => {
    const { observer, tell, at } = world();
    await observer.refresh();
    tell({ facts: stands(10) });
    at(WATERMARK_MS + 4_000);
    expect(observer.status().projections[0]).toMatchObject({ lagMs: 3, lagMessages: 0, lagBytes: 0, watermark: WATERMARK_MS });
  });

  it('lag grows with the clock while messages wait, and bytes are estimated', async () => {
    const { observer, tell, at } = world();
    await observer.refresh();
    tell({ facts: stands(6) });
    at(WATERMARK_MS + 4_000);
    expect(observer.status().projections[0]).toMatchObject({ lagMs: 4_000, lagMessages: 4, lagBytes: 2_000 });
  });

  it('lag grows on when the projection cannot start and tells no position any more', async () => {
    const { observer, tell, at } = world();
    await observer.refresh();
    tell({ facts: stands(6) });
    at(WATERMARK_MS + 60_000);
    tell({ state: 'waiting', facts: { position: null, watermark: 0, lagMs: 0 }, faults: { database_unreachable: 4 } });
    expect(observer.status().projections[0]).toMatchObject({
      state: 'waiting',
      lagMs: 60_000,
      lagMessages: 4,
      faults: { database_unreachable: 4 },
    });
  });

  it('what nobody leads is shown as such, with the lag of what it held', async () => {
    const { observer, tell, at } = world();
    await observer.refresh();
    expect(observer.status()).toMatchObject({
      sources: [{ name: 'shop', state: 'unassigned' }],
      projections: [{ name: 'ods/shop', state: 'unassigned', worker: null, lagMs: null }],
    });
    tell({ facts: stands(6) });
    at(WATERMARK_MS + 20_000);
    expect(observer.status().projections).toMatchObject([{ state: 'unassigned', lagMs: 20_000, lagMessages: 4 }]);
  });

  it('of two who think that they have a lease the later epoch counts', () => {
    const { observer, lease } = world();
    lease('new', 8);
    lease('old', 7);
    expect(observer.status().leases).toMatchObject([{ assignment: 'ods/shop', worker: 'new', epoch: 8 }]);
  });
});

it('ends though the broker has not answered what it was asked', async () => {
  const clock = { now: () => 0, monotonic: () => 0, sleep: () => Promise.reject(new Error('nobody sleeps here')) };
  const silent = { list: () => new Promise(() => {}) } as unknown as Changelogs;
  const observer = new Observer({ bus: {} as Bus, changelogs: silent, clock, log: quiet, sources: [] });
  void observer.refresh();
  await observer.close();
});
