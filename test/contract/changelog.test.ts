import {
  compareSourcePosition,
  Fault,
  LIMITS,
  Op,
  ORIGIN,
  type Position,
  READ_ORDINAL_MIN,
  type SourcePosition,
  type StoredBatch,
  type TableSchema,
} from '@tributary/core';
import { type BatchDraft, type Broker, connectNats, memoryBroker, replayPlace, SectionDraft } from '@tributary/changelog';
import { obtainNatsServer, startNats, temporaryFolder } from '@tributary/embedded';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BROKERS } from '../fixtures/brokers.ts';

const table: TableSchema = {
  schema: 'public',
  table: 't',
  identity: 'default',
  columns: [
    { name: 'id', type: { oid: 20, schema: 'pg_catalog', name: 'int8', kind: 'base' }, typmod: -1, sqlType: 'bigint', key: 1 },
  ],
};
const options = { replicas: 1, maxAgeMs: 0, maxBytes: 0 };

/** Rows of one table, one a transaction of the batch. */
function rows(name: string, texts: readonly string[], ordinal = 1): SectionDraft {
  const section = new SectionDraft({ ...table, table: name });
  for (const [transaction, text] of texts.entries()) {
    section.cells[0]?.push(text);
    section.row(Op.created, transaction, ordinal);
  }
  return section;
}

/** A batch of one transaction whose only row has `id` = text. */
function batch(lsn: number, id: string, patch: Partial<BatchDraft['header']> = {}): BatchDraft {
  const at = BigInt(lsn);
  return {
    header: {
      source: 's',
      epoch: 'e',
      kind: 'stream',
      position: { lsn: at, ordinal: 1 },
      restart: at + 10n,
      watermark: lsn,
      continues: false,
      more: false,
      transactions: [{ lsn: at, endLsn: at + 10n, xid: lsn, committedAt: lsn }],
      mark: null,
      state: null,
      ...patch,
    },
    sections: [rows('t', [id])],
  };
}

function ids(batches: StoredBatch[]): string[] {
  return batches.flatMap((b) => b.sections.flatMap((s) => (s.columns[0]?.values() ?? []) as string[]));
}

async function take(
  broker: Broker,
  source: string,
  after: Position,
  { count, wants }: { count: number; wants?: (table: string) => boolean },
): Promise<StoredBatch[]> {
  const stop = new AbortController();
  const got: StoredBatch[] = [];
  for await (const one of broker.changelogs.read(source, { after, signal: stop.signal, ...(wants ? { wants } : {}) })) {
    got.push(one);
    if (got.length === count) break;
  }
  stop.abort();
  return got;
}

function positionOf(stored: StoredBatch): Position {
  return { seq: stored.seq, ...stored.header.position };
}

