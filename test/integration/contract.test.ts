import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System, tributary } from '../fixtures/system.ts';
import { timed } from '../fixtures/timed.ts';
import { until } from '../fixtures/wait.ts';

interface Alert {
  readonly table: string;
  readonly column: string | null;
  readonly problem: string;
  readonly owner: string;
  readonly resolvedAt: number | null;
}
interface Source {
  readonly state: string;
  readonly restarts: number;
  readonly fault: { readonly kind: string; readonly message: string; readonly advice: string } | null;
}
interface Verified {
  readonly equal: boolean;
  readonly tables: readonly { readonly table: string; readonly projection: string; readonly equal: boolean }[];
}

const OWNER = 'Team Shop, #shop-data';
const COLUMNS = 'id: bigint, status: text, total: "numeric(12,2)"';

describe('a contract', () => {
  let postgres: PostgresServer;
  let system: System;
  let file = '';
  const clients: Client[] = [];
  let shop: Client;
  let ods: Client;

  const config = (policy: string, columns = COLUMNS) => `kind: Source
name: shop
postgres: "${postgres.url('shop')}"
schemaChanges: ${policy}
contract:
  owner: "${OWNER}"
  tables:
    public.orders: { key: [id], columns: { ${columns} } }
---
kind: Sink
name: ods
type: ods
postgres: "${postgres.url('ods')}"
---
kind: Sink
name: lake
type: lake
`;
  const apply = async (text: string) => {
    await writeFile(file, text);
    const outcome = await system.run(['apply', '-f', file]);
    expect(outcome.code, outcome.stderr).toBe(0);
  };
  const http = async (path: string) => (await fetch(new URL(path, system.console))).text();
  const alerts = async (state = 'raised') => JSON.parse(await http(`/v1/alerts?state=${state}`)) as Alert[];
  const raised = (problem: string) =>
    until(`the alert "${problem}"`, async () => (await alerts()).find((alert) => alert.problem === problem));
  const resolved = () => until('no alert', async () => (await alerts()).length === 0);
  const source = async () => (JSON.parse(await http('/v1/sources')) as Source[])[0] as Source;
  const state = (wanted: string) =>
    until(`the source to be ${wanted}`, async () => (await source()).state === wanted && source());
  const rows = async (sql: string) => (await ods.query(sql)).rows as Record<string, unknown>[];
  const arrives = (id: number) => until(`order ${id}`, async () => (await rows(`SELECT * FROM shop.orders WHERE id = ${id}`))[0]);
  const verify = async () => {
    const verified = lastJson<Verified>(await system.run(['verify']));
    expect(verified.tables.filter((table) => !table.equal)).toEqual([]);
    expect(new Set(verified.tables.map((table) => table.projection))).toEqual(new Set(['ods', 'lake', 'query']));
  };
  /** The table as it was promised, with ten orders, whatever was made of it before. */
  const begin = async (policy: string) => {
    await shop.query(`DROP TABLE IF EXISTS orders; CREATE TABLE orders (id bigint PRIMARY KEY, status text, total numeric(12,2));
      INSERT INTO orders SELECT n, 'paid', n FROM generate_series(1, 10) n`);
    await apply(config(policy));
    await resolved();
    await state('running');
    await verify();
  };

  beforeAll(async () => {
    const folder = await temporaryFolder('contract');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'] });
    for (const database of ['shop', 'ods']) clients.push(new Client({ connectionString: postgres.url(database) }));
    for (const client of clients) await client.connect();
    [shop, ods] = clients as [Client, Client];
    await shop.query(`CREATE TABLE notes (id int PRIMARY KEY, text text); INSERT INTO notes VALUES (0, '')`);
    file = join(folder, 'tributary.yaml');
    await writeFile(file, config('apply'));
    system = new System(file, join(folder, 'data'));
    await system.start();
  });

  afterAll(async () => {
    await system?.stop();
    for (const client of clients) await client.end();
    await postgres?.stop();
  });

  it('is silent about what keeps it, and tells each breach once, with its owner, everywhere', async () => {
    await begin('apply');
    await shop.query('ALTER TABLE orders ADD COLUMN extra int DEFAULT 7');
    await until('the column', async () => (await arrives(1))['extra'] === 7);
    expect(await alerts()).toEqual([]);

    await shop.query('ALTER TABLE orders RENAME COLUMN total TO amount');
    expect(await timed('an alert tells of a broken contract', () => raised('column total is gone'))).toMatchObject({
      table: 'public.orders',
      column: 'total',
      owner: OWNER,
    });
    const series = `tributary_contract_breaches{source="shop",table="public.orders",owner="${OWNER}"}`;
    await until('the metric', async () => (await http('/metrics')).includes(`${series} 1\n`));
    const status = lastJson<{ alerts: Alert[] }>(await system.run(['status']));
    expect(status.alerts.map((alert) => alert.problem)).toEqual(['column total is gone']);
    // Consumers follow the table.
    await shop.query(`INSERT INTO orders (id, status, amount) VALUES (11, 'new', 5)`);
    expect(await arrives(11)).toMatchObject({ amount: '5.00' });
    await verify();

    await shop.query('ALTER TABLE orders RENAME COLUMN amount TO total');
    await resolved();
    await until('the metric', async () => (await http('/metrics')).includes(`${series} 0\n`));
    const history = lastJson<{ tables: { table: string; versions: { at: string; changes: unknown[] }[] }[] }>(
      await system.run(['schema', 'diff', 'shop.orders']),
    );
    expect(history.tables.map(({ table }) => table)).toEqual(['public.orders']);
    const [first, ...later] = history.tables[0]?.versions ?? [];
    expect(first?.changes).toEqual([]);
    expect(later.map(({ changes }) => changes).slice(-3)).toEqual([
      [{ change: 'added', column: 'extra', type: 'integer' }],
      [
        { change: 'dropped', column: 'total', type: 'numeric(12,2)' },
        { change: 'added', column: 'amount', type: 'numeric(12,2)' },
      ],
      [
        { change: 'dropped', column: 'amount', type: 'numeric(12,2)' },
        { change: 'added', column: 'total', type: 'numeric(12,2)' },
      ],
    ]);
    const times = later.map(({ at }) => at);
    expect(times).toEqual(times.toSorted());
    const told = await tributary(['schema', 'diff', 'shop', '--data', system.data]);
    expect(told.stdout).toContain('shop.public.orders\nsince');
    expect(told.stdout).toMatch(/Z +[0-9A-F]+\/[0-9A-F]+\+\d+ +- total numeric\(12,2\)\n +\+ amount numeric\(12,2\)\n/);
    const [over] = await alerts('all');
    expect(over).toMatchObject({ problem: 'column total is gone', resolvedAt: expect.any(Number) as number });
    expect((await alerts('all')).filter((alert) => alert.problem === 'column total is gone')).toHaveLength(1);
    expect(system.stderr.split('a table does not keep its contract"').length - 1).toBe((await alerts('all')).length);
    await verify();
  });

  it('is kept by a column that was dropped and made again, and its values are those of the new one', async () => {
    await begin('apply');
    await system.stop();
    await shop.query('ALTER TABLE orders DROP COLUMN total, ADD COLUMN total numeric(12,2) DEFAULT 8');
    await system.start();
    await until('the new values', async () => (await arrives(1))['total'] === '8.00');
    expect(await alerts()).toEqual([]);
    await verify();
  });

  it('may be changed at any time, without a restart of anything else', async () => {
    await begin('apply');
    await shop.query('ALTER TABLE orders ALTER COLUMN total TYPE text');
    await raised('column total is text instead of numeric(12,2)');
    await apply(config('apply', 'id: bigint, total: text'));
    await resolved();
    await apply(config('apply', 'id: bigint, total: text, weight: int'));
    await raised('column weight is gone');
    const { projections } = lastJson<{ projections: { state: string; restarts: number }[] }>(await system.run(['status']));
    expect(projections.map(({ state, restarts }) => [state, restarts])).toEqual([
      ['running', 0],
      ['running', 0],
    ]);
  });

  it('keep: promised columns stay with their values, others flow, also through a new snapshot', async () => {
    await begin('keep');
    await shop.query('ALTER TABLE orders DROP COLUMN total, ADD COLUMN note text');
    await raised('column total is gone');
    await shop.query(`INSERT INTO orders VALUES (12, 'new', 'n'); UPDATE orders SET status = 'sent', note = 'u' WHERE id = 1;
      UPDATE orders SET id = 22 WHERE id = 2; DELETE FROM orders WHERE id = 3`);
    expect(await arrives(12)).toEqual({ id: '12', status: 'new', note: 'n', total: null });
    expect(await arrives(22)).toEqual({ id: '22', status: 'paid', note: null, total: '2.00' });
    expect(await arrives(1)).toEqual({ id: '1', status: 'sent', note: 'u', total: '1.00' });
    expect(await rows('SELECT * FROM shop.orders WHERE id IN (2, 3)')).toEqual([]);
    const snapshot = await system.run(['snapshot', 'shop', '--table', 'public.orders']);
    expect(snapshot.code, snapshot.stderr).toBe(0);
    await verify();
    expect(await arrives(4)).toMatchObject({ total: '4.00' });
    const query = `SELECT id, total FROM shop.orders WHERE id IN (1, 12, 22) ORDER BY id`;
    const { rows: lake } = lastJson<{ rows: Record<string, unknown>[] }>(await system.run(['query', query]));
    expect(lake.map(({ id, total }) => [Number(id), total === null ? null : Number(total)])).toEqual([
      [1, 1],
      [12, null],
      [22, 2],
    ]);
    await system.kill();
    await system.start();
    await raised('column total is gone');
    await shop.query(`UPDATE orders SET status = 'back' WHERE id = 5`);
    await until('the update', async () => (await arrives(5))['status'] === 'back');
    expect(await arrives(5)).toMatchObject({ total: '5.00' });

    // A column of that name is another one: its values come whole.
    await shop.query('ALTER TABLE orders ADD COLUMN total numeric(12,2) DEFAULT 99');
    await resolved();
    await until('the new values', async () => (await arrives(4))['total'] === '99.00');
    await verify();
  });

  it('keep: a column of another type is not passed on, and a table that is gone stays as it was', async () => {
    await begin('keep');
    await shop.query(`ALTER TABLE orders ALTER COLUMN total TYPE text USING 'about ' || total`);
    await raised('column total is text instead of numeric(12,2)');
    await shop.query(
      `INSERT INTO orders VALUES (13, 'new', 'about 13'); UPDATE orders SET total = 'much', status = 'big' WHERE id = 6`,
    );
    expect(await arrives(13)).toMatchObject({ total: null });
    await until('the update', async () => (await arrives(6))['status'] === 'big');
    expect(await arrives(6)).toMatchObject({ total: '6.00' });
    await shop.query('DROP TABLE orders');
    await raised('the table is gone');
    await shop.query(`INSERT INTO notes VALUES (1, 'goes on')`);
    await until('the note', async () => (await rows('SELECT * FROM shop.notes WHERE id = 1')).length === 1);
    expect(await rows('SELECT count(*)::int AS n FROM shop.orders')).toEqual([{ n: 11 }]);
  });

  it('keep: a table without its key cannot be kept, and everything stands still until it has it again', async () => {
    await begin('keep');
    await shop.query('ALTER TABLE orders DROP CONSTRAINT orders_pkey');
    const { fault } = await state('failed');
    expect(fault?.kind).toBe('contract_broken');
    expect(fault?.message).toContain(`${OWNER} answers for: public.orders: the key (id) is gone. That cannot be kept.`);
    // The owner's own work is not refused, although old rows can no longer be named.
    await shop.query(
      `UPDATE orders SET status = 'unseen' WHERE id = 7; DELETE FROM orders WHERE id = 8; INSERT INTO orders VALUES (14, 'x', 1)`,
    );
    await shop.query('ALTER TABLE orders ADD PRIMARY KEY (id)');
    await state('running');
    await resolved();
    await verify();
    expect(await arrives(7)).toMatchObject({ status: 'unseen' });
    expect(await rows('SELECT * FROM shop.orders WHERE id = 8')).toEqual([]);
  });

  it('halt: nothing of the broken shape goes out, and nothing is lost when it is mended or the policy is another', async () => {
    await begin('halt');
    await shop.query(
      `ALTER TABLE orders DROP COLUMN total; INSERT INTO orders VALUES (15, 'broken'); UPDATE orders SET status = 'y' WHERE id = 9`,
    );
    const { fault } = await state('failed');
    expect(fault?.message).toContain('column total is gone');
    expect(fault?.advice).toContain('schemaChanges: apply');
    expect(await rows('SELECT * FROM shop.orders WHERE id = 15')).toEqual([]);
    expect(await arrives(9)).toMatchObject({ status: 'paid', total: '9.00' });
    // Mended in another way than it was: what was written between comes with the snapshot that follows.
    await shop.query('ALTER TABLE orders ADD COLUMN total numeric(10,2) DEFAULT 3');
    await state('running');
    expect(await arrives(15)).toMatchObject({ status: 'broken', total: '3.00' });
    await resolved();
    await verify();

    await shop.query(`ALTER TABLE orders RENAME COLUMN status TO state; INSERT INTO orders VALUES (16, 'renamed')`);
    await state('failed');
    await apply(config('apply'));
    await state('running');
    expect(await arrives(16)).toMatchObject({ state: 'renamed' });
    await verify();
  });
});
