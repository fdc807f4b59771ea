import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { lastJson, System } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';

/**
 * WAL order is not visibility order: with synchronous replication to a standby that is away, an UPDATE is in the WAL
 * and streamed, but no snapshot sees it. A snapshot that trusted watermarks would read the old row after the stream
 * brought the new one, and keep it for good.
 */

let postgres: Awaited<ReturnType<typeof startPostgres>>;
let system: System;
let client: Client;
let stuck: Client;

beforeAll(async () => {
  const folder = await temporaryFolder('standby');
  postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'] });
  client = new Client({ connectionString: postgres.url('shop') });
  stuck = new Client({ connectionString: postgres.url('shop') });
  for (const one of [client, stuck]) {
    one.on('error', () => {});
    await one.connect();
  }
  await client.query(`CREATE TABLE t (id int PRIMARY KEY, v text, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
    INSERT INTO t SELECT i, 'old', repeat('x', 4000) FROM generate_series(1, 100) i`);
  await mkdir(join(folder, 'data'));
  const config = join(folder, 'tributary.yaml');
  await writeFile(
    config,
    `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"\n---\nkind: Sink\nname: ods\ntype: ods\npostgres: "${postgres.url('ods')}"\n`,
  );
  system = new System(config, join(folder, 'data'));
  await system.start();
});
afterAll(async () => {
  await system?.stop();
  await client?.end();
  await stuck?.end();
  await postgres?.stop();
});

it('a snapshot does not bring back a row that the stream has passed but no snapshot sees', async () => {
  expect((await system.run(['status', '--wait', 'caught-up'])).code).toBe(0);
  await client.query(`SET synchronous_commit = local`);
  await client.query(`ALTER SYSTEM SET synchronous_standby_names = 'nobody'`);
  await client.query('SELECT pg_reload_conf()');
  await until(
    'the setting',
    async () => (await client.query(`SHOW synchronous_standby_names`)).rows[0].synchronous_standby_names === 'nobody',
  );
  // Waits for a standby that never comes: committed in the WAL, invisible to everyone.
  const update = stuck.query(`UPDATE t SET v = 'new' WHERE id = 7`);
  const ods = new Client({ connectionString: postgres.url('ods') });
  await ods.connect();
  try {
    const inOds = async () =>
      (await ods.query(`SELECT v, length(big) AS n FROM shop.t WHERE id = 7`)).rows[0] as { v: string; n: number };
    await until('the update to be streamed', async () => (await inOds()).v === 'new');
    expect((await client.query(`SELECT v FROM t WHERE id = 7`)).rows[0].v).toBe('old');

    const snapshot = await system.run(['snapshot', 'shop', '--table', 't'], { timeoutMs: 60_000 });
    expect(snapshot.code, snapshot.stderr).toBe(0);
    expect(lastJson<{ rows: number }>(snapshot).rows).toBeGreaterThanOrEqual(100);
    expect((await system.run(['status', '--wait', 'caught-up'])).code).toBe(0);
    expect(await inOds()).toEqual({ v: 'new', n: 4000 });
    expect((await client.query(`SELECT v FROM t WHERE id = 7`)).rows[0].v).toBe('old');
  } finally {
    await client.query(`ALTER SYSTEM RESET synchronous_standby_names`);
    await client.query('SELECT pg_reload_conf()');
    await update;
    await ods.end();
  }
  const verified = await system.run(['verify']);
  expect(lastJson<{ equal: boolean }>(verified)).toMatchObject({ equal: true });
});
