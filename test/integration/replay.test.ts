import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lakeHistory } from '../fixtures/lake-history.ts';
import { createLedger } from '../fixtures/ledger.ts';
import { lastJson, System } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';
import { runWorkload } from '../fixtures/workload.ts';

const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);

const TABLES = `
CREATE TABLE plain (id integer PRIMARY KEY, v text, n numeric(5,2));
CREATE TABLE pair (a integer, b integer, v text, PRIMARY KEY (a, b));
CREATE TABLE toasted (id integer PRIMARY KEY, v varchar(40), big text); ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL;
CREATE TABLE moving (id integer PRIMARY KEY, v varchar(40), big text); ALTER TABLE moving ALTER big SET STORAGE EXTERNAL;
CREATE TABLE full_rows (id integer, v text); ALTER TABLE full_rows REPLICA IDENTITY FULL;
CREATE TABLE added_only (id integer, v text);
INSERT INTO plain SELECT i, 'v' || i, i % 100 FROM generate_series(1, 300) i;
INSERT INTO pair SELECT i % 10, i, 'v' FROM generate_series(1, 200) i;
INSERT INTO toasted SELECT i, 'v', repeat(md5(i::text), 200) FROM generate_series(1, 40) i;
INSERT INTO moving SELECT i, 'v', repeat(md5(i::text), 200) FROM generate_series(1, 40) i;
INSERT INTO full_rows SELECT i % 20, 'v' FROM generate_series(1, 60) i;
INSERT INTO added_only SELECT i, 'v' FROM generate_series(1, 50) i;`;

interface Verified {
  equal: boolean;
  tables: { table: string; projection: string; equal: boolean }[];
}
interface Replayed {
  replayed: { projection: string; from: string; messages: number; kept: string[] }[];
}

