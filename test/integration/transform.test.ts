import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System } from '../fixtures/system.ts';
import { seeded } from '../fixtures/workload.ts';

/** Every run prints its seed; TRIBUTARY_SEED repeats one. */
const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const ORDERS = 400;
const CUSTOMERS = 12;

/** What the steps below mean, as SQL on the source. */
const EXPECTED = `SELECT id, status, qty, price::numeric(14,4) AS price, encode(sha256(email::bytea), 'hex') AS email, note AS remark,
    status || ' x ' || qty AS tag, qty * price AS total, CASE WHEN qty > 5 THEN 'big' END AS tier FROM orders WHERE status <> 'draft' ORDER BY id`;
/** A module in TypeScript that imports another. */
const TAG = `import { SIGN } from './sign.ts';
export const columns = { tag: 'text' };
export const reads = ['status', 'qty'];
export default ({ rows }: { rows: { status: string; qty: number }[] }) => rows.map(({ status, qty }) => ({ tag: status + SIGN + qty }));
`;
const NAMED = 'SELECT id, status, qty, customer_id, customer, md5(about) AS about FROM named.orders_named ORDER BY id';
const FOUND = 'SELECT id, status, qty, price, email, remark, tag, total, tier FROM clean.orders_clean ORDER BY id';

describe(`a transform under load and kill −9 (seed ${seed})`, () => {
  let postgres: PostgresServer;
  let system: System;
  let config: string;
  let shop: Client;
  let crm: Client;
  let ods: Client;
  const random = seeded(seed);
  const any = (max: number) => Math.floor(random() * max);

  beforeAll(async () => {
    const folder = await temporaryFolder('transform');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'crm', 'ods'] });
    const open = async (database: string) => {
      const client = new Client({ connectionString: postgres.url(database) });
      client.on('error', () => {});
      await client.connect();
      return client;
    };
    shop = await open('shop');
    crm = await open('crm');
    ods = await open('ods');
    await crm.query(`CREATE TABLE customers (id bigint PRIMARY KEY, name text, note text); ALTER TABLE customers ALTER note SET STORAGE EXTERNAL;
      INSERT INTO customers SELECT i, 'customer ' || i, repeat('x', 3000) FROM generate_series(1, 6) i`);
    await shop.query(`CREATE TABLE orders (id int PRIMARY KEY, status text NOT NULL, qty int NOT NULL, price numeric(12,2), email text,
      note text, internal text, customer_id int); INSERT INTO orders SELECT i, (ARRAY['draft','new','paid'])[1 + i % 3], i % 9, i / 7.0, 'c' || i || '@x.org',
      CASE WHEN i % 4 > 0 THEN 'note ' || i END, 'secret', i % 12 FROM generate_series(1, 50) i`);
    // Nothing tells its rows apart, and some are equal.
    await shop.query(`CREATE TABLE clicks (page text, n int); ALTER TABLE clicks REPLICA IDENTITY FULL;
      INSERT INTO clicks SELECT 'p' || i % 5, i % 2 FROM generate_series(1, 60) i`);
    await mkdir(join(folder, 'steps'));
    await writeFile(join(folder, 'steps', 'tag.ts'), TAG);
    await writeFile(join(folder, 'steps', 'sign.ts'), `export const SIGN: string = ' x ';`);
    config = join(folder, 'tributary.yaml');
    await writeFile(
      config,
      `kind: Source
name: shop
postgres: "${postgres.url('shop')}"
---
kind: Source
name: crm
postgres: "${postgres.url('crm')}"
---
kind: Sink
name: lake
type: lake
from: [clean.*, named.*, hits.*]
---
kind: Transform
name: hits
from: [shop.public.clicks]
to: public.hits
steps: [{ filter: "page <> 'p3'" }]
---
kind: Transform
name: named
from: [shop.public.orders]
to: public.orders_named
steps:
  - lookup: { table: crm.public.customers, on: { id: customer_id }, set: { customer: name, about: note } }
  - filter: "customer IS NOT NULL"
  - drop: [price, email, note, internal]
---
kind: Transform
name: clean
from: [shop.public.orders]
to: public.orders_clean
steps:
  - filter: "status <> 'draft'"
  - module: ./steps/tag.ts
  - set: { total: "qty * price" }
  - { set: { tier: "'big'" }, when: "qty > 5" }
  - rename: { note: remark }
  - drop: [internal, customer_id]
  - cast: { price: "numeric(14,4)" }
  - mask: { email: hash }
---
kind: Sink
name: ods
type: ods
from: ["clean.*", "named.*", "hits.*"]
history: true
postgres: "${postgres.url('ods')}"
`,
    );
    system = new System(config, join(folder, 'data'));
    await system.start();
  });

  afterAll(async () => {
    await system.stop();
    await shop.end();
    await crm.end();
    await ods.end();
    await postgres.stop();
  });

  /** Inserts, updates in and out of the filter, deletes, moves to other keys: several to a transaction. */
  async function work(transactions: number): Promise<void> {
    for (let t = 0; t < transactions; t++) {
      await shop.query('BEGIN');
      for (let n = 0; n <= any(4); n++) {
        const id = 1 + any(ORDERS);
        const status = ['draft', 'new', 'paid'][any(3)];
        const kind = any(10);
        if (kind < 4)
          await shop.query(
            `INSERT INTO orders VALUES ($1, $2, $3, $4, $5, $6, 'x', $7) ON CONFLICT (id) DO UPDATE SET status = $2, qty = $3, customer_id = $7`,
            [
              id,
              status,
              any(9),
              any(10_000) / 100,
              `c${id}@x.org`,
              any(3) === 0 ? null : 'it\'s a note, "quoted"',
              any(CUSTOMERS),
            ],
          );
        else if (kind < 7) await shop.query('UPDATE orders SET status = $2, qty = qty + 1 WHERE id = $1', [id, status]);
        else if (kind < 9) await shop.query('DELETE FROM orders WHERE id = $1', [id]);
        else
          await shop.query('UPDATE orders SET id = $2 WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM orders WHERE id = $2)', [
            id,
            1 + any(ORDERS),
          ]);
      }
      await shop.query('COMMIT');
      if (any(4) === 0) await changeCustomer(any(CUSTOMERS));
    }
  }

  async function changeCustomer(id: number): Promise<void> {
    const kind = any(4);
    if (kind === 0) await crm.query('DELETE FROM customers WHERE id = $1', [id]);
    else if (kind === 1) await crm.query('UPDATE customers SET name = $2 WHERE id = $1', [id, `other ${any(1_000)}`]);
    else
      await crm.query(
        `INSERT INTO customers VALUES ($1, $2, repeat('y', 3000)) ON CONFLICT (id) DO UPDATE SET note = repeat('z', 2500)`,
        [id, `new ${id}`],
      );
  }

  /** Orders with the name of their customer, which stands in another database. */
  async function expectedNamed(): Promise<unknown[]> {
    const customers = await crm.query<{ id: string; name: string; about: string }>(
      'SELECT id, name, md5(note) AS about FROM customers',
    );
    const byId = new Map(customers.rows.map((row) => [Number(row.id), row]));
    type Order = { id: number; status: string; qty: number; customer_id: number };
    const orders = await shop.query<Order>('SELECT id, status, qty, customer_id FROM orders ORDER BY id');
    return orders.rows.flatMap((order) => {
      const found = byId.get(order.customer_id);
      return found ? [{ ...order, customer: found.name, about: found.about }] : [];
    });
  }

  async function expectSame(): Promise<void> {
    const outcome = await system.run(['status', '--wait', 'caught-up', '--timeout', '90s']);
    expect(outcome.code, outcome.stderr + system.stderr.slice(-3_000)).toBe(0);
    expect((await ods.query(FOUND)).rows).toEqual((await shop.query(EXPECTED)).rows);
    expect((await ods.query(NAMED)).rows).toEqual(await expectedNamed());
  }

  it('gives what SQL on the source gives: snapshot, then changes', async () => {
    await expectSame();
    await work(60);
    await expectSame();
  });

  it('does so whenever it is killed, and every change goes out once', async () => {
    for (let round = 0; round < 2; round++) {
      const working = work(60);
      await new Promise((resolve) => setTimeout(resolve, any(150)));
      await system.kill();
      await working;
      await system.start();
    }
    await expectSame();
    const tail = await system.run(['tail', 'clean', '--from', 'start', '--until-caught-up']);
    const changes = tail.stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as { op: string; lsn: string; ordinal: number; seq: number });
    const places = changes.filter(({ op }) => op !== 'r').map(({ lsn, ordinal }) => `${lsn} ${ordinal}`);
    expect(places.length).toBeGreaterThan(100);
    expect(new Set(places).size).toBe(places.length);
  });

  it('is previewed with other steps: what would be another, and nothing is touched', async () => {
    const text = await readFile(config, 'utf8');
    const other = join(dirname(config), 'other.yaml');
    await writeFile(
      other,
      text
        .replace(`  - filter: "status <> 'draft'"\n`, `  - filter: "status <> 'draft' AND qty < 8"\n`)
        .replace('total: "qty * price"', 'total: "qty * price + 1", vat: "price * 0.19"')
        .replace('  - mask: { email: hash }', '  - drop: [email]'),
    );
    const previewed = await system.run(['transform', 'preview', 'clean', '-f', other, '--samples', '1']);
    expect(previewed.code, previewed.stderr).toBe(0);
    const { tables } = lastJson<{ tables: Record<string, unknown>[] }>(previewed);
    const { rows } = await shop.query<Record<string, number>>(
      `SELECT count(*) FILTER (WHERE qty < 8)::int AS rows, count(*)::int AS "rowsBefore", count(*) FILTER (WHERE qty >= 8)::int AS removed,
         count(*) FILTER (WHERE qty < 8 AND price IS NOT NULL)::int AS changed FROM orders WHERE status <> 'draft'`,
    );
    expect(tables).toMatchObject([
      {
        table: 'public.orders_clean',
        ...rows[0],
        added: 0,
        columns: { added: ['vat numeric'], removed: ['email text'], changed: [] },
      },
    ]);
    expect(tables[0]?.['samples']).toHaveLength(2);
    await expectSame();
    const none = await system.run(['transform', 'preview', 'other', '-f', other]);
    expect(none.stderr).toContain('the files hold no transform other. Transforms: hits, named, clean');
    await writeFile(other, text.replace('qty * price', 'quantity * price'));
    const wrong = await system.run(['transform', 'preview', 'clean', '-f', other]);
    expect(wrong.code).toBe(1);
    expect(wrong.stderr).toMatch(
      /other.yaml:\d+:5: transform clean, step 3 \(set\), table shop.public.orders: there is no column "quantity"/,
    );
  });

  interface Compared {
    readonly equal: boolean;
    readonly tables: readonly {
      readonly projection: string;
      readonly table: string;
      readonly rows: number;
      readonly equal: boolean;
      readonly differences: readonly { readonly key: string; readonly problem: string }[];
    }[];
    readonly notCompared: readonly string[];
  }
  it('passes on a table whose rows have no key', async () => {
    await shop.query(`DELETE FROM clicks WHERE ctid = (SELECT min(ctid) FROM clicks WHERE page = 'p1');
      UPDATE clicks SET page = 'p3' WHERE ctid = (SELECT min(ctid) FROM clicks WHERE page = 'p2'); UPDATE clicks SET n = 7 WHERE page = 'p4' AND n = 0`);
    await expectSame();
    const rows = (from: string) => `SELECT page, n, count(*) FROM ${from} GROUP BY 1, 2 ORDER BY 1, 2`;
    const expected = await shop.query(rows(`clicks WHERE page <> 'p3'`));
    expect((await ods.query(rows('hits.hits'))).rows).toEqual(expected.rows);
  });

  const verify = async (...more: string[]) =>
    lastJson<Compared>(await system.run(['verify', '--timeout', '60s', ...more], { timeoutMs: 240_000 }));

  it('is compared by verify with what its steps make of its inputs, and its projections with it', async () => {
    const { equal, tables, notCompared } = await verify();
    expect({ equal, notCompared }).toEqual({ equal: true, notCompared: [] });
    const rowsOf = async (table: string) => (await ods.query(`SELECT FROM ${table}`)).rowCount;
    for (const projection of ['transform', 'ods', 'query', 'lake']) {
      const expected = { projection, equal: true, differences: [] };
      expect(tables).toContainEqual({
        ...expected,
        source: 'clean',
        table: 'public.orders_clean',
        rows: await rowsOf('clean.orders_clean'),
      });
      expect(tables).toContainEqual({
        ...expected,
        source: 'named',
        table: 'public.orders_named',
        rows: await rowsOf('named.orders_named'),
      });
      expect(tables).toContainEqual({ ...expected, source: 'hits', table: 'public.hits', rows: await rowsOf('hits.hits') });
    }
    const one = await verify('--source', 'clean', '--table', 'orders_clean');
    expect(one.tables.map(({ projection }) => projection).toSorted()).toEqual(['lake', 'ods', 'query', 'transform']);
  });

  it('has its projections mended where they are not what it says', async () => {
    await ods.query(`DELETE FROM clean.orders_clean WHERE id % 10 = 1; UPDATE clean.orders_clean SET email = 'x' WHERE id % 10 = 2;
      INSERT INTO clean.orders_clean (id, status) VALUES (-1, 'mine'); DELETE FROM named.orders_named WHERE id % 10 = 1;
      INSERT INTO hits.hits SELECT * FROM hits.hits LIMIT 1`);
    const found = await verify();
    const differing = found.tables.filter((one) => !one.equal);
    expect(differing.map(({ projection, table }) => `${projection} ${table}`).toSorted()).toEqual([
      'ods public.hits',
      'ods public.orders_clean',
      'ods public.orders_named',
    ]);
    expect(differing.find(({ table }) => table === 'public.hits')?.differences).toMatchObject([
      { problem: 'different' },
      { problem: 'different' },
    ]);
    expect((await verify('--repair')).equal).toBe(true);
    await expectSame();
  });
});