describe.each(BROKERS)('changelog on $name', ({ open }) => {
  let broker: Broker;
  let other: Broker;
  let close: () => Promise<void>;
  let count = 0;
  const fresh = () => `source_${++count}`;

  beforeAll(async () => {
    ({ broker, other, close } = await open());
  });
  afterAll(() => close());

  it('gives a reader what was appended, in order, from any position', async () => {
    const source = fresh();
    const writer = await broker.changelogs.write(source, options);
    expect(writer.last).toBeNull();
    const seqs = await Promise.all(Array.from({ length: 200 }, (_, i) => writer.append(batch(100 + i * 10, `${i}`))));
    expect(seqs).toEqual(Array.from({ length: 200 }, (_, i) => i + 1));
    const all = await take(other, source, ORIGIN, { count: 200 });
    expect(ids(all)).toEqual(Array.from({ length: 200 }, (_, i) => `${i}`));
    expect(all[0]?.header.follows).toEqual({ lsn: 0n, ordinal: 0 });
    for (let i = 1; i < all.length; i++) expect(all[i]?.header.follows).toEqual(all[i - 1]?.header.position);
    const rest = await take(other, source, positionOf(all[149] as StoredBatch), { count: 50 });
    expect(ids(rest)).toEqual(Array.from({ length: 50 }, (_, i) => `${150 + i}`));
    expect(writer.pendingBytes).toBe(0);
    await writer.close();
  });

  it('lets a reader wait for a changelog and for batches that do not exist yet', async () => {
    const source = fresh();
    const reading = take(other, source, ORIGIN, { count: 2 });
    const writer = await broker.changelogs.write(source, options);
    await writer.append(batch(1, 'a'));
    await writer.append(batch(2, 'b'));
    expect(ids(await reading)).toEqual(['a', 'b']);
  });

  it('I3: refuses the older of two writers, for ever, also what it had pipelined, and keeps the order of the newer', async () => {
    const source = fresh();
    const old = await broker.changelogs.write(source, options);
    await old.append(batch(1, 'a'));
    const young = await other.changelogs.write(source, options);
    expect(young.last?.header.position).toEqual({ lsn: 1n, ordinal: 1 });
    await young.append(batch(2, 'b'));
    const late = await Promise.allSettled([old.append(batch(2, 'x')), old.append(batch(3, 'y'))]);
    for (const one of late) {
      expect(one.status === 'rejected' && one.reason instanceof Fault && one.reason.kind).toBe('fenced');
    }
    await expect(old.append(batch(4, 'z'))).rejects.toMatchObject({ kind: 'fenced' });
    await young.append(batch(3, 'c'));
    expect(ids(await take(other, source, ORIGIN, { count: 3 }))).toEqual(['a', 'b', 'c']);
  });

  it('gives a new writer the last batch and the newest state', async () => {
    const source = fresh();
    const first = await broker.changelogs.write(source, options);
    await first.append(batch(1, 'a', { state: { tables: ['t'] } }));
    await first.append(batch(2, 'b'));
    await first.append(batch(3, 'c'));
    const second = await other.changelogs.write(source, options);
    expect(second.last).toMatchObject({ seq: 3, header: { position: { lsn: 3n }, stateSeq: 1 }, state: { tables: ['t'] } });
    await second.append(batch(4, 'd'));
    const third = await other.changelogs.write(source, options);
    expect(third.last).toMatchObject({ seq: 4, header: { stateSeq: 1 }, state: { tables: ['t'] } });
  });

  it('carries a row larger than the largest message', async () => {
    const source = fresh();
    const huge = 'x'.repeat(300_000);
    const writer = await broker.changelogs.write(source, options);
    await writer.append(batch(1, 'a'));
    await writer.append(batch(2, huge));
    await writer.append(batch(3, 'c'));
    const all = await take(other, source, ORIGIN, { count: 3 });
    expect(ids(all)).toEqual(['a', huge, 'c']);
    const again = await other.changelogs.write(source, options);
    expect(again.last?.header.position).toEqual({ lsn: 3n, ordinal: 1 });
    expect(ids(await take(other, source, positionOf(all[0] as StoredBatch), { count: 2 }))).toEqual([huge, 'c']);
    await again.append(batch(4, huge));
    const last = await other.changelogs.last(source);
    expect(last?.header.position).toEqual({ lsn: 4n, ordinal: 1 });
  });

  it('tells when room is free again', async () => {
    const source = fresh();
    const writer = await broker.changelogs.write(source, options);
    const sent = Array.from({ length: 50 }, (_, i) => writer.append(batch(i + 1, 'y'.repeat(1000))));
    expect(writer.pendingBytes).toBeGreaterThan(50_000);
    await writer.belowPending(10_000);
    expect(writer.pendingBytes).toBeLessThanOrEqual(10_000);
    await Promise.all(sent);
  });

  it('finds a position by time and lists changelogs', async () => {
    const source = fresh();
    const writer = await broker.changelogs.write(source, options);
    await writer.append(batch(1, 'a'));
    const [stored] = await take(other, source, ORIGIN, { count: 1 });
    expect(await other.changelogs.find(source, 0)).toMatchObject({ seq: 1, lsn: 1n });
    expect(await other.changelogs.find(source, (stored as StoredBatch).storedAt + 60_000)).toBeNull();
    expect(await other.changelogs.list()).toContain(source);
    expect(await other.changelogs.status(source)).toMatchObject({ firstSeq: 1, lastSeq: 1, messages: 1 });
    expect(await other.changelogs.status('nothing')).toBeNull();
    expect(await other.changelogs.last('nothing')).toBeNull();
  });

  it('gives a reader only the tables it wants, and every position all the same', async () => {
    const source = fresh();
    const writer = await broker.changelogs.write(source, options);
    await writer.append({ ...batch(10, 'a1'), sections: [rows('a', ['a1']), rows('b', ['b1'], 2), rows('c', ['c1'], 3)] });
    await writer.append({ ...batch(20, 'c2'), sections: [rows('c', ['c2'])] });
    await writer.append({ ...batch(30, 'b3'), sections: [rows('b', ['b3'.padEnd(200_000)]), rows('a', ['a3'], 2)] });
    await writer.append(batch(40, 't4'));
    const asked: string[] = [];
    const wants = (name: string) => {
      asked.push(name);
      return name === 'public.b' || name === 'public.t';
    };
    const got = await take(other, source, ORIGIN, { count: 4, wants });
    expect(ids(got).map((id) => id.trim())).toEqual(['b1', 'b3', 't4']);
    expect(got.map((one) => one.seq)).toEqual((await take(other, source, ORIGIN, { count: 4 })).map((one) => one.seq));
    expect(got.map((one) => one.header.transactions.length)).toEqual([1, 1, 1, 1]);
    expect(asked).toEqual(['a', 'b', 'c', 'c', 'b', 'a', 't'].map((name) => `public.${name}`));
  });

  it('finds where a replay begins, by position and by time, at transaction ends, and says what it does not hold', async () => {
    const source = fresh();
    const writer = await broker.changelogs.write(source, options);
    const second = 1_000_000;
    for (let i = 1; i <= 20; i++) {
      // The tenth is a large transaction: its first two messages end inside it.
      const more = i === 10 || i === 11;
      const lsn = i === 11 || i === 12 ? 100 : i * 10;
      const ordinal = i === 11 ? 2 : i === 12 ? 3 : 1;
      await writer.append(
        batch(lsn, i === 7 ? 'x'.repeat(200_000) : `${i}`, {
          position: { lsn: BigInt(lsn), ordinal },
          watermark: lsn * second,
          more,
          continues: i === 11 || i === 12,
        }),
      );
    }
    const at = (from: string) => replayPlace(other.changelogs, source, from);
    const lsnAt = async (from: string) => Number((await at(from)).lsn);
    expect(await at('start')).toEqual({ ...ORIGIN, watermark: 0 });
    expect(await lsnAt('0/32+1')).toBe(50);
    expect(await lsnAt('0/33')).toBe(50);
    expect(await lsnAt('0/46+1')).toBe(70);
    // Inside the large transaction, and on its parts: before it as a whole.
    expect(await lsnAt('0/64+1')).toBe(90);
    expect(await lsnAt('0/64+2')).toBe(90);
    expect(await at('0/64+3')).toMatchObject({ lsn: 100n, ordinal: 3 });
    expect(await at('0/5')).toMatchObject(ORIGIN);
    // Everything committed at or after the time: the batch whose watermark is that time is replayed.
    expect(await lsnAt(new Date(50_000).toISOString())).toBe(40);
    expect(await lsnAt(new Date(50_001).toISOString())).toBe(50);
    expect(await at('1970-01-01T00:00:01Z')).toMatchObject(ORIGIN);
    const rest = await take(other, source, await at('0/46+1'), { count: 2 });
    expect(ids(rest)).toEqual(['8', '9']);
    await expect(at('0/FFFF')).rejects.toMatchObject({ kind: 'outside_history', message: expect.stringContaining('0/C8+1') });
    await expect(at('2100-01-01T00:00:00Z')).rejects.toMatchObject({ kind: 'outside_history' });
    await expect(at('yesterday')).rejects.toMatchObject({ kind: 'config_invalid' });
    await expect(replayPlace(other.changelogs, 'nothing', '0/1')).rejects.toMatchObject({ kind: 'outside_history' });
  });

  it('lets a reader that stands somewhere wait at a changelog that is still empty', async () => {
    const source = fresh();
    const writer = await broker.changelogs.write(source, options);
    const reading = take(other, source, { seq: 7, lsn: 5n, ordinal: 1 }, { count: 1 });
    expect(await other.changelogs.foreign(source, { seq: 7, lsn: 5n, ordinal: 1, epoch: 'other' })).toBeNull();
    await writer.append(batch(6, 'a'));
    expect(ids(await reading)).toEqual(['a']);
  });

  it('ends a reader that is told to stop', async () => {
    const source = fresh();
    await broker.changelogs.write(source, options);
    const stop = new AbortController();
    const reading = (async () => {
      for await (const one of other.changelogs.read(source, { after: ORIGIN, signal: stop.signal })) return one;
      return 'ended';
    })();
    stop.abort();
    expect(await reading).toBe('ended');
  });
});

