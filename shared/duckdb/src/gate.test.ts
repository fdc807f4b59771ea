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
    'SELECT count(*) FROM shop.orders',
    'WITH big AS (SELECT * FROM Shop.Orders WHERE amount > 10) SELECT * FROM big b JOIN orders o USING (id) ORDER BY 1',
    'SELECT unnest([1, 2]), x FROM range(3) t(x)',
    'SELECT * FROM (SELECT 1) UNION ALL SELECT id FROM orders',
  ])('lets through: %s', async (sql) => {
    await expect(gate(duck, sql, known)).resolves.toBeUndefined();
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
