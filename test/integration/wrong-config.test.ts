import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, tributary } from '../fixtures/system.ts';

interface Checked {
  ok: boolean;
  findings: { level: string; about: string; problem: string; mend: string }[];
}

let folder: string;
let postgres: PostgresServer;
let small: PostgresServer;
const source = (url: string, more = '') => `kind: Source\nname: shop\npostgres: "${url}"\n${more}`;

async function check(yaml: string): Promise<{ code: number | null; stderr: string; result: () => Checked }> {
  const file = join(folder, 'config.yaml');
  await writeFile(file, yaml);
  const outcome = await tributary(['check', '-f', file, '--json']);
  return { code: outcome.code, stderr: outcome.stderr.replaceAll(`${folder}/`, ''), result: () => lastJson<Checked>(outcome) };
}

async function sql(server: PostgresServer, database: string, text: string): Promise<void> {
  const client = new Client({ connectionString: server.url(database) });
  await client.connect();
  try {
    await client.query(text);
  } finally {
    await client.end();
  }
}

beforeAll(async () => {
  folder = await temporaryFolder('wrong');
  postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'] });
  small = await startPostgres({
    dir: join(folder, 'small'),
    databases: ['shop'],
    settings: { wal_level: 'replica', max_replication_slots: '1' },
  });
});
afterAll(async () => {
  await postgres?.stop();
  await small?.stop();
});

describe('tributary check', () => {
  it('says where YAML is broken', async () => {
    const { code, stderr } = await check('kind: Source\nname: [shop\n');
    expect(code).toBe(1);
    expect(stderr).toMatch(/^config\.yaml:\d+:\d+: /);
  });

  it('names an unknown key with its line and column', async () => {
    const { code, stderr } = await check(source(postgres.url('shop'), 'tabels: ["public.*"]\n'));
    expect(code).toBe(1);
    expect(stderr).toContain('config.yaml:4:1: unknown key "tabels"');
  });

  it('says that a database cannot be reached, and never its password', async () => {
    const { code, result } = await check(source('postgres://me:hunter2@127.0.0.1:1/shop'));
    expect(code).toBe(1);
    const [finding] = result().findings;
    expect(finding?.problem).toContain('cannot connect to me@127.0.0.1:1/shop');
    expect(finding?.mend).toContain('Check host, port');
    expect(JSON.stringify(result())).not.toContain('hunter2');
  });

  it('says that wal_level is not logical, and the SQL that mends it', async () => {
    const { code, result } = await check(source(small.url('shop')));
    expect(code).toBe(1);
    expect(result().findings).toContainEqual(
      expect.objectContaining({
        level: 'error',
        problem: 'wal_level is "replica"',
        mend: expect.stringContaining('ALTER SYSTEM SET wal_level = logical'),
      }),
    );
  });

  it('says which privileges are missing, and the SQL that gives them', async () => {
    await sql(postgres, 'shop', 'CREATE TABLE owned (id int PRIMARY KEY); CREATE ROLE weak LOGIN');
    const { code, result } = await check(source(postgres.url('shop').replace('postgres@', 'weak@')));
    expect(code).toBe(1);
    const mends = result().findings.map((finding) => finding.mend);
    expect(mends).toContain('ALTER ROLE "weak" REPLICATION;');
    expect(mends).toContain('GRANT CREATE ON DATABASE "shop" TO "weak";');
    expect(mends).toContain('GRANT SELECT ON "public"."owned" TO "weak";');
  });

  it('warns of tables without replica identity, and still is ready', async () => {
    await sql(postgres, 'shop', 'CREATE TABLE keyless (x int)');
    const { code, result } = await check(source(postgres.url('shop')));
    expect(code).toBe(0);
    expect(result().ok).toBe(true);
    expect(result().findings).toContainEqual(
      expect.objectContaining({
        level: 'warning',
        about: 'source shop, public.keyless',
        mend: expect.stringContaining('REPLICA IDENTITY FULL'),
      }),
    );
  });

  it('says that all replication slots are in use', async () => {
    await sql(small, 'shop', `SELECT pg_create_physical_replication_slot('other')`);
    const { code, result } = await check(source(small.url('shop')));
    expect(code).toBe(1);
    expect(result().findings).toContainEqual(
      expect.objectContaining({ level: 'error', problem: 'all 1 replication slots are in use' }),
    );
  });

  it('finds a table that stands in the way of the ODS', async () => {
    await sql(postgres, 'ods', 'CREATE SCHEMA shop; CREATE TABLE shop.owned (something text)');
    const { code, result } = await check(
      `${source(postgres.url('shop'))}---\nkind: Sink\nname: ods\ntype: ods\npostgres: "${postgres.url('ods')}"\n`,
    );
    expect(code).toBe(1);
    expect(result().findings).toContainEqual(
      expect.objectContaining({
        about: 'sink ods, table "shop"."owned"',
        mend: expect.stringContaining('ALTER TABLE "shop"."owned" RENAME TO'),
      }),
    );
  });

  it('refuses what is not built yet by name, and a missing file', async () => {
    const source = 'kind: Source\nname: s\npostgres: postgres://a@b/c\nrows: {}\n';
    expect((await check(source)).stderr).toMatch(/config\.yaml:4:\d+: .*rows.* is not built yet/);
    const missing = await tributary(['check', '-f', '/nowhere/x.yaml']);
    expect(missing.code).toBe(1);
    expect(missing.stderr).toContain('/nowhere/x.yaml: there is no such file or folder');
  });
});