describe('changelog on nats with large messages', () => {
  it('carries messages larger than what a reader asks for at once, between small ones', async () => {
    const { path: binary } = await obtainNatsServer({});
    const server = await startNats({ dir: await temporaryFolder('contract'), binary });
    const broker = await connectNats({ url: server.url });
    try {
      const writer = await broker.changelogs.write('large', options);
      const sizes = [10, 2 * LIMITS.readAheadBytes, 20, LIMITS.readAheadBytes / 2, LIMITS.readAheadBytes / 4, 30, 2_000_000, 40];
      await Promise.all(sizes.map((size, i) => writer.append(batch(100 + i * 20, 'x'.repeat(size)))));
      const got = ids(await take(broker, 'large', ORIGIN, { count: sizes.length }));
      expect(got.map((text) => text.length)).toEqual(sizes);
    } finally {
      await broker.close();
      await server.stop();
    }
  });
});

describe('a stream that is not what the reader knew (memory)', () => {
  const lsnOf = (p: SourcePosition | undefined) => p?.lsn;

  it('I7: lost its tail and was written again with other cuts: nothing missed, nothing twice', async () => {
    const broker = memoryBroker();
    const writer = await broker.changelogs.write('s', options);
    for (let i = 1; i <= 6; i++) await writer.append(batch(i, `${i}`));
    const held = positionOf((await take(broker, 's', ORIGIN, { count: 5 }))[4] as StoredBatch);
    broker.store.lose('s', 3);
    const again = await broker.changelogs.write('s', options);
    expect(lsnOf(again.last?.header.position)).toBe(3n);
    const both = batch(4, '4');
    const merged: BatchDraft = {
      header: {
        ...both.header,
        position: { lsn: 6n, ordinal: 1 },
        transactions: [4, 5, 6].map((n) => ({ lsn: BigInt(n), endLsn: BigInt(n) + 10n, xid: n, committedAt: n })),
      },
      sections: [new SectionDraft(table)],
    };
    for (const n of [4, 5, 6]) {
      merged.sections[0]?.cells[0]?.push(`${n}`);
      merged.sections[0]?.row(Op.created, n - 4, 1);
    }
    await again.append(merged);
    await again.append(batch(7, '7'));
    const rest = await take(broker, 's', held, { count: 2 });
    expect(ids(rest)).toEqual(['6', '7']);
    expect(rest[0]?.header.transactions.map((t) => t.xid)).toEqual([6]);
  });

  it('I7: the same for a reader that wants one table of several', async () => {
    const broker = memoryBroker();
    const writer = await broker.changelogs.write('s', options);
    const both = (n: number): BatchDraft => ({
      ...batch(n, ''),
      sections: [rows('a', [`a${n}`]), rows('b', [`b${n}`], 2)],
    });
    for (let i = 1; i <= 4; i++) await writer.append(both(i));
    const held = positionOf((await take(broker, 's', ORIGIN, { count: 3 }))[2] as StoredBatch);
    broker.store.lose('s', 1);
    const again = await broker.changelogs.write('s', options);
    await again.append({
      header: {
        ...batch(4, '').header,
        transactions: [2, 3, 4].map((n) => ({ lsn: BigInt(n), endLsn: BigInt(n) + 10n, xid: n, committedAt: n })),
      },
      sections: [rows('a', ['a2', 'a3', 'a4']), rows('b', ['b2', 'b3', 'b4'], 2)],
    });
    await again.append(both(5));
    const rest = await take(broker, 's', held, { count: 2, wants: (name) => name === 'public.b' });
    expect(ids(rest)).toEqual(['b4', 'b5']);
  });

  it('I7: the same under a reader that runs', async () => {
    const broker = memoryBroker();
    const writer = await broker.changelogs.write('s', options);
    for (let i = 1; i <= 5; i++) await writer.append(batch(i, `${i}`));
    const stop = new AbortController();
    const got: string[] = [];
    let at5: () => void = () => {};
    const reached5 = new Promise<void>((resolve) => (at5 = resolve));
    const reading = (async () => {
      for await (const one of broker.changelogs.read('s', { after: ORIGIN, signal: stop.signal })) {
        got.push(...ids([one]));
        if (got.at(-1) === '5') at5();
        if (got.at(-1) === '8') return;
      }
    })();
    await reached5;
    broker.store.lose('s', 2);
    const again = await broker.changelogs.write('s', options);
    for (let i = 3; i <= 8; i++) await again.append(batch(i, `${i}`));
    await reading;
    stop.abort();
    expect(got).toEqual(['1', '2', '3', '4', '5', '6', '7', '8']);
  });

  it('reads snapshot messages again when the ones it held were lost', async () => {
    const broker = memoryBroker();
    const writer = await broker.changelogs.write('s', options);
    const read = (k: number, id: string) =>
      batch(1, id, { kind: 'read', transactions: [], position: { lsn: 1n, ordinal: READ_ORDINAL_MIN + k } });
    await writer.append(batch(1, 'a'));
    await writer.append(read(1, 'r1'));
    await writer.append(read(2, 'r2'));
    const held = positionOf((await take(broker, 's', ORIGIN, { count: 3 }))[2] as StoredBatch);
    broker.store.lose('s', 1);
    const again = await broker.changelogs.write('s', options);
    await again.append(read(1, 'q1'));
    await again.append(batch(2, 'b'));
    expect(ids(await take(broker, 's', held, { count: 2 }))).toEqual(['q1', 'b']);
  });

  it('says that history is gone when retention removed what a reader needs', async () => {
    const broker = memoryBroker();
    const writer = await broker.changelogs.write('s', options);
    for (let i = 1; i <= 6; i++) await writer.append(batch(i, `${i}`));
    const held = positionOf((await take(broker, 's', ORIGIN, { count: 2 }))[1] as StoredBatch);
    broker.store.trim('s', 5);
    await expect(take(broker, 's', held, { count: 1 })).rejects.toMatchObject({ kind: 'history_trimmed' });
    await expect(take(broker, 's', ORIGIN, { count: 1 })).rejects.toMatchObject({ kind: 'history_trimmed' });
    const near = { ...held, seq: 4, lsn: 4n };
    expect(ids(await take(broker, 's', near, { count: 2 }))).toEqual(['5', '6']);
  });

  it('a replay cannot begin before what retention left, and is told where it can', async () => {
    const broker = memoryBroker();
    const writer = await broker.changelogs.write('s', options);
    for (let i = 1; i <= 6; i++) await writer.append(batch(i, `${i}`));
    broker.store.trim('s', 4);
    await expect(replayPlace(broker.changelogs, 's', '0/2+1')).rejects.toMatchObject({
      kind: 'outside_history',
      message: expect.stringContaining('the earliest is 0/3+1'),
    });
    const place = await replayPlace(broker.changelogs, 's', '0/3+1');
    expect(place).toEqual({ seq: 3, lsn: 3n, ordinal: 1, watermark: 0 });
    expect(ids(await take(broker, 's', place, { count: 3 }))).toEqual(['4', '5', '6']);
  });

  it('I7: a position of a lost history is told from one that only has to wait, and says where to go on', async () => {
    const broker = memoryBroker();
    const epoch = { one: '7.one', two: '7.two', other: '8.two' };
    const writer = await broker.changelogs.write('s', options);
    for (let i = 1; i <= 6; i++) await writer.append(batch(i, `${i}`, { epoch: epoch.one }));
    const held = { seq: 6, lsn: 6n, ordinal: 1, epoch: epoch.one };
    broker.store.lose('s', 3);
    expect(await broker.changelogs.foreign('s', held)).toBeNull();
    // The same epoch writes the lost tail again: the reader waits and goes on by itself.
    const again = await broker.changelogs.write('s', options);
    for (let i = 4; i <= 7; i++) await again.append(batch(i, `${i}`, { epoch: epoch.one }));
    expect(ids(await take(broker, 's', held, { count: 1 }))).toEqual(['7']);
    // Another epoch goes on where the tail was lost for good: what the reader holds beyond is nowhere.
    const at7 = { ...held, seq: 7, lsn: 7n };
    broker.store.lose('s', 4);
    const late = await broker.changelogs.write('s', options);
    const reading = take(broker, 's', at7, { count: 1 });
    await late.append(batch(5, 'five', { epoch: epoch.two }));
    const lost = { kind: 'ahead_of_history', facts: { replayFrom: '0/4+1', epoch: epoch.one } };
    await expect(reading).rejects.toMatchObject(lost);
    for (let i = 8; i <= 12; i++) await late.append(batch(i, `${i}`, { epoch: i < 11 ? epoch.two : '7.three' }));
    await expect(take(broker, 's', at7, { count: 1 })).rejects.toMatchObject(lost);
    expect(await broker.changelogs.foreign('s', at7)).toMatchObject(lost);
    // From the common end, and for a reader that came through the boundary, everything is in order.
    const common = { seq: 4, lsn: 4n, ordinal: 1, epoch: epoch.one };
    expect(ids(await take(broker, 's', common, { count: 2 }))).toEqual(['five', '8']);
    expect(await broker.changelogs.foreign('s', { ...common, seq: 9, lsn: 11n, epoch: '7.three' })).toBeNull();
    // Begun anew: nothing in common.
    const fresh = await broker.changelogs.write('fresh', options);
    await fresh.append(batch(3, 'a', { epoch: epoch.two }));
    await expect(take(broker, 'fresh', held, { count: 1 })).rejects.toMatchObject({
      kind: 'other_epoch',
      facts: { replayFrom: 'start' },
    });
    await expect(take(broker, 'fresh', { ...held, epoch: epoch.other }, { count: 1 })).rejects.toMatchObject({
      kind: 'other_system',
    });
    // A position from before epochs were noted is taken as it is.
    const { epoch: _unknown, ...old } = { ...held, lsn: 2n };
    expect(ids(await take(broker, 'fresh', old, { count: 1 }))).toEqual(['a']);
  });

  it('I7: an epoch that begins with a gap takes every reader that stands no further than it says', async () => {
    const broker = memoryBroker();
    const begun = await broker.changelogs.write('s', options);
    const mark = { step: 'gap', table: '', generation: 1, reset: false, progress: '0/A' } as const;
    await begun.append(batch(4, 'x', { epoch: '7.two', kind: 'read', position: { lsn: 4n, ordinal: READ_ORDINAL_MIN }, mark }));
    for (const lsn of [6, 9, 12]) await begun.append(batch(lsn, `${lsn}`, { epoch: '7.two' }));
    const held = (lsn: bigint, epoch = '7.one') => ({ seq: 90, lsn, ordinal: 1, epoch });
    expect(ids(await take(broker, 's', held(3n), { count: 2 }))).toEqual(['x', '6']);
    expect(ids(await take(broker, 's', held(7n), { count: 2 }))).toEqual(['9', '12']);
    expect(ids(await take(broker, 's', held(10n), { count: 1 }))).toEqual(['12']);
    await expect(take(broker, 's', held(11n), { count: 1 })).rejects.toMatchObject({ kind: 'other_epoch' });
    await expect(take(broker, 's', held(7n, '8.one'), { count: 1 })).rejects.toMatchObject({ kind: 'other_system' });
    expect(await broker.changelogs.foreign('s', held(7n))).toBeNull();
    // Sequences count anew: how far a reader holds this changelog goes by places.
    expect(await Promise.all([3n, 7n, 99n].map((lsn) => broker.changelogs.reached('s', held(lsn))))).toEqual([0, 2, 4]);
    expect(await broker.changelogs.reached('absent', held(7n))).toBe(0);
  });

  it('positions rise strictly', () => {
    expect(compareSourcePosition({ lsn: 1n, ordinal: 5 }, { lsn: 2n, ordinal: 0 })).toBeLessThan(0);
    expect(compareSourcePosition({ lsn: 1n, ordinal: READ_ORDINAL_MIN + 1 }, { lsn: 1n, ordinal: 9 })).toBeGreaterThan(0);
  });
});
