import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System } from '../fixtures/system.ts';

interface Verified {
  equal: boolean;
  tables: { table: string; projection: string; equal: boolean; quarantined?: number }[];
}
interface Status {
  projections: { name: string; state: string; quarantinedTables: string[]; quarantinedBatches: number }[];
}
interface Listed {
  projection: string;
  table: string;
  batches: number;
  rows: number;
  reason: { kind: string; message: string } | null;
}

describe('onError: quarantine', () => {
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let system: System;
  let source: Client;
  let ods: Client;

  beforeAll(async () => {
    const folder = await temporaryFolder('quarantine');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'] });
    source = new Client({ connectionString: postgres.url('shop') });
    ods = new Client({ connectionString: postgres.url('ods') });
    await source.connect();
    await ods.connect();
    await source.query(`CREATE TABLE item (id integer PRIMARY KEY, v text); INSERT INTO item SELECT i, 'v' FROM generate_series(1, 100) i;
      CREATE TABLE log (v text); ALTER TABLE log REPLICA IDENTITY FULL; INSERT INTO log SELECT 'v' FROM generate_series(1, 10);
      CREATE TABLE other (id integer PRIMARY KEY, v text); INSERT INTO other SELECT i, 'v' FROM generate_series(1, 100) i`);
    await mkdir(join(folder, 'data'));
    const config = join(folder, 'tributary.yaml');
    await writeFile(
      config,
      `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"\n---\nkind: Sink\nname: ods\ntype: ods\nonError: quarantine\npostgres: "${postgres.url('ods')}"\n`,
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
    return lastJson<Verified>(await system.run(['verify', '--timeout', '60s', ...more]));
  }

  async function list(): Promise<Listed[]> {
    return lastJson<Listed[]>(await system.run(['quarantine', 'list']));
  }

  const act = (...words: string[]) => system.run(['quarantine', ...words]);

  it('puts the table aside whose change cannot be applied, and others go on', async () => {
    expect((await verify()).equal).toBe(true);
    await ods.query(
      `ALTER TABLE shop.item ADD CONSTRAINT no_poison CHECK (v <> 'poison'); ALTER TABLE shop.log ADD CONSTRAINT short CHECK (v <> 'poison')`,
    );
    await source.query(`UPDATE item SET v = 'before' WHERE id = 1`);
    // Applied by itself: the batch that fails is put aside as a whole, as far as it is of that table.
    expect((await verify()).equal).toBe(true);
    await source.query(`BEGIN; UPDATE other SET v = 'with it' WHERE id = 1; UPDATE item SET v = 'poison' WHERE id = 2; COMMIT`);
    await source.query(`UPDATE item SET v = 'after' WHERE id = 3; INSERT INTO log VALUES ('poison'), ('v')`);
    await source.query(
      `UPDATE other SET v = 'later' WHERE id = 2; DELETE FROM item WHERE id = 4; DELETE FROM log WHERE v = 'poison'`,
    );
    const { tables } = await verify();
    expect(tables.map(({ table, equal }) => [table, equal])).toEqual([
      ['public.item', false],
      ['public.log', false],
      ['public.other', true],
    ]);
    expect(tables.map(({ quarantined }) => (quarantined ?? 0) > 0)).toEqual([true, true, false]);
    const { rows } = await ods.query('SELECT id, v FROM shop.item WHERE id < 5 ORDER BY id');
    expect(rows.map(({ id, v }) => `${id} ${v}`)).toEqual(['1 before', '2 v', '3 v', '4 v']);
    const { projections } = lastJson<Status>(await system.run(['status']));
    expect(projections).toMatchObject([{ state: 'running', quarantinedTables: ['public.item', 'public.log'] }]);
    const metrics = await (await fetch(`${system.console}/metrics`)).text();
    expect(metrics).toMatch(/tributary_quarantined_batches\{.*projection="ods\/shop".*\} [1-9]/);
  });

  it('survives kill -9 without doubling, and shows facts, and rows only when asked', async () => {
    const before = await list();
    expect(before.map(({ table, reason }) => [table, reason?.kind])).toEqual([
      ['public.item', 'database_rejected'],
      ['public.log', 'database_rejected'],
    ]);
    expect(before[0]?.reason?.message).toContain('no_poison');
    await system.kill();
    await system.start();
    await source.query(`UPDATE item SET v = 'again' WHERE id = 5`);
    await verify();
    const after = await list();
    expect(after[0]).toEqual({ ...before[0], batches: (before[0]?.batches ?? 0) + 1, rows: (before[0]?.rows ?? 0) + 1 });
    expect(after[1]).toEqual(before[1]);
    const shown = await act('show', 'ods/shop', 'item');
    expect(shown.stdout).toContain('no_poison');
    expect(shown.stdout).not.toContain('"v":"poison"');
    expect((await act('show', 'ods/shop', 'item', '--rows')).stdout).toContain('"v":"poison"');
  });

  it('takes it back in order, as a whole or not at all', async () => {
    const refused = await act('retry', 'ods/shop');
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain('no_poison');
    expect((await list()).length).toBe(2);
    await ods.query('ALTER TABLE shop.item DROP CONSTRAINT no_poison; ALTER TABLE shop.log DROP CONSTRAINT short');
    const taken = await act('retry', 'ods/shop');
    expect(taken.code, taken.stderr).toBe(0);
    expect(await list()).toEqual([]);
    expect(await verify()).toMatchObject({ equal: true });
    await source.query(`UPDATE item SET v = 'on' WHERE id < 50; INSERT INTO log VALUES ('on')`);
    expect(await verify()).toMatchObject({ equal: true });
  });

  it('gives up loudly, and a repair mends what is then wrong', async () => {
    await ods.query(`ALTER TABLE shop.item ADD CONSTRAINT no_poison CHECK (v <> 'poison')`);
    await source.query(`UPDATE item SET v = 'poison' WHERE id = 60`);
    expect((await verify()).equal).toBe(false);
    await source.query(`UPDATE item SET v = 'well' WHERE id = 60`);
    const unnamed = await act('drop', 'ods/shop');
    expect(unnamed.code).toBe(1);
    const dropped = await act('drop', 'ods/shop', 'item');
    expect(dropped.code, dropped.stderr).toBe(0);
    expect(await list()).toEqual([]);
    const { rows } = await ods.query('SELECT v FROM shop.item WHERE id = 60');
    expect(rows).toEqual([{ v: 'v' }]);
    expect((await verify()).equal).toBe(false);
    const mended = await system.run(['verify', '--repair']);
    expect(mended.code, mended.stdout + mended.stderr).toBe(0);
  });
});
