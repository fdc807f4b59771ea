import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Database } from '../fixtures/estate.ts';
import { lastJson, System } from '../fixtures/system.ts';
import { seeded } from '../fixtures/workload.ts';

interface Verified {
  equal: boolean;
  tables: { source: string; table: string; rows: number; equal: boolean; differences: unknown }[];
}

interface Row {
  readonly shard: string;
  readonly id: string;
  readonly note: string;
}

/** Every run prints its seed; TRIBUTARY_SEED repeats one. */
const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const SHARDS = Array.from({ length: 8 }, (_, i) => `shard_${i + 1}`);
/** On a server of its own, so that it can be put back as a whole. */
const RESTORED = 'shard_8';
const ROWS = 60;
const MOVES = 250;

describe(`eight sharded databases in one table while rows move between them (seed ${seed})`, () => {
  const random = seeded(seed);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
  let folder: string;
  let server: Awaited<ReturnType<typeof startPostgres>>;
  let own: Database;
  let system: System;
  let ods: Client;
  const shards = new Map<string, Client>();

  async function connect(url: string): Promise<Client> {
    const client = new Client({ connectionString: url });
    client.on('error', () => {});
    await client.connect();
    return client;
  }

  beforeAll(async () => {
    folder = await temporaryFolder('shards');
    server = await startPostgres({
      dir: join(folder, 'postgres'),
      databases: [...SHARDS.slice(0, -1), 'ods'],
      settings: { max_connections: '150' },
    });
    own = await Database.start(join(folder, 'own'), RESTORED);
    ods = await connect(server.url('ods'));
    const url = (shard: string) => (shard === RESTORED ? own.url : server.url(shard));
    for (const [i, shard] of SHARDS.entries()) {
      const client = await connect(url(shard));
      shards.set(shard, client);
      await client.query(`CREATE TYPE mood AS ENUM ('good', 'bad');
        CREATE TABLE orders (id bigint PRIMARY KEY, amount numeric(12,2) NOT NULL, mood mood, note text);
        CREATE TABLE seen (at int, note text); ALTER TABLE seen REPLICA IDENTITY FULL;
        INSERT INTO orders SELECT ${i} * 1000 + i, i / 7.0, 'good', 'born in ${shard}' FROM generate_series(1, ${ROWS}) i;
        INSERT INTO seen SELECT i % 3, 'row' FROM generate_series(1, 20) i`);
    }
    const config = join(folder, 'tributary.yaml');
    await writeFile(
      config,
      [
        ...SHARDS.map((shard) => `kind: Source\nname: ${shard}\npostgres: "${url(shard)}"`),
        `kind: Sink\nname: ods\ntype: ods\npostgres: "${server.url('ods')}"\nmerge: { into: all_shards }\nhistory: true`,
      ].join('\n---\n'),
    );
    await mkdir(join(folder, 'data'));
    system = new System(config, join(folder, 'data'));
    await system.start();
  });
  afterAll(async () => {
    await system?.stop();
    for (const client of shards.values()) await client.end();
    await ods?.end();
    await own?.stop();
    await server?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  /** The union of the shards, in plain SQL, and the merged table. */
  async function union(table: string): Promise<Row[]> {
    const rows = await Promise.all(
      SHARDS.map(
        async (shard) => (await shards.get(shard)?.query<Row>(`SELECT '${shard}' AS shard, t.* FROM ${table} t`))?.rows ?? [],
      ),
    );
    return rows.flat();
  }

  async function expectEqual(): Promise<void> {
    const verified = lastJson<Verified>(await system.run(['verify', '--timeout', '90s'], { timeoutMs: 120_000 }));
    expect(
      verified.tables.filter((table) => !table.equal),
      system.stderr.slice(-3_000),
    ).toEqual([]);
    expect(verified.tables.length).toBe(2 * SHARDS.length);
  }

  async function expectUnion(): Promise<void> {
    await expectEqual();
    for (const table of ['orders', 'seen']) {
      const merged = (await ods.query<Row>(`SELECT * FROM all_shards.${table}`)).rows;
      const words = (rows: readonly Row[]) => rows.map((row) => JSON.stringify(Object.entries(row).toSorted())).toSorted();
      expect(words(merged)).toEqual(words(await union(table)));
    }
  }

  /** One row goes from a shard to another: the new one may have it before the old one lets go, or after; some come back at once. */
  async function move(): Promise<void> {
    const [from, to] = [pick(SHARDS), pick(SHARDS)];
    const [a, b] = [shards.get(from) as Client, shards.get(to) as Client];
    if (a === b) return;
    const { rows } = await a.query<{ id: string; amount: string; mood: string; note: string }>(
      'SELECT * FROM orders ORDER BY id OFFSET $1 LIMIT 1',
      [Math.floor(random() * ROWS)],
    );
    const [row] = rows;
    if (!row) return;
    const put = async (into: Client, note: string) =>
      into.query('INSERT INTO orders VALUES ($1, $2, $3, $4)', [row.id, row.amount, row.mood, note]);
    const remove = async (out: Client) => out.query('DELETE FROM orders WHERE id = $1', [row.id]);
    const back = random() < 0.3;
    if (random() < 0.5) {
      await put(b, `came to ${to}`);
      await remove(a);
    } else {
      await remove(a);
      await put(b, `came to ${to}`);
    }
    if (!back) return;
    await put(a, `back in ${from}`);
    await remove(b);
  }

  async function moves(count: number): Promise<void> {
    for (let i = 0; i < count; i++) await move();
  }

  it('holds the union of all, and verify is equal while rows move', async () => {
    const moving = moves(MOVES);
    await expectEqual();
    await moving;
    await expectUnion();
    const merged = await ods.query<{ rows: number; ids: number }>(
      'SELECT count(*)::int AS rows, count(DISTINCT id)::int AS ids FROM all_shards.orders',
    );
    expect(merged.rows[0]).toEqual({ rows: ROWS * SHARDS.length, ids: ROWS * SHARDS.length });
    const moved = await ods.query(`SELECT FROM all_shards.orders WHERE note LIKE 'came to%'`);
    expect(moved.rowCount).toBeGreaterThan(20);
  });

  it("takes each shard's changes of shape, whoever comes first", async () => {
    const [first, second] = [shards.get('shard_1') as Client, shards.get('shard_2') as Client];
    await first.query(
      `ALTER TABLE orders ADD COLUMN region text DEFAULT 'north'; UPDATE orders SET note = 'wide' WHERE id % 2 = 0`,
    );
    await second.query('ALTER TABLE orders ALTER COLUMN amount TYPE numeric(14,4)');
    await expectEqual();
    for (const [shard, client] of shards) {
      if (shard !== 'shard_1') await client.query(`ALTER TABLE orders ADD COLUMN region text`);
      if (shard !== 'shard_2') await client.query('ALTER TABLE orders ALTER COLUMN amount TYPE numeric(14,4)');
    }
    await expectUnion();
    const type = await ods.query<{ type: string }>(
      `SELECT format_type(atttypid, atttypmod) AS type FROM pg_attribute WHERE attrelid = 'all_shards.orders'::regclass AND attname = 'amount'`,
    );
    expect(type.rows).toEqual([{ type: 'numeric(14,4)' }]);
  });

  it('follows a shard that is put back to an earlier state, and nothing of the others changes', async () => {
    const backup = join(folder, 'backup');
    await shards.get(RESTORED)?.end();
    await own.backup(backup);
    shards.set(RESTORED, await connect(own.url));
    await moves(50);
    await shards.get(RESTORED)?.query('TRUNCATE seen; DELETE FROM orders WHERE id % 3 = 0');
    await expectUnion();
    await shards.get(RESTORED)?.end();
    await own.restore(backup);
    shards.set(RESTORED, await connect(own.url));
    // Rows that had moved away since are in two shards now, rows that had come are in none: that is what the shards hold.
    await expectUnion();
    const seen = await ods.query<{ n: number }>(`SELECT count(*)::int AS n FROM all_shards.seen WHERE shard = '${RESTORED}'`);
    expect(seen.rows).toEqual([{ n: 20 }]);
  });

  it('replays one shard from the start without touching the others', async () => {
    const before = await ods.query<{ n: number }>(`SELECT count(*)::int AS n FROM all_shards.orders WHERE shard <> 'shard_3'`);
    const replay = await system.run(['replay', 'ods/shard_3', '--from', 'start']);
    expect(replay.code, replay.stderr).toBe(0);
    await expectUnion();
    const after = await ods.query<{ n: number }>(`SELECT count(*)::int AS n FROM all_shards.orders WHERE shard <> 'shard_3'`);
    expect(after.rows).toEqual(before.rows);
  });
});
