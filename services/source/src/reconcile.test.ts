import { memoryBroker } from '@tributary/changelog';
import { ORIGIN, type StoredBatch, type TableSchema } from '@tributary/core';
import { Visibility } from '@tributary/postgres';
import { expect, it } from 'vitest';
import { plainShape } from './contract.ts';
import { type Reconciled, reconcile } from './reconcile.ts';
import { Touches } from './touches.ts';

const text = { type: { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' }, typmod: -1, sqlType: 'text' } as const;
const schema: TableSchema = {
  schema: 'public',
  table: 't',
  identity: 'default',
  columns: [
    { name: 'v', ...text, key: 0 },
    { name: 'b', ...text, key: 2 },
    { name: 'a', ...text, key: 1 },
  ],
};

/** `op cell|cell|…` per row, as a reader gets them. */
async function rowsOf({ draft }: Reconciled): Promise<string[]> {
  if (!draft) return [];
  const { changelogs } = memoryBroker();
  const writer = await changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
  const place = { position: { lsn: 1n, ordinal: 2 ** 32 }, restart: 1n, watermark: 0 };
  const none = { continues: false, more: false, transactions: [], mark: null, state: null };
  await writer.append({ header: { source: 's', epoch: 'e', kind: 'read', ...place, ...none }, sections: [draft] });
  for await (const batch of changelogs.read('s', { after: ORIGIN, signal: new AbortController().signal })) return shown(batch);
  return [];
}

function shown({ sections }: StoredBatch): string[] {
  return sections.flatMap((section) =>
    [...section.ops].map(
      (op, row) => `${String.fromCharCode(op)} ${section.columns.map((column) => column.values()[row] ?? '-').join('|')}`,
    ),
  );
}

const start = new Visibility('100:100:');
const snapshot = new Visibility('105:106:105');
const csv = Buffer.from('one,b1,a1\ntwo,b2,a2\n');

it('names keys that were asked for and have no row as deleted, unless the stream brought something newer', async () => {
  const touches = new Touches(start, start.xmax);
  const xid = touches.begin(105) as bigint;
  const asked = ['a1', 'a2', 'a3', 'a4', 'a5'].map((a) => `${a}\x1fb${a[1]}`);
  const chunk = { shape: plainShape(schema), csv, rows: 2, snapshot, asked, sweeps: true };
  expect(await rowsOf(reconcile(chunk, touches))).toEqual(['r one|b1|a1', 'r two|b2|a2', 'd -|b3|a3', 'd -|b4|a4', 'd -|b5|a5']);
  touches.note('public.t', 'a2\x1fb2', { xid, deleted: true, unchanged: null });
  touches.note('public.t', 'a3\x1fb3', { xid, deleted: false, unchanged: null });
  touches.note('public.t', 'a4\x1fb4', { xid, deleted: true, unchanged: null });
  expect(await rowsOf(reconcile(chunk, touches))).toEqual(['r one|b1|a1', 'k -|b3|a3', 'd -|b5|a5']);
  expect(await rowsOf(reconcile({ ...chunk, csv: Buffer.alloc(0), rows: 0, asked: ['a4\x1fb4'] }, touches))).toEqual([]);
});

it('names nothing as deleted when nobody asked for a key', async () => {
  const touches = new Touches(start, start.xmax);
  const shape = plainShape(schema);
  expect(await rowsOf(reconcile({ shape, csv, rows: 2, snapshot, asked: [] }, touches))).toEqual(['r one|b1|a1', 'r two|b2|a2']);
  expect(reconcile({ shape, csv, rows: 0, snapshot, asked: [] }, touches).draft).toBeNull();
});

it('leaves columns that the table does not give unchanged, also where nothing touched a row', async () => {
  const touches = new Touches(start, start.xmax);
  const read = { ...schema, columns: schema.columns.slice(1) };
  const chunk = { shape: { schema, read, absent: new Set([0]), leftOut: false }, rows: 2, snapshot, asked: [] };
  const rows = await rowsOf(reconcile({ ...chunk, csv: Buffer.from('b1,a1\nb2,a2\n') }, touches));
  expect(rows).toEqual(['r -|b1|a1', 'r -|b2|a2']);
});
