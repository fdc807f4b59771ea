import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Database, type Duck } from './database.ts';
import { gate } from './gate.ts';

const known = new Set(['shop.orders', 'orders']);
let database: Database;
let duck: Duck;
beforeAll(async () => {
  database = await Database.open({ path: ':memory:', memoryBytes: 2 ** 27, threads: 1, spillDir: '' });
  duck = await database.connect();
});
afterAll(() => {
  duck.close();
  database.close();
});

describe('gate', () => {
  it.each([
    ['SELECT count(*) FROM shop.orders', ['shop.orders'], []],
    [
      'SELECT o.Id FROM shop.orders o JOIN orders USING (k) WHERE o.amount > 1',
      ['shop.orders', 'orders'],
      ['o', 'id', 'k', 'amount'],
    ],
    ['SELECT o FROM shop.orders o', ['shop.orders'], null],
    ['SELECT * FROM orders', ['orders'], null],
    ['SELECT x FROM shop.orders AS o(x)', ['shop.orders'], null],
    ['SELECT #1 FROM orders', ['orders'], null],
    ['SELECT a FROM shop.orders NATURAL JOIN orders', ['shop.orders', 'orders'], null],
    [
      'WITH big AS (SELECT * FROM Shop.Orders WHERE amount > 10) SELECT * FROM big b JOIN orders o USING (id) ORDER BY 1',
      ['shop.orders', 'orders'],
      null,
    ],
    ['SELECT unnest([1, 2]), x FROM range(3) t(x)', [], null],
    ['SELECT id FROM (SELECT 1) UNION ALL SELECT id FROM orders', ['orders'], ['id']],
  ])('lets through, and tells what it reads: %s', async (sql, tables, columns) => {
    const read = await gate(duck, sql, known);
    const names = read.map(({ schema, name }) => (schema === '' ? name : `${schema}.${name}`));
    expect(names.toSorted()).toEqual(tables.toSorted());
    for (const table of read) expect(table.columns && [...table.columns]).toEqual(columns);
  });

  it.each([
    `SELECT * FROM read_csv('/etc/passwd')`,
    `SELECT * FROM '/etc/passwd'`,
    `SELECT * FROM read_text('/etc/passwd')`,
    `SELECT (SELECT content FROM read_text('/etc/passwd'))`,
    'SELECT * FROM duckdb_settings()',
    'SELECT * FROM information_schema.tables',
    'SELECT * FROM _text."shop.orders"',
    'SELECT * FROM other.main.orders',
    'WITH "_meta.position" AS (SELECT 1) SELECT * FROM _meta.position',
    'SELECT * FROM duckdb_tables, (WITH duckdb_tables AS (SELECT 1) SELECT * FROM duckdb_tables)',
    `WITH "/etc/passwd" AS (SELECT 1) SELECT * FROM '/etc/passwd'`,
    'SELECT * FROM (SHOW ALL TABLES)',
    `SELECT getenv('HOME')`,
    `COPY orders TO '/tmp/x'`,
    'DELETE FROM orders',
    'SELECT 1; SELECT 2',
    `ATTACH '/tmp/x'`,
    'SET memory_limit = 1',
    `SELECT * FROM query('SELECT 1')`,
    'PRAGMA database_list',
    'not sql at all',
    '',
  ])('refuses: %s', async (sql) => {
    await expect(gate(duck, sql, known)).rejects.toMatchObject({ kind: 'query_refused' });
  });
});
