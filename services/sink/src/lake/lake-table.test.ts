import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TableSchema } from '@tributary/core';
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
});
