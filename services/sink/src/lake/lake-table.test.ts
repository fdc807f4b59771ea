import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ArrayColumn } from '@tributary/changelog';
import { Op, type Section, type StoredBatch, type TableSchema } from '@tributary/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LakeStore } from './lake-store.ts';
import { LakeTable } from './lake-table.ts';

const shape = (...names: readonly string[]): TableSchema => ({
  schema: 'public',
  table: 't',
  identity: 'default',
  columns: names.map((name, i) => ({
    name,
    type: { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' },
    typmod: -1,
    sqlType: 'text',
    key: i === 0 ? 1 : 0,
  })),
});

const batch = {
  seq: 1,
  header: {
    kind: 'stream',
    position: { lsn: 16n, ordinal: 1 },
    transactions: [{ lsn: 16n, endLsn: 24n, xid: 1, committedAt: 1 }],
  },
} as unknown as StoredBatch;

/** An update: of those nothing is known before they are folded. */
function oneRow(schema: TableSchema): Section {
  return {
    schema,
    schemaVersion: '1',
    rows: 1,
    ops: Uint8Array.of(Op.updated),
    transaction: Uint32Array.of(0),
    ordinal: Uint32Array.of(1),
    columns: schema.columns.map((_, c) => new ArrayColumn([c === 0 ? '1' : 'x'])),
    old: null,
    csv: null,
  };
}

describe('a table of the lake', () => {
  let folder = '';
  let store: LakeStore;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-lake-table-'));
    store = await LakeStore.open(folder, 'lake', () => {});
  });
  afterEach(async () => {
    store.close();
    await rm(folder, { recursive: true });
  });

  it.each([
    ['DELETE', (table: string) => `DELETE FROM ${table} WHERE id = '1'`],
    ['UPDATE', (table: string) => `UPDATE ${table} SET a = 'z' WHERE id = '1'`],
  ])('changes its shape in the transaction of an earlier %s', async (_, statement) => {
    const duck = await store.connect();
    const before = new LakeTable(duck, 's', { schema: shape('id', 'a', 'b'), version: '1', seen: false });
    await before.create();
    await duck.run(`INSERT INTO ${before.current} VALUES ('1', 'x', 'y'), ('2', 'x', 'y')`);
    const after = new LakeTable(duck, 's', { schema: shape('id', 'b', 'c'), version: '2', seen: false });
    await duck.run('BEGIN');
    await duck.run(statement(before.current));
    await after.reshape(before.schema);
    await duck.run(`INSERT INTO ${after.current} VALUES ('3', 'y', 'new')`);
    await duck.run('COMMIT');
    expect(await duck.rows(`SELECT * FROM ${after.current} WHERE id > '1' ORDER BY id`)).toEqual([
      { id: '2', b: 'y', c: null },
      { id: '3', b: 'y', c: 'new' },
    ]);
    expect(await duck.rows(`SELECT count(*)::INT AS n, min(c) AS c FROM ${after.history}`)).toEqual([{ n: 0, c: null }]);
    duck.close();
  });

  it('is one of very many that a transaction writes to, with the memory of one lake', async () => {
    const duck = await store.connect();
    const names = Array.from({ length: 20 }, (_, c) => `c${c}`);
    await duck.run('BEGIN');
    for (let n = 0; n < 50; n++) {
      const schema = { ...shape(...names), table: `t${n}` };
      const table = new LakeTable(duck, 's', { schema, version: '1', seen: false });
      await table.create();
      await table.write(oneRow(schema), batch, null);
      await table.flush();
    }
    await duck.run('COMMIT');
    expect(await duck.rows('SELECT c0, c19 FROM _current."s.public.t49"')).toEqual([{ c0: '1', c19: 'x' }]);
    duck.close();
  });
});
