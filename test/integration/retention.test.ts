import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System } from '../fixtures/system.ts';

interface Verified {
  equal: boolean;
  tables: { table: string; projection: string; equal: boolean }[];
}
interface Status {
  changelogs: { firstSeq: number; lastSeq: number }[];
}

describe('retention removed history that a projection needs', () => {
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let client: Client;
  let config: string;
  let folder: string;
  let system: System;

  beforeAll(async () => {
    folder = await temporaryFolder('retention');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods', 'ods_late'] });
    client = new Client({ connectionString: postgres.url('shop') });
    await client.connect();
    await client.query(`CREATE TABLE item (id integer PRIMARY KEY, v text, big text); ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
      CREATE TABLE log (v text); ALTER TABLE log REPLICA IDENTITY FULL;
      INSERT INTO item SELECT i, 'v', repeat(md5(i::text), 80) FROM generate_series(1, 200) i; INSERT INTO log SELECT 'v' || i FROM generate_series(1, 50) i`);
    await mkdir(join(folder, 'data'));
    config = join(folder, 'tributary.yaml');
    system = new System(config, join(folder, 'data'));
  });
  afterAll(async () => {
    await system?.stop();
    await client?.end();
    await postgres?.stop();
  });

  const ods = (name: string) => `---\nkind: Sink\nname: ${name}\ntype: ods\npostgres: "${postgres.url(name)}"\n`;
  const lake = (name: string) => `---\nkind: Sink\nname: ${name}\ntype: lake\n`;

  async function start(...sinks: string[]): Promise<void> {
    const cluster = `kind: Cluster\nchangelog: { maxBytes: 4MiB, confirmAfter: 0s }\nlake: { url: "file:${join(folder, 'lake')}" }\n`;
    await writeFile(config, `${cluster}---\nkind: Source\nname: shop\npostgres: "${postgres.url('shop')}"\n${sinks.join('')}`);
    await system.start();
  }

  async function expectEqual(tables: number): Promise<void> {
    const outcome = await system.run(['verify', '--timeout', '90s']);
    const verified = lastJson<Verified>(outcome);
    expect(
      verified.tables.filter((table) => !table.equal),
      system.stderr.slice(-2_000),
    ).toEqual([]);
    expect(verified.tables.length).toBe(tables);
  }

  async function firstSeq(): Promise<number> {
    return lastJson<Status>(await system.run(['status'])).changelogs[0]?.firstSeq ?? 0;
  }

  it('a projection that is behind, and one that is new, start from a snapshot that the source is asked for', async () => {
    await start(ods('ods'));
    await expectEqual(2);
    expect(await firstSeq()).toBe(1);
    await system.stop();
    // Nobody reads for the ODS while more is written than the changelog may hold; rows move, and go.
    await start(lake('lake'));
    for (let i = 1; (await firstSeq()) < 5; i++) {
      for (const round of [1, 2, 3, 4])
        await client.query(
          `UPDATE item SET big = (SELECT string_agg(md5(${i * round} || ' ' || id || ' ' || n), '') FROM generate_series(1, 80) n)`,
        );
      await client.query(
        `UPDATE item SET id = id + 1000 WHERE id = ${i}; DELETE FROM item WHERE id = ${100 + i}; DELETE FROM log WHERE v = 'v${i}'`,
      );
    }
    await expectEqual(4);
    await system.stop();
    await start(ods('ods'), ods('ods_late'), lake('lake'));
    await client.query(`UPDATE item SET v = 'later' WHERE id % 2 = 0; INSERT INTO log VALUES ('later')`);
    await expectEqual(8);
    await client.query(`UPDATE item SET v = 'last' WHERE id % 3 = 0; DELETE FROM log WHERE v = 'later'`);
    await expectEqual(8);
  }, 240_000);

  it('so does a replay from the start', async () => {
    expect(await firstSeq()).toBeGreaterThan(1);
    for (const sink of ['ods', 'lake']) {
      const replayed = await system.run(['replay', sink]);
      expect(replayed.code, replayed.stderr).toBe(0);
    }
    await expectEqual(8);
  }, 240_000);
});
