import { type BatchHeader, Fault, NULL_MARK, Op, ORIGIN, SEPARATOR, type TableSchema, UNCHANGED_MARK } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import type { BatchDraft } from './changelog.ts';
import { batchAfter, decodeBatch, encodeBatch, FORMAT_VERSION } from './codec.ts';
import { SectionDraft } from './draft.ts';

const int8 = { oid: 20, schema: 'pg_catalog', name: 'int8', kind: 'base' } as const;
const text = { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' } as const;
const orders: TableSchema = {
  schema: 'public',
  table: 'orders',
  identity: 'default',
  columns: [
    { name: 'id', type: int8, typmod: -1, sqlType: 'bigint', key: 1 },
    { name: 'note', type: text, typmod: -1, sqlType: 'text', key: 0 },
  ],
};

function header(patch: Partial<BatchHeader> = {}): BatchDraft['header'] {
  return {
    source: 'shop',
    epoch: 'e1',
    kind: 'stream',
    position: { lsn: 0x16b374d848n, ordinal: 3 },
    restart: 0x16b374d900n,
    watermark: 1_790_000_000_000_001,
    continues: false,
    more: false,
    transactions: [
      { lsn: 0x16b374d800n, endLsn: 0x16b374d830n, xid: 700, committedAt: 1_790_000_000_000_000 },
      { lsn: 0x16b374d848n, endLsn: 0x16b374d900n, xid: 701, committedAt: 1_790_000_000_000_001 },
    ],
    mark: null,
    state: null,
    ...patch,
  };
}

function section(rows: [string | null | undefined, string | null | undefined][]): SectionDraft {
  const draft = new SectionDraft(orders);
  rows.forEach(([id, note], index) => {
    draft.cells[0]?.push(id);
    draft.cells[1]?.push(note);
    draft.row(Op.created, index < 1 ? 0 : 1, index < 1 ? 1 : index);
  });
  return draft;
}

describe('batch bytes', () => {
  it('are the golden bytes of version 1', () => {
    const draft: BatchDraft = {
      header: header(),
      sections: [
        section([
          ['1', 'a'],
          ['2', null],
          ['3', undefined],
          ['4', ''],
        ]),
      ],
    };
    expect(FORMAT_VERSION).toBe(1);
    expect(Buffer.from(encodeBatch(draft, ORIGIN, 7)).toString('base64')).toMatchInlineSnapshot(
      `"VAEAAAC33gANoXOkc2hvcKFlomUxoWsAoWaS0wAAAAAAAAAAAKFwktMAAAAWs3TYSAOhctMAAAAWs3TZAKF3y0MZb/tol4AEoWMAoXSUktMAAAAWs3TYANMAAAAWs3TYSJLTAAAAFrN02DDTAAAAFrN02QCSzQK8zQK9kstDGW/7aJeAAMtDGW/7aJeABKFtwKJzdMCic3MHoXiRlqx2WWtxUUlpRVlOWGmtcHVibGljLm9yZGVycwTM7EHC3gAEpnNjaGVtYaZwdWJsaWOldGFibGWmb3JkZXJzqGlkZW50aXR5p2RlZmF1bHSnY29sdW1uc5LeAAWkbmFtZaJpZKR0eXBl3gAEo29pZBSmc2NoZW1hqnBnX2NhdGFsb2ekbmFtZaRpbnQ4pGtpbmSkYmFzZaZ0eXBtb2T/p3NxbFR5cGWmYmlnaW50o2tleQHeAAWkbmFtZaRub3RlpHR5cGXeAASjb2lkGaZzY2hlbWGqcGdfY2F0YWxvZ6RuYW1lpHRleHSka2luZKRiYXNlpnR5cG1vZP+nc3FsVHlwZaR0ZXh0o2tleQCFoW9joXTEEAAAAAABAAAAAQAAAAEAAAChZMQQAQAAAAEAAAACAAAAAwAAAKFjkqcxHzIfMx80pmEfHh8dH6FswA=="`,
    );
  });

  it('come back as they went in', () => {
    const draft = section([
      ['1', 'a'],
      ['2', null],
      ['3', undefined],
      ['4', ''],
    ]);
    const batch = decodeBatch(encodeBatch({ header: header({ state: { a: [1] } }), sections: [draft] }, ORIGIN, 7));
    expect(batch.header).toEqual({ ...header({ state: { a: [1] } }), follows: { lsn: 0n, ordinal: 0 }, stateSeq: 7 });
    const [only] = batch.sections;
    expect(only?.schema).toEqual(orders);
    expect([...(only?.ops ?? [])]).toEqual([99, 99, 99, 99]);
    expect([...(only?.transaction ?? [])]).toEqual([0, 1, 1, 1]);
    expect([...(only?.ordinal ?? [])]).toEqual([1, 1, 2, 3]);
    expect(only?.columns[1]?.values()).toEqual(['a', null, undefined, '']);
    expect(only?.columns[1]?.joined()).toBe(['a', NULL_MARK, UNCHANGED_MARK, ''].join(SEPARATOR));
    expect(only?.columns[1]?.hasUnchanged()).toBe(true);
  });

  it.each([SEPARATOR, NULL_MARK, UNCHANGED_MARK, `a${SEPARATOR}b`, `${NULL_MARK}${NULL_MARK}`])(
    'keep a value that holds a marker character (%j)',
    (value) => {
      const rows: [string, string | null | undefined][] = [
        ['1', value],
        ['2', null],
        ['3', undefined],
        ['4', 'x'],
      ];
      const batch = decodeBatch(encodeBatch({ header: header(), sections: [section(rows)] }, ORIGIN, 0));
      expect(batch.sections[0]?.columns[1]?.joined()).toBeNull();
      expect(batch.sections[0]?.columns[1]?.values()).toEqual([value, null, undefined, 'x']);
      expect(batch.sections[0]?.columns[0]?.joined()).toBe(['1', '2', '3', '4'].join(SEPARATOR));
    },
  );

  it('keep old rows of updates', () => {
    const draft = section([
      ['1', 'a'],
      ['2', 'b'],
    ]);
    for (const [cells, cell] of [[draft.oldCells(), ['3', undefined]] as const]) {
      cells[0]?.push(cell[0]);
      cells[1]?.push(cell[1]);
    }
    draft.cells[0]?.push('30');
    draft.cells[1]?.push('c');
    draft.row(Op.updated, 1, 2);
    const old = decodeBatch(encodeBatch({ header: header(), sections: [draft] }, ORIGIN, 0)).sections[0]?.old;
    expect([...(old?.row ?? [])]).toEqual([2]);
    expect(old?.columns.map((c) => c.values())).toEqual([['3'], [undefined]]);
  });

  it('hand COPY CSV on, and take it apart when asked', () => {
    const csv = '1,plain\n2,\n3,""\n4,"a ""quoted"",\nline"\n5,back\\slash\n6,"\\."\n';
    const draft = SectionDraft.fromCsv(orders, Buffer.from(csv), 6);
    const [only] = decodeBatch(encodeBatch({ header: header({ kind: 'read' }), sections: [draft] }, ORIGIN, 0)).sections;
    expect(Buffer.from(only?.csv ?? []).toString()).toBe(csv);
    expect(only?.columns[1]?.values()).toEqual(['plain', null, '', 'a "quoted",\nline', 'back\\slash', '\\.']);
    expect(only?.columns[0]?.values()).toEqual(['1', '2', '3', '4', '5', '6']);
  });

  it('of a table that nobody wants are not looked at', () => {
    const other = new SectionDraft({ ...orders, table: 'unwanted' });
    other.cells[0]?.push('0');
    other.cells[1]?.push('@@@@');
    other.row(Op.created, 0, 1);
    const bytes = encodeBatch({ header: header(), sections: [other, section([['1', 'a']])] }, ORIGIN, 0);
    const at = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).lastIndexOf('@@@@');
    // 0xc1 is the one byte that msgpack never uses.
    bytes.fill(0xc1, at - 20, at + 4);
    const [only, ...more] = decodeBatch(bytes, (table) => table === 'public.orders').sections;
    expect(more).toEqual([]);
    expect(only?.columns[1]?.values()).toEqual(['a']);
    expect(() => decodeBatch(bytes).sections[0]?.columns).toThrow();
  });

  it('of another version are refused with a fault that says so', () => {
    const bytes = Buffer.from(encodeBatch({ header: header(), sections: [] }, ORIGIN, 0));
    bytes[1] = FORMAT_VERSION + 1;
    expect(() => decodeBatch(bytes)).toThrow(Fault);
    expect(() => decodeBatch(Buffer.from('hello world'))).toThrow(/not a batch/);
  });

  it('can be cut behind a transaction the reader holds', () => {
    const draft = section([
      ['1', 'a'],
      ['2', null],
      ['3', 'c'],
    ]);
    const batch = decodeBatch(encodeBatch({ header: header(), sections: [draft] }, ORIGIN, 0));
    const rest = batchAfter(batch, { lsn: 0x16b374d800n, ordinal: 1 });
    expect(rest.header.transactions.map((t) => t.xid)).toEqual([701]);
    expect(rest.sections[0]?.columns[0]?.values()).toEqual(['2', '3']);
    expect([...(rest.sections[0]?.transaction ?? [])]).toEqual([0, 0]);
    expect(batchAfter(batch, { lsn: 0x16b374d848n, ordinal: 3 }).sections).toEqual([]);
  });
});
