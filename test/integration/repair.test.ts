import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System } from '../fixtures/system.ts';

interface Verified {
  equal: boolean;
  tables: { table: string; projection: string; equal: boolean; differences: { problem: string }[] }[];
  repaired?: { table: string; keys: number | null; rows: number }[];
}

const TABLES = `
CREATE TABLE item (id integer PRIMARY KEY, v text, big text); ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
CREATE TABLE pair ("A b" text, at timestamptz, v numeric, PRIMARY KEY (at, "A b"));
CREATE TABLE log (at integer, v text); ALTER TABLE log REPLICA IDENTITY FULL;
CREATE TABLE steady (id integer PRIMARY KEY, v text);
INSERT INTO item SELECT i, 'v' || i, CASE WHEN i < 400 THEN repeat(md5(i::text), 100) END FROM generate_series(1, 3000) i;
INSERT INTO pair SELECT 'k "' || i || E'",\\\\{}', timestamptz '2026-01-01' + i * interval '1 hour', i FROM generate_series(1, 100) i;
INSERT INTO log SELECT i, 'v' FROM generate_series(1, 100) i;
INSERT INTO steady SELECT i, 'v' FROM generate_series(1, 100) i;`;

describe('verify --repair', () => {
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let system: System;
  let source: Client;
  let ods: Client;

  beforeAll(async () => {
    const folder = await temporaryFolder('repair');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'] });
    source = new Client({ connectionString: postgres.url('shop') });
    ods = new Client({ connectionString: postgres.url('ods') });
    await source.connect();
    await ods.connect();
    await source.query(TABLES);
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
---
kind: Sink
name: lake
type: lake
`,
    );
    system = new System(config, join(folder, 'data'));
    await system.start();
  });
  afterAll(async () => {
    await system?.stop();
    await source?.end();
    await ods?.end();
    await postgres?.stop();
  });

  async function verify(...more: string[]): Promise<Verified> {
    const outcome = await system.run(['verify', '--timeout', '60s', ...more]);
    const verified = lastJson<Verified>(outcome);
    expect(outcome.code, outcome.stderr).toBe(verified.equal ? 0 : 1);
    return verified;
  }

  async function expectEqual(): Promise<void> {
    expect((await verify()).tables.filter((one) => !one.equal)).toEqual([]);
  }

  /** Changes rows without rest until told to stop, also such as the repair reads. */
  async function load(signal: AbortSignal): Promise<void> {
    const client = new Client({ connectionString: postgres.url('shop') });
    await client.connect();
    for (let i = 1; !signal.aborted; i++) {
      await client.query(`UPDATE item SET v = 'w${i}' WHERE id % 50 = ${i % 50}`);
      await client.query(`UPDATE item SET id = id + 100000 WHERE id = ${i % 90}; INSERT INTO log VALUES (${i}, 'w')`);
      // A steady load that every stage can follow, whatever the machine.
      await client.query('SELECT pg_sleep(0.03)');
      if (i % 3 === 0) await client.query(`DELETE FROM item WHERE id = ${300 + (i % 60)}; DELETE FROM log WHERE at = ${i - 2}`);
    }
    await client.end();
  }

  it('mends rows that somebody removed, altered and added in the ODS, under load', async () => {
    await expectEqual();
    await ods.query(`DELETE FROM shop.item WHERE id BETWEEN 20 AND 60; UPDATE shop.item SET v = 'x', big = 'y' WHERE id BETWEEN 80 AND 120;
      INSERT INTO shop.item SELECT i, 'z', NULL FROM generate_series(900001, 900020) i; DELETE FROM shop.item WHERE id = 350;
      UPDATE shop.pair SET v = -1 WHERE v BETWEEN 10 AND 20; DELETE FROM shop.pair WHERE v = 30; INSERT INTO shop.pair VALUES ('extra "', '2030-01-01', 1);
      DELETE FROM shop.log WHERE at = 90; INSERT INTO shop.log VALUES (90, 'mine'), (90, 'mine')`);
    const found = await verify();
    expect(found.equal).toBe(false);
    const wrong = found.tables.filter((one) => !one.equal);
    expect(wrong.map((one) => `${one.projection} ${one.table}`)).toEqual([
      'ods public.item',
      'ods public.log',
      'ods public.pair',
    ]);
    expect(new Set(wrong.flatMap((one) => one.differences.map(({ problem }) => problem)))).toEqual(
      new Set(['missing', 'extra', 'different']),
    );
    const stop = new AbortController();
    const loading = load(stop.signal);
    const mending = verify('--repair').finally(() => stop.abort());
    await Promise.all([loading, mending]);
    const mended = await mending;
    expect(
      mended.tables.filter((one) => !one.equal),
      `repaired: ${JSON.stringify(mended.repaired)}`,
    ).toEqual([]);
    const repaired = mended.repaired ?? [];
    expect(repaired.slice(0, 3).map(({ table }) => table)).toEqual(['public.item', 'public.log', 'public.pair']);
    expect(repaired[0]?.keys).toBeGreaterThan(50);
    expect(repaired[0]?.rows).toBeLessThan(200);
    expect(repaired[1]?.keys).toBeNull();
    expect(repaired[2]?.keys).toBe(13);
    // A row that moves before it is read again lacks what the stream leaves out, and is mended behind the others.
    expect(repaired.slice(3).every(({ table, keys }) => table === 'public.item' && keys !== null)).toBe(true);
    await expectEqual();
  });

  it('reads a whole table again when much of it, or all of it, is gone', async () => {
    await ods.query('TRUNCATE shop.item; DROP TABLE shop.steady');
    const mended = await verify('--repair');
    expect(mended.equal).toBe(true);
    expect(mended.repaired?.map(({ table, keys }) => [table, keys])).toEqual([
      ['public.item', null],
      ['public.steady', null],
    ]);
    await expectEqual();
    expect(await verify('--repair')).toMatchObject({ equal: true, repaired: [] });
  });

  it('replays over what was repaired', async () => {
    const replayed = await system.run(['replay', 'lake']);
    expect(replayed.code, replayed.stderr).toBe(0);
    await expectEqual();
  });
});
