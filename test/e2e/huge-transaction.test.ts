import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { lastJson, System } from '../fixtures/system.ts';

const ROWS = 2_000_000;
const RESIDENT_MAX = 400 * 2 ** 20;

let postgres: Awaited<ReturnType<typeof startPostgres>>;
let system: System;

beforeAll(async () => {
  const folder = await temporaryFolder('huge');
  postgres = await startPostgres({
    dir: join(folder, 'postgres'),
    databases: ['shop', 'ods'],
    settings: { max_wal_size: '8GB' },
  });
  await mkdir(join(folder, 'data'));
  const config = join(folder, 'tributary.yaml');
  await writeFile(
    config,
    `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"\n---\nkind: Sink\nname: ods\ntype: ods\npostgres: "${postgres.url('ods')}"\n---\nkind: Sink\nname: lake\ntype: lake\n`,
  );
  system = new System(config, join(folder, 'data'));
  await system.start();
});
afterAll(async () => {
  await system?.stop();
  await postgres?.stop();
});

it(`a transaction of ${ROWS} rows passes whole, with resident memory under ${RESIDENT_MAX / 2 ** 20} MB`, async () => {
  const client = new Client({ connectionString: postgres.url('shop') });
  await client.connect();
  await client.query(
    `CREATE TABLE orders (id bigint PRIMARY KEY, customer int, status text, amount numeric(10,2), at timestamptz)`,
  );
  expect((await system.run(['status', '--wait', 'caught-up'])).code).toBe(0);
  let highest = 0;
  const watching = setInterval(() => void system.residentBytes().then((bytes) => (highest = Math.max(highest, bytes))), 100);
  try {
    await client.query('BEGIN');
    await client.query(`INSERT INTO orders SELECT i, i % 1000, 'placed', i / 100.0, now() FROM generate_series(1, ${ROWS}) i`);
    await client.query(`UPDATE orders SET status = 'paid' WHERE id <= 1000`);
    await client.query('COMMIT');
    const caught = await system.run(['status', '--wait', 'caught-up', '--timeout', '200s'], { timeoutMs: 220_000 });
    expect(caught.code, caught.stderr + system.stderr.slice(-2_000)).toBe(0);
  } finally {
    clearInterval(watching);
    await client.end();
  }
  console.log(`highest resident memory: ${Math.round(highest / 2 ** 20)} MB`);
  expect(highest).toBeGreaterThan(50 * 2 ** 20);
  expect(highest).toBeLessThan(RESIDENT_MAX);
  const counted = await system.run([
    'query',
    `SELECT count(*) AS n, count(*) FILTER (WHERE status = 'paid') AS paid FROM shop.orders`,
  ]);
  expect(lastJson<{ rows: unknown[] }>(counted).rows).toEqual([{ n: ROWS, paid: 1000 }]);
  const ods = new Client({ connectionString: postgres.url('ods') });
  await ods.connect();
  const { rows } = await ods.query(
    `SELECT count(*)::int AS n, count(*) FILTER (WHERE status = 'paid')::int AS paid FROM shop.orders`,
  );
  await ods.end();
  expect(rows).toEqual([{ n: ROWS, paid: 1000 }]);
}, 300_000);
