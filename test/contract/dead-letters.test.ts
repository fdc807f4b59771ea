import { type BatchDraft, type Broker, SectionDraft } from '@tributary/changelog';
import { Op, ORIGIN, type StoredBatch, type TableSchema } from '@tributary/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BROKERS } from '../fixtures/brokers.ts';

const text = { type: { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' }, typmod: -1, sqlType: 'text' } as const;

function rows(table: string, ids: readonly string[]): SectionDraft {
  const schema: TableSchema = { schema: 'public', table, identity: 'default', columns: [{ name: 'id', ...text, key: 1 }] };
  const draft = new SectionDraft(schema);
  for (const [i, id] of ids.entries()) {
    draft.cells[0]?.push(id);
    draft.row(Op.created, 0, i + 1);
  }
  return draft;
}

function batch(lsn: number, sections: SectionDraft[], table: string | null = null): BatchDraft {
  const at = BigInt(lsn);
  const mark = table === null ? null : ({ step: 'end', table, generation: 1, reset: false } as const);
  const transactions = [{ lsn: at, endLsn: at + 1n, xid: lsn, committedAt: lsn }];
  const flags = { continues: false, more: false, state: { secret: 'of the leader' } };
  const place = { position: { lsn: at, ordinal: 1 }, restart: at + 1n, watermark: lsn };
  return { header: { source: 's', epoch: 'e', kind: 'stream', ...place, ...flags, transactions, mark }, sections };
}

function idsOf({ sections }: StoredBatch): string[] {
  return sections.flatMap((one) => [...(one.columns[0]?.values() ?? [])].map((id) => `${one.schema.table} ${id}`));
}

describe.each(BROKERS)('dead letters on $name', ({ open }) => {
  let broker: Broker;
  let other: Broker;
  let close: () => Promise<void>;
  let batches: StoredBatch[];
  const huge = 'x'.repeat(200_000);

  beforeAll(async () => {
    ({ broker, other, close } = await open());
    const writer = await broker.changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
    await writer.append(batch(10, [rows('a', ['1', '2']), rows('b', ['3'])]));
    await writer.append(batch(20, [rows('a', [huge])]));
    await writer.append(batch(30, [rows('b', ['4'])], 'public.a'));
    batches = [];
    for await (const one of broker.changelogs.read('s', { after: ORIGIN, signal: new AbortController().signal })) {
      if (batches.push(one) === 3) break;
    }
  });
  afterAll(() => close());

  const letter = { projection: 'ods/s', table: 'public.a', reason: null, at: 1_000 };
  const [first, second, third] = [0, 1, 2].map((i) => () => batches[i] as StoredBatch) as [
    () => StoredBatch,
    () => StoredBatch,
    () => StoredBatch,
  ];

  it('holds nothing before the first', async () => {
    expect(await other.changelogs.deadLetters.list()).toEqual([]);
    await other.changelogs.deadLetters.drop('ods/s', 'public.a');
  });

  it('keeps what a batch holds of one table, in order, and once however often it is written', async () => {
    const { deadLetters } = broker.changelogs;
    const reason = { kind: 'database_rejected', message: 'check "positive" of a' };
    await deadLetters.put(second(), letter);
    await deadLetters.put(first(), { ...letter, reason });
    await deadLetters.put(third(), letter);
    await deadLetters.put(first(), { ...letter, reason });
    await deadLetters.put(third(), { ...letter, table: 'public.b' });
    await deadLetters.put(third(), { ...letter, projection: 'ods2/s' });
    const found = await other.changelogs.deadLetters.list('ods/s', 'public.a');
    expect(found.map(({ seq, rows: n, position }) => [seq, n, position.lsn])).toEqual([
      [first().seq, 2, 10n],
      [second().seq, 1, 20n],
      [third().seq, 0, 30n],
    ]);
    expect(found.map((one) => one.reason)).toEqual([reason, null, null]);
    const read = await Promise.all(found.map((one) => other.changelogs.deadLetters.read(one)));
    expect(read.map(idsOf)).toEqual([['a 1', 'a 2'], [`a ${huge}`], []]);
    expect(read.map(({ header }) => header.mark?.table ?? null)).toEqual([null, null, 'public.a']);
    expect(read.map(({ header }) => header.state)).toEqual([null, null, null]);
    expect(read[0]).toMatchObject({ seq: first().seq, header: { position: { lsn: 10n }, follows: { lsn: 0n } } });
    expect((await other.changelogs.deadLetters.list('ods/s')).length).toBe(4);
    expect((await other.changelogs.deadLetters.list()).length).toBe(5);
  });

  it('lets go of one table of one projection', async () => {
    await other.changelogs.deadLetters.drop('ods/s', 'public.a');
    const left = (await broker.changelogs.deadLetters.list()).map(({ projection, table }) => `${projection} ${table}`);
    expect(left.toSorted()).toEqual(['ods/s public.b', 'ods2/s public.a']);
    const gone = { ...letter, seq: 1, position: { lsn: 10n, ordinal: 1 }, rows: 2, bytes: 10 };
    await expect(broker.changelogs.deadLetters.read(gone)).rejects.toMatchObject({ kind: 'not_found' });
  });
});
