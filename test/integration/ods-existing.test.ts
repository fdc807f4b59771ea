import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System, tributary } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';

interface Projection {
  readonly state: string;
  readonly fault: { readonly kind: string; readonly message: string } | null;
}
interface Verified {
  readonly equal: boolean;
  readonly tables: readonly { readonly table: string; readonly equal: boolean }[];
}

/** A role with exactly what deploy/OPERATIONS.md says. */
const GRANTS = `
CREATE ROLE sink LOGIN;
CREATE SCHEMA tributary AUTHORIZATION sink;
GRANT USAGE ON SCHEMA shop TO sink;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA shop TO sink;`;

/** The owner's tables: in names that come in the wrong order, with columns, checks, an index, a default and a trigger of their own. */
const tables = (deferrable: string) => `
DROP SCHEMA IF EXISTS shop, shop_history CASCADE; DROP SCHEMA IF EXISTS tributary CASCADE; DROP ROLE IF EXISTS sink;
CREATE SCHEMA shop;
CREATE TABLE shop.z_customers (id bigint PRIMARY KEY, name text NOT NULL, rating int DEFAULT 5, seen timestamptz DEFAULT now());
CREATE TABLE shop.m_orders (id int PRIMARY KEY, customer bigint NOT NULL REFERENCES shop.z_customers ${deferrable}, total numeric CHECK (total >= 0), parent int REFERENCES shop.m_orders ${deferrable}, note text);
CREATE TABLE shop.a_items (order_id int REFERENCES shop.m_orders ${deferrable}, line int, sku text, written_by text, PRIMARY KEY (order_id, line));
CREATE INDEX own_index ON shop.m_orders (total);
CREATE FUNCTION shop.writes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.written_by := 'trigger'; RETURN NEW; END $$;
CREATE TRIGGER own_trigger BEFORE INSERT ON shop.a_items FOR EACH ROW EXECUTE FUNCTION shop.writes();
INSERT INTO shop.z_customers (id, name, rating) VALUES (1, 'old name', 9), (777777, 'not in the source', 1);
${GRANTS}`;

const SOURCE = `
DROP TABLE IF EXISTS a_items, m_orders, z_customers;
CREATE TABLE z_customers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE m_orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES z_customers ON UPDATE CASCADE DEFERRABLE, total numeric(10,2), parent int REFERENCES m_orders DEFERRABLE);
CREATE TABLE a_items (order_id int REFERENCES m_orders DEFERRABLE, line int, sku text, PRIMARY KEY (order_id, line));
INSERT INTO z_customers SELECT n, 'customer ' || n FROM generate_series(1, 500) n;
INSERT INTO m_orders SELECT n, 1 + n % 500, n, nullif(n / 2, 0) FROM generate_series(1, 2000) n;
INSERT INTO a_items SELECT 1 + n % 2000, n, 'sku' FROM generate_series(1, 6000) n`;

/** One transaction each: families that come and go, in whatever order a source with deferred keys may have it. */
const WORK = [
  `SET CONSTRAINTS ALL DEFERRED; INSERT INTO a_items VALUES (3000, 1, 'x'); INSERT INTO m_orders VALUES (3000, 3000, 1, 3001); INSERT INTO m_orders VALUES (3001, 3000, 2, NULL);
   INSERT INTO z_customers VALUES (3000, 'late')`,
  `UPDATE m_orders SET customer = 2 WHERE customer = 3; DELETE FROM z_customers WHERE id = 3`,
  `DELETE FROM a_items WHERE order_id = 4; UPDATE m_orders SET parent = NULL WHERE parent = 4; DELETE FROM m_orders WHERE id = 4`,
  `UPDATE z_customers SET id = 9000 WHERE id = 9`,
  `INSERT INTO z_customers SELECT n, 'many' FROM generate_series(10001, 11000) n; INSERT INTO m_orders VALUES (10002, 10002, 1, NULL);
   INSERT INTO a_items SELECT 10002, n, 'many' FROM generate_series(1, 500) n`,
];

