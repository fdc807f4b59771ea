import { randomBytes } from 'node:crypto';
import { type BatchDraft, memoryBroker, SectionDraft } from '@tributary/changelog';
import { Op, ORIGIN, type Position, READ_ORDINAL_MIN, systemClock, WHOLE } from '@tributary/core';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { ProjectionActor } from './actor.ts';
import type { Group, Projection } from './projection.ts';

const common = {
  source: 'shop',
  epoch: 'e',
  restart: 0n,
  watermark: 1,
  continues: false,
  more: false,
  state: null,
} as const;

/** A transaction without rows. */
const commit = (lsn: bigint, patch: { more?: boolean } = {}): BatchDraft => {
  const transactions = [{ lsn, endLsn: lsn + 1n, xid: Number(lsn), committedAt: Number(lsn) }];
  const header = { ...common, ...patch, kind: 'stream', position: { lsn, ordinal: 1 }, transactions, mark: null } as const;
  return { header, sections: [] };
};

/** Rows of each message of what is read: none, or so many that two messages are more than is kept until its end is there. */
let filler: BatchDraft['sections'] = [];

function large(): BatchDraft['sections'] {
  const type = { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' } as const;
  const columns = [{ name: 'a', type, typmod: -1, sqlType: 'text', key: 0 }];
  const section = new SectionDraft({ schema: 'public', table: 'log', identity: 'full', columns });
  section.cells[0]?.push(randomBytes(300_000).toString('hex'));
  section.row(Op.read, 0, 1);
  return [section];
}

/** The `index`th message of a reading in one piece behind a transaction; `until` names where nothing is left out any more. */
const read = (
  step: 'begin' | 'chunk' | 'end' | 'gap',
  { lsn, index }: { lsn: bigint; index: number },
  until?: string,
  sections: BatchDraft['sections'] = filler,
): BatchDraft => {
  const mark = { step, table: 'public.log', generation: 1, reset: true, ...(until ? { progress: until } : {}) };
  const position = { lsn, ordinal: READ_ORDINAL_MIN + index };
  return { header: { ...common, kind: 'read', position, transactions: [], mark }, sections };
};

/** A projection of the changelog `shop` that notes at which places it may stand. */
async function world(held: Promise<void> = Promise.resolve()) {
  const broker = memoryBroker();
  const { changelogs, bus, store } = broker;
  const reading = vi.spyOn(changelogs, 'read');
  const writer = await changelogs.write('shop', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
  const stands: number[] = [];
  const seen: number[] = [];
  let position: Position = ORIGIN;
  const projection: Projection = {
    position: async () => position,
    apply: async ({ batches, after, partial }: Group): Promise<void> => {
      seen.push(...batches.map(({ seq }) => seq));
      if (partial) return held;
      position = after;
      stands.push(after.seq);
    },
    reset: async () => {},
    rewind: async () => {},
    held: () => new Map(),
    close: async () => {},
  };
  const actor = new ProjectionActor({
    sink: 'ods',
    source: 'shop',
    part: WHOLE,
    changelogs,
    bus,
    clock: systemClock,
    groupBytes: 1,
    restMs: 0,
    open: async () => projection,
  });
  const stop = new AbortController();
  let ended: Promise<void> = Promise.resolve();
  await new Promise<void>((ready) => {
    ended = actor.run(stop.signal, ready, async () => {});
  });
  const reached = async (seq: number) => {
    for await (const _ of bus.ask('tributary.projection.ods.shop.reached', { seq }));
  };
  const append = async (...drafts: BatchDraft[]) => {
    for (const draft of drafts) await writer.append(draft);
  };
  return { reads: () => reading.mock.calls.length, store, stands, seen, stop, ended: () => ended, reached, append };
}

describe.each([
  ['small', () => []],
  ['large', large],
])('a %s table read in one piece', (size, rows) => {
  beforeEach(() => {
    filler = rows();
  });

  const [small, big] = size === 'small' ? [it, null] : [null, it];

  small?.('needs no reader of its own', async () => {
    const { reads, stop, ended, reached, append } = await world();
    for (let n = 1; n <= 20; n++) {
      const lsn = BigInt(2 * n);
      await append(read('begin', { lsn, index: 0 }, '0/1'), read('end', { lsn, index: 1 }), commit(lsn + 1n));
    }
    await reached(60);
    expect(reads()).toBe(1);
    stop.abort();
    await ended();
  });

  it('is a group of its own up to where nothing is left out of the stream any more', async () => {
    const { stands, stop, ended, reached, append } = await world();
    await append(commit(1n));
    await reached(1);
    await append(
      read('begin', { lsn: 1n, index: 0 }, '0/5'),
      read('chunk', { lsn: 1n, index: 1 }),
      read('end', { lsn: 1n, index: 2 }),
    );
    await append(commit(4n), commit(5n, { more: true }), commit(5n + 1n), commit(7n));
    await reached(8);
    expect(stands).toEqual([1, 7, 8]);
    stop.abort();
    await ended();
  });

  it('is not touched before its end is there, so nothing is held open for it; a second beginning takes the place of the first', async () => {
    const { stands, seen, stop, ended, reached, append } = await world();
    await append(commit(1n), read('begin', { lsn: 1n, index: 0 }, '0/2'), read('chunk', { lsn: 1n, index: 1 }), commit(3n));
    await reached(1);
    await append(read('begin', { lsn: 3n, index: 0 }, '0/3'), commit(4n));
    expect(seen).toEqual([1]);
    await append(read('end', { lsn: 4n, index: 0 }));
    await reached(7);
    expect(stands).toEqual([1, 7]);
    stop.abort();
    await ended();
  });

  it('is waited for no longer where an epoch begins that reads everything again', async () => {
    const { stands, stop, ended, reached, append } = await world();
    await append(read('begin', { lsn: 0n, index: 0 }, '0/9'), read('gap', { lsn: 0n, index: 1 }, '0/9'));
    await reached(2);
    expect(stands).toEqual([2]);
    stop.abort();
    await ended();
  });

  it('is forgotten by a projection whose connection broke before it had all of it: the broker may have lost what it has', async () => {
    const { store, stands, stop, ended, reached, append } = await world();
    await append(commit(1n), read('begin', { lsn: 1n, index: 0 }, '0/2'), read('end', { lsn: 1n, index: 1 }));
    await reached(1);
    const failed = ended().then(
      () => null,
      (error: unknown) => error,
    );
    store.lose('shop', 1);
    expect(await failed).toMatchObject({ kind: 'broker_unreachable' });
    expect(stands).toEqual([1]);
    stop.abort();
  });

  big?.(
    'is not finished with what another leader wrote behind its beginning, where the connection broke in its midst',
    async () => {
      let release = () => {};
      const { store, stands, seen, stop, ended, append } = await world(new Promise((resolve) => (release = resolve)));
      const failed = ended().then(
        () => null,
        (error: unknown) => error,
      );
      const [begin, end] = [read('begin', { lsn: 1n, index: 0 }, '0/2'), read('end', { lsn: 1n, index: 1 })];
      await append(commit(1n), begin, end, commit(2n));
      await expect.poll(() => seen).toEqual([1, 2]);
      store.lose('shop', 2);
      release();
      expect(await failed).toMatchObject({ kind: 'broker_unreachable' });
      expect(stands).toEqual([1]);
      stop.abort();
    },
  );
});
