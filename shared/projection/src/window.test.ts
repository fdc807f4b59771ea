import { type BatchDraft, memoryBroker, SectionDraft } from '@tributary/changelog';
import { type Cell, Op, type OpCode, ORIGIN, READ_ORDINAL_MIN, type StoredBatch, type TableSchema } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { leaveOut } from './leave-out.ts';
import { surveyWindow } from './window.ts';

const text = { type: { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' }, typmod: -1, sqlType: 'text' } as const;

function tableOf(table: string, key: boolean): TableSchema {
  const columns = [
    { name: 'id', ...text, key: key ? 1 : 0 },
    { name: 'big', ...text, key: 0 },
  ];
  return { schema: 'public', table, identity: key ? 'default' : 'full', columns };
}

interface Row {
  readonly op: OpCode;
  readonly cells: readonly Cell[];
  readonly old?: readonly Cell[];
  readonly transaction?: number;
}

function section(schema: TableSchema, rows: readonly Row[]): SectionDraft {
  const draft = new SectionDraft(schema);
  for (const [i, { op, cells, old, transaction = 0 }] of rows.entries()) {
    if (old) {
      const into = draft.oldCells();
      for (const [c, cell] of old.entries()) into[c]?.push(cell);
    }
    for (const [c, cell] of cells.entries()) draft.cells[c]?.push(cell);
    draft.row(op, transaction, i + 1);
  }
  return draft;
}

function batch(lsn: number, sections: SectionDraft[], patch: Partial<BatchDraft['header']> = {}): BatchDraft {
  const at = BigInt(lsn);
  const transactions = [{ lsn: at, endLsn: at + 1n, xid: lsn, committedAt: lsn }];
  const header = { source: 's', epoch: 'e', kind: 'stream' as const, position: { lsn: at, ordinal: 9 }, restart: at + 1n };
  return {
    header: { ...header, watermark: lsn, continues: false, more: false, transactions, mark: null, state: null, ...patch },
    sections,
  };
}

async function stored(
  ...drafts: BatchDraft[]
): Promise<{ batches: StoredBatch[]; changelogs: ReturnType<typeof memoryBroker>['changelogs'] }> {
  const { changelogs } = memoryBroker();
  const writer = await changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
  for (const draft of drafts) await writer.append(draft);
  const batches: StoredBatch[] = [];
  const stop = new AbortController();
  for await (const one of changelogs.read('s', { after: ORIGIN, signal: stop.signal })) {
    batches.push(one);
    if (batches.length === drafts.length) break;
  }
  return { batches, changelogs };
}

const never = new AbortController().signal;

describe('which tables can be replayed over their newer state', () => {
  it('keeps tables without a key, and rows that moved with values the stream left out; nothing else', async () => {
    const moved = (old: readonly Cell[], cells: readonly Cell[]) => [{ op: Op.updated, old, cells }];
    const { changelogs } = await stored(
      batch(10, [section(tableOf('before', false), [{ op: Op.created, cells: ['1', 'x'] }])]),
      batch(20, [
        section(tableOf('plain', true), [
          { op: Op.created, cells: ['1', 'x'] },
          { op: Op.updated, cells: ['1', undefined] },
          { op: Op.deleted, cells: ['1', undefined] },
        ]),
        section(tableOf('keyless', false), [{ op: Op.created, cells: ['1', 'x'] }]),
        section(tableOf('moved_whole', true), moved(['1', undefined], ['2', 'x'])),
        section(tableOf('moved_full', true), moved(['1', 'x'], ['2', undefined])),
        section(tableOf('stayed', true), moved(['1', undefined], ['1', undefined])),
      ]),
      batch(30, [section(tableOf('moved', true), moved(['1', undefined], ['2', undefined]))]),
      batch(30, [], {
        kind: 'read',
        position: { lsn: 30n, ordinal: READ_ORDINAL_MIN },
        transactions: [],
        mark: { step: 'begin', table: 'public.plain', generation: 1, reset: false },
      }),
      batch(40, [section(tableOf('after', false), [{ op: Op.created, cells: ['1', 'x'] }])]),
    );
    const from = { seq: 1, lsn: 10n, ordinal: 9 };
    const window = await surveyWindow(changelogs, 's', { from, to: { lsn: 30n, ordinal: READ_ORDINAL_MIN }, signal: never });
    expect([...window.kept].toSorted()).toEqual(['public.keyless', 'public.moved']);
    expect([...window.begun]).toMatchObject([['public.plain', { lsn: 30n, ordinal: READ_ORDINAL_MIN }]]);
  });

  it('reads no further than the changelog goes', async () => {
    const { changelogs } = await stored(batch(10, []), batch(20, []));
    const from = { seq: 2, lsn: 20n, ordinal: 9 };
    const window = await surveyWindow(changelogs, 's', { from, to: { lsn: 99n, ordinal: 1 }, signal: never });
    expect(window.kept.size).toBe(0);
  });
});

describe('what a table holds already is left out', () => {
  const [a, b] = [tableOf('a', false), tableOf('b', false)];
  const valuesOf = (one: StoredBatch) => one.sections.map((s) => [s.schema.table, ...(s.columns[0]?.values() ?? [])].join(' '));

  it('up to the position, with marks, and for that table alone', async () => {
    const row = (id: string) => [{ op: Op.created, cells: [id, 'x'] }];
    const mark = { step: 'chunk', table: 'public.a', generation: 1, reset: false } as const;
    const { batches } = await stored(
      batch(10, [section(a, row('1')), section(b, row('2'))], { mark }),
      batch(20, [section(a, row('3'))], { mark }),
    );
    const held = new Map([['public.a', { lsn: 10n, ordinal: 9 }]]);
    const [first, second] = batches.map((one) => leaveOut(one, held)) as [StoredBatch, StoredBatch];
    expect(valuesOf(first)).toEqual(['b 2']);
    expect(first.header.mark).toBeNull();
    expect(valuesOf(second)).toEqual(['a 3']);
    expect(second.header.mark).toEqual(mark);
    expect(leaveOut(batches[0] as StoredBatch, new Map())).toBe(batches[0]);
  });

  it('also where the stream was cut anew across the position', async () => {
    const at = (lsn: bigint) => ({ lsn, endLsn: lsn + 1n, xid: Number(lsn), committedAt: 0 });
    const rows = (...ids: string[]) => ids.map((id, i) => ({ op: Op.created, cells: [id, 'x'], transaction: i }));
    const { batches } = await stored(
      batch(30, [section(a, rows('1', '2', '3')), section(b, rows('4', '5', '6'))], {
        transactions: [at(10n), at(20n), at(30n)],
      }),
    );
    const left = leaveOut(batches[0] as StoredBatch, new Map([['public.a', { lsn: 20n, ordinal: 9 }]]));
    expect(valuesOf(left)).toEqual(['a 3', 'b 4 5 6']);
    expect(left.header.transactions[left.sections[0]?.transaction[0] as number]?.lsn).toBe(30n);
  });
});