describe('tables of the target that Tributary did not make', () => {
  let postgres: PostgresServer;
  let folder = '';
  let shop: Client;
  let ods: Client;
  let system: System | null = null;
  let runs = 0;

  const config = (more: string, role = 'sink') => `kind: Source
name: shop
postgres: "${postgres.url('shop')}"
---
kind: Sink
name: ods
type: ods
postgres: "${postgres.url('ods').replace('postgres@', `${role}@`)}"
${more}`;
  const file = () => join(folder, 'tributary.yaml');
  /** A new installation on a new data folder. */
  const start = async (more: string, role?: string) => {
    await writeFile(file(), config(more, role));
    system = new System(file(), join(folder, `data${++runs}`));
    await system.start();
    return system;
  };
  const stop = async () => {
    await system?.stop();
    system = null;
    await shop.query(
      `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'tributary_shop' AND NOT active`,
    );
  };
  const projection = async () => {
    const { projections } = lastJson<{ projections: Projection[] }>(await (system as System).run(['status']));
    return projections[0] as Projection;
  };
  const failed = () => until('the sink to stand still', async () => (await projection()).fault !== null && projection());
  const rows = async (sql: string) => (await ods.query(sql)).rows as Record<string, unknown>[];
  const verify = async () => {
    const verified = lastJson<Verified>(await (system as System).run(['verify', '--timeout', '60s'], { timeoutMs: 90_000 }));
    expect(verified.tables.filter((table) => !table.equal)).toEqual([]);
    expect(verified.tables).toHaveLength(3);
  };

  beforeAll(async () => {
    folder = await temporaryFolder('ods-existing');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'] });
    shop = new Client({ connectionString: postgres.url('shop') });
    ods = new Client({ connectionString: postgres.url('ods') });
    await shop.connect();
    await ods.connect();
  });

  afterEach(() => stop());

  afterAll(async () => {
    await shop.end();
    await ods.end();
    await postgres.stop();
  });

  it('are refused, empty or not, unless the config says so', async () => {
    await shop.query(SOURCE);
    await ods.query(tables(''));
    const before = await rows(`SELECT id, name, rating FROM shop.z_customers ORDER BY id`);
    await writeFile(file(), config('', 'postgres'));
    const checked = await tributary(['check', '-f', file()]);
    expect(checked.code).toBe(1);
    expect(checked.stdout).toContain('"existing: adopt"');
    await start('', 'postgres');
    const { fault } = await failed();
    expect(fault?.kind).toBe('target_conflict');
    expect(fault?.message).toContain('is already there');
    expect(fault?.message).toContain('"existing: adopt", which makes its rows those of the source');
    expect(await rows(`SELECT id, name, rating FROM shop.z_customers ORDER BY id`)).toEqual(before);
    expect(await rows(`SELECT tgname FROM pg_trigger WHERE NOT tgisinternal`)).toHaveLength(1);
  });

  it('that cannot take the rows are named with everything that is in the way, and the SQL that mends it', async () => {
    await ods.query(tables('DEFERRABLE'));
    await ods.query(`DELETE FROM shop.z_customers WHERE id > 32767;
      ALTER TABLE shop.z_customers DROP COLUMN name, ADD COLUMN must int, ALTER COLUMN id TYPE smallint;
      UPDATE shop.z_customers SET must = 1; ALTER TABLE shop.z_customers ALTER COLUMN must SET NOT NULL; REVOKE DELETE ON shop.z_customers FROM sink`);
    await start('existing: adopt\n');
    const { fault } = await failed();
    expect(fault?.kind).toBe('target_conflict');
    for (const sql of [
      'ALTER TABLE "shop"."z_customers" ADD COLUMN "name" text',
      'ALTER TABLE "shop"."z_customers" ALTER COLUMN "id" TYPE integer',
      'ALTER TABLE "shop"."z_customers" ALTER COLUMN "must" DROP NOT NULL',
      'GRANT DELETE ON "shop"."z_customers" TO "sink"',
    ])
      expect(fault?.message).toContain(sql);
  });

  it('that are adopted become equal, with least privileges; what their owner added stays, also through changes and a replay', async () => {
    await shop.query(SOURCE);
    await ods.query(tables('DEFERRABLE'));
    await start('existing: adopt\n');
    for (const work of WORK) await shop.query(`BEGIN; ${work}; COMMIT`);
    await verify();
    expect(await rows('SELECT id, name, rating FROM shop.z_customers WHERE id IN (1, 2, 777777) ORDER BY id')).toEqual([
      { id: '1', name: 'customer 1', rating: 9 },
      { id: '2', name: 'customer 2', rating: 5 },
    ]);
    await ods.query(`UPDATE shop.m_orders SET note = 'mine' WHERE id = 7`);
    await shop.query(`UPDATE m_orders SET total = 70 WHERE id = 7`);
    await verify();
    const replayed = await (system as System).run(['replay', 'ods']);
    expect(replayed.code, replayed.stderr).toBe(0);
    await verify();
    expect(await rows('SELECT total::float8 AS total, note FROM shop.m_orders WHERE id = 7')).toEqual([
      { total: 70, note: 'mine' },
    ]);
    expect(await rows(`SELECT DISTINCT written_by FROM shop.a_items`)).toEqual([{ written_by: 'trigger' }]);
    expect(await rows(`SELECT indexname FROM pg_indexes WHERE indexname = 'own_index'`)).toHaveLength(1);
    expect(
      await rows(
        `SELECT count(*)::int AS n FROM pg_constraint WHERE contype IN ('f', 'c') AND connamespace = 'shop'::regnamespace AND convalidated`,
      ),
    ).toEqual([{ n: 4 }]);
    // A column that the source adds is the owner's to add.
    await shop.query(`ALTER TABLE m_orders ADD COLUMN extra text DEFAULT 'e'`);
    const { fault } = await failed();
    expect(fault?.message).toContain('it lacks a column: ALTER TABLE "shop"."m_orders" ADD COLUMN "extra" text');
    await ods.query('ALTER TABLE shop.m_orders ADD COLUMN extra text');
  });

  it('that are adopted keep versions and deleted rows, once their owner gave them what the sink names', async () => {
    await shop.query(SOURCE);
    await shop.query('DELETE FROM a_items');
    await ods.query(tables('DEFERRABLE'));
    const asked = 'existing: adopt\nhistory: true\nsoftDelete: true\n';
    await start(asked);
    const { fault } = await failed();
    const named = fault?.message.match(/ALTER TABLE "shop"."z_customers" ADD COLUMN "_deleted_[a-z]+" [a-z_ ]+/g) ?? [];
    expect(named).toHaveLength(3);
    await stop();
    await ods.query(tables('DEFERRABLE'));
    await ods.query('CREATE SCHEMA shop_history AUTHORIZATION sink');
    for (const table of ['a_items', 'm_orders', 'z_customers'])
      for (const sql of named) await ods.query(sql.replace('z_customers', table));
    await ods.query(`INSERT INTO shop.m_orders VALUES (1, 1, 1); INSERT INTO shop.a_items VALUES (1, 1, 'own')`);
    await start(asked);
    await verify();
    // Also where the source has no row at all.
    expect(await rows('SELECT sku FROM shop.a_items WHERE _deleted_at IS NOT NULL')).toEqual([{ sku: 'own' }]);
    for (const work of WORK) await shop.query(`BEGIN; ${work}; COMMIT`);
    await verify();
    const gone = 'SELECT id, name FROM shop.z_customers WHERE _deleted_at IS NOT NULL ORDER BY id';
    // A row of the owner that the source does not have stays as well.
    expect(await rows(gone)).toEqual([
      { id: '3', name: 'customer 3' },
      { id: '9', name: 'customer 9' },
      { id: '777777', name: 'not in the source' },
    ]);
    const versions = `SELECT id, name, _op, _ended_by FROM shop_history.z_customers WHERE id IN (3, 9, 9000) ORDER BY id`;
    expect(await rows(versions)).toEqual([
      { id: 3, name: 'customer 3', _op: 'r', _ended_by: 'd' },
      { id: 9, name: 'customer 9', _op: 'r', _ended_by: 'u' },
      { id: 9000, name: 'customer 9', _op: 'u', _ended_by: null },
    ]);
  });

  it('keys that are checked at once are met by the order of tables', async () => {
    await shop.query(SOURCE);
    await ods.query(tables('NOT DEFERRABLE'));
    await start('existing: adopt\n');
    await verify();
    for (const work of WORK) await shop.query(`BEGIN; ${work}; COMMIT`);
    await verify();
  });

  it('a key that the source does not keep is named, with the ways out', async () => {
    await shop.query(SOURCE);
    await shop.query('ALTER TABLE a_items DROP CONSTRAINT a_items_order_id_fkey');
    await ods.query(tables('DEFERRABLE'));
    await start('existing: adopt\n');
    await verify();
    await shop.query(`INSERT INTO a_items VALUES (99999, 1, 'orphan')`);
    const { fault } = await until('the fault', async () => (await projection()).fault !== null && projection(), 60_000);
    expect(fault?.message).toContain('a foreign key finds no row');
    expect(fault?.message).toContain('a_items_order_id_fkey DEFERRABLE');
    expect(fault?.message).toContain('"foreignKeys: replica"');
  });

  it('keys are not checked where that is asked for and allowed, and it is said where it is not', async () => {
    await shop.query(SOURCE);
    await shop.query(
      `ALTER TABLE a_items DROP CONSTRAINT a_items_order_id_fkey; INSERT INTO a_items VALUES (99999, 1, 'orphan')`,
    );
    await ods.query(tables('NOT DEFERRABLE'));
    await writeFile(file(), config('existing: adopt\nforeignKeys: replica\n'));
    const checked = await tributary(['check', '-f', file()]);
    expect(checked.stdout).toContain('GRANT SET ON PARAMETER session_replication_role TO "sink"');
    system = new System(file(), join(folder, 'data-not-allowed'));
    system.launch();
    await until('the refusal', async () => system?.stderr.includes('may not set session_replication_role'));
    await ods.query('GRANT SET ON PARAMETER session_replication_role TO sink');
    await stop();
    await start('existing: adopt\nforeignKeys: replica\n');
    await verify();
    expect(await rows('SELECT sku FROM shop.a_items WHERE order_id = 99999')).toEqual([{ sku: 'orphan' }]);
  });
});