describe(`replay from the middle of history (seed ${seed})`, () => {
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let system: System;
  let client: Client;
  let folder: string;

  beforeAll(async () => {
    folder = await temporaryFolder('replay');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'] });
    client = new Client({ connectionString: postgres.url('shop') });
    await client.connect();
    await client.query(TABLES);
    await createLedger(client);
    await mkdir(join(folder, 'data'));
    const config = join(folder, 'tributary.yaml');
    await writeFile(
      config,
      `kind: Cluster
lake: { url: "file:${join(folder, 'lake')}" }
---
kind: Source
name: shop
postgres: "${postgres.url('shop')}"
---
kind: Sink
name: ods
type: ods
postgres: "${postgres.url('ods')}"
history: true
softDelete: true
---
kind: Sink
name: lake
type: lake
flush: { every: 1s, bytes: 1MiB }
compact: { every: 2s }
`,
    );
    system = new System(config, join(folder, 'data'));
    await system.start();
  });
  afterAll(async () => {
    await system?.stop();
    await client?.end();
    await postgres?.stop();
  });

  async function expectEqual(): Promise<void> {
    const verified = lastJson<Verified>(await system.run(['verify', '--timeout', '60s']));
    expect(
      verified.tables.filter((table) => !table.equal),
      system.stderr.slice(-2_000),
    ).toEqual([]);
    expect(verified.tables.length).toBeGreaterThan(15);
  }

  async function replay(sink: string, from: string): Promise<Replayed['replayed'][number]> {
    const outcome = await system.run(['replay', sink, '--from', from]);
    expect(outcome.code, outcome.stderr + system.stderr.slice(-2_000)).toBe(0);
    return lastJson<Replayed>(outcome).replayed[0] as Replayed['replayed'][number];
  }

  const work = (operations: number, plus = 0) =>
    runWorkload({ url: postgres.url('shop'), schema: 'public', seed: seed + plus, operations, truncatable: ['pair', 'plain'] });

  /** PostgreSQL's own clock and place, between two transactions. */
  async function now(): Promise<{ time: string; lsn: string }> {
    const { rows } = await client.query<{ time: string; lsn: string }>(
      `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS time, pg_current_wal_insert_lsn()::text AS lsn`,
    );
    return rows[0] as { time: string; lsn: string };
  }

  /** Every change of the changelog stands in the lake's history once, and nothing else does. */
  async function expectHistoryOnce(): Promise<void> {
    const compacted = await system.run(['compact']);
    expect(compacted.code, compacted.stderr).toBe(0);
    const keys = { 'public.plain': 'id', 'public.pair': `a || '/' || b`, 'public.toasted': 'id', 'public.moving': 'id' };
    const history = await lakeHistory(join(folder, 'lake', 'shop'), keys);
    const tail = await system.run(['tail', 'shop', '--from', 'start', '--until-caught-up']);
    expect(tail.code, tail.stderr).toBe(0);
    const expected = new Map<string, Map<string, number>>();
    for (const line of tail.stdout.trim().split('\n')) {
      const change = JSON.parse(line) as {
        table: string;
        op: string;
        lsn: string;
        ordinal: number;
        seq: number;
        after: Record<string, string> | null;
      };
      const name = `public.${change.table}`;
      const key = change.table === 'pair' ? `${change.after?.['a']}/${change.after?.['b']}` : change.after?.['id'];
      const id =
        change.op === 'r' ? `r ${change.seq} ${name in keys ? key : ''}` : `${change.op} ${change.lsn} ${change.ordinal}`;
      const counts = expected.get(name) ?? new Map<string, number>();
      expected.set(name, counts.set(id, (counts.get(id) ?? 0) + 1));
    }
    expect(expected.size).toBe(7);
    // The lake may have come a heartbeat further than `tail`, but rows come from the workload alone, which rests.
    for (const [name, counts] of expected) expect(history.get(name), name).toEqual(counts);
  }

  /** Of the table without rows, the same in ODS and lake; none where they differ. */
  async function columnsOfNever(): Promise<string[]> {
    const ods = new Client({ connectionString: postgres.url('ods') });
    await ods.connect();
    const { rows } = await ods.query<{ name: string }>(
      `SELECT column_name AS name FROM information_schema.columns
        WHERE table_schema = 'shop' AND table_name = 'never' AND column_name NOT LIKE '\\_%' ORDER BY ordinal_position`,
    );
    await ods.end();
    const asked = await system.run(['query', 'SELECT * FROM shop.never']);
    const lake = asked.code === 0 ? lastJson<{ columns: { name: string }[] }>(asked).columns : [];
    const names = rows.map(({ name }) => name);
    return lake.map((column) => column.name).join() === names.join() ? names : [];
  }

  it('gives the same values again, from a time, while load runs; and history has every change once', async () => {
    await work(600);
    const { time } = await now();
    await work(600, 1);
    // A snapshot in the middle, a change of shape, and rows that move with values the stream leaves out.
    expect((await system.run(['snapshot', 'shop', '--table', 'plain'])).code).toBe(0);
    await client.query(`INSERT INTO moving VALUES (7777, 'v', repeat(md5('7777'), 200))`);
    await client.query(
      `ALTER TABLE pair ADD COLUMN more integer DEFAULT 7; UPDATE moving SET id = id + 5000 WHERE id < 20 OR id = 7777`,
    );
    await client.query(`UPDATE toasted SET v = 'touched' WHERE id < 30; DELETE FROM plain WHERE id % 7 = 0`);
    // What was applied already is what is applied again: rows that moved must be among it.
    expect((await system.run(['status', '--wait', 'caught-up'])).code).toBe(0);
    const load = work(1_500, 2);
    const ods = await replay('ods', time);
    const lake = await replay('lake', time);
    expect(ods.messages).toBeGreaterThan(1);
    for (const { kept } of [ods, lake]) {
      expect(kept).toEqual(expect.arrayContaining(['public.added_only', 'public.full_rows', 'public.moving']));
      expect(kept).not.toContain('public.plain');
    }
    await load;
    await expectEqual();
    await expectHistoryOnce();
  });

  it('mends what somebody changed since, from a position; crash in the middle of it included', async () => {
    const { lsn } = await now();
    await client.query(`UPDATE plain SET v = 'new' WHERE id % 2 = 0; INSERT INTO plain VALUES (9001, 'x', 1)`);
    await work(300, 3);
    await expectEqual();
    const ods = new Client({ connectionString: postgres.url('ods') });
    await ods.connect();
    await ods.query(`UPDATE shop.plain SET v = 'wrong' WHERE v = 'new'; DELETE FROM shop.plain WHERE id = 9001`);
    await ods.end();
    for (const sink of ['ods', 'lake']) {
      const running = system.run(['replay', sink, '--from', lsn]);
      await system.kill();
      await running;
      await system.start();
      expect((await replay(sink, lsn)).kept).not.toContain('public.plain');
    }
    await expectEqual();
    await expectHistoryOnce();
    // A table that never has a row is told of too, and of what becomes of it.
    await client.query('CREATE TABLE never (id integer PRIMARY KEY, v text)');
    await until('the empty table', async () => (await columnsOfNever()).join() === 'id,v');
    await client.query('ALTER TABLE never ADD COLUMN more integer');
    await until('its other column', async () => (await columnsOfNever()).join() === 'id,v,more');
    for (const sink of ['ods', 'lake']) await replay(sink, 'start');
    await expectEqual();
    await expectHistoryOnce();
    expect(await columnsOfNever()).toEqual(['id', 'v', 'more']);
  });

  it('says what it cannot do', async () => {
    const refused = async (from: string) => {
      const outcome = await system.run(['replay', 'ods', '--from', from]);
      expect(outcome.code).toBe(1);
      return outcome.stderr;
    };
    expect(await refused('FFFF/0')).toMatch(/lies in the future: changelog shop ends at/);
    expect(await refused('2100-01-01T00:00:00Z')).toMatch(/lies in the future/);
    expect(await refused('yesterday')).toMatch(/expected start, a position such as/);
    await expectEqual();
  });
});
