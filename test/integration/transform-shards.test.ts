import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { System } from '../fixtures/system.ts';
import { seeded } from '../fixtures/workload.ts';

/** Every run prints its seed; TRIBUTARY_SEED repeats one. */
const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const SHARDS = ['shop_ap', 'shop_eu', 'shop_us'];
const ROWS = 200;

describe(`shards merged by a transform while rows move between them (seed ${seed})`, () => {
  let postgres: PostgresServer;
  let system: System;
  const shards: Client[] = [];
  let ods: Client;
  const random = seeded(seed);
  const any = (max: number) => Math.floor(random() * max);

  beforeAll(async () => {
    const folder = await temporaryFolder('transform-shards');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: [...SHARDS, 'ods'] });
    const open = async (database: string) => {
      const client = new Client({ connectionString: postgres.url(database) });
      client.on('error', () => {});
      await client.connect();
      return client;
    };
    for (const [i, shard] of SHARDS.entries()) {
      const client = await open(shard);
      shards.push(client);
      await client.query(`CREATE TABLE orders (id int PRIMARY KEY, status text NOT NULL, qty int, doc text);
        ALTER TABLE orders ALTER doc SET STORAGE EXTERNAL;
        INSERT INTO orders SELECT i, 'new', i, repeat(md5(i::text), 100) FROM generate_series(1, ${ROWS / 2}) i WHERE i % 3 = ${i}`);
    }
    ods = await open('ods');
    const sources = SHARDS.map((shard) => `kind: Source\nname: ${shard}\npostgres: "${postgres.url(shard)}"\n---\n`);
    const config = join(folder, 'tributary.yaml');
    await writeFile(
      config,
      `${sources.join('')}kind: Transform
name: orders_all
from: [shop_ap.public.orders, shop_eu.public.orders, shop_us.public.orders]
to: public.orders
steps:
  - filter: "status <> 'draft'"
  - set: { region: "right(source, 2)", size: "length(doc)" }
---
kind: Sink
name: ods
type: ods
from: ["orders_all.*"]
postgres: "${postgres.url('ods')}"
`,
    );
    system = new System(config, join(folder, 'data'));
    await system.start();
  });

  afterAll(async () => {
    await system.stop();
    for (const client of [...shards, ods]) await client.end();
    await postgres.stop();
  });

  /** Rows are made, changed without their document, deleted, and moved to another shard: deleted there first, or made here first. */
  async function work(steps: number): Promise<void> {
    for (let step = 0; step < steps; step++) {
      const id = 1 + any(ROWS);
      const homes = await Promise.all(shards.map((shard) => shard.query('SELECT * FROM orders WHERE id = $1', [id])));
      const home = homes.findIndex(({ rowCount }) => rowCount === 1);
      const at = shards[home === -1 ? any(SHARDS.length) : home] as Client;
      const row = homes[home]?.rows[0] as { status: string; qty: number; doc: string } | undefined;
      if (!row) {
        await at.query(`INSERT INTO orders VALUES (${id}, 'new', $1, repeat(md5('${id}'), 100))`, [any(9)]);
        continue;
      }
      const kind = any(10);
      if (kind < 5)
        await at.query('UPDATE orders SET status = $2, qty = $3 WHERE id = $1', [id, ['draft', 'new', 'paid'][any(3)], any(99)]);
      else if (kind < 6) await at.query('DELETE FROM orders WHERE id = $1', [id]);
      else {
        const to = shards[(home + 1 + any(SHARDS.length - 1)) % SHARDS.length] as Client;
        const make = () => to.query('INSERT INTO orders VALUES ($1, $2, $3, $4)', [id, row.status, row.qty + 1, row.doc]);
        const remove = () => at.query('DELETE FROM orders WHERE id = $1', [id]);
        if (any(2) === 0) await make().then(remove);
        else await remove().then(make);
      }
    }
  }

  async function expectMerged(): Promise<void> {
    const outcome = await system.run(['status', '--wait', 'caught-up', '--timeout', '90s']);
    expect(outcome.code, outcome.stderr + system.stderr.slice(-3_000)).toBe(0);
    const rows = await Promise.all(
      shards.map(async (shard, i) => {
        const sql = `SELECT id, status, qty, md5(doc) AS doc, '${SHARDS[i]?.slice(-2)}' AS region, length(doc) AS size FROM orders WHERE status <> 'draft'`;
        return (await shard.query(sql)).rows as { id: number }[];
      }),
    );
    const found = await ods.query(
      'SELECT id, status, qty, md5(doc) AS doc, region, size::int FROM orders_all.orders ORDER BY id',
    );
    expect(found.rows).toEqual(rows.flat().toSorted((a, b) => a.id - b.id));
  }

  it('is the union of what the shards hold', async () => {
    await expectMerged();
    await work(150);
    await expectMerged();
  });

  it('stays so when everything is killed in between', async () => {
    const working = work(150);
    await new Promise((resolve) => setTimeout(resolve, any(400)));
    await system.kill();
    await working;
    await system.start();
    await expectMerged();
  });
});
