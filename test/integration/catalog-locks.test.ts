import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { readTables, Session } from '@tributary/postgres';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../fixtures/wait.ts';

describe('reading the catalog beside a team that locks its tables', () => {
  let folder: string;
  let postgres: PostgresServer;
  let team: Client;
  beforeAll(async () => {
    folder = await temporaryFolder('locks');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop'] });
    team = new Client({ connectionString: postgres.url('shop') });
    await team.connect();
    await team.query(`CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id)`);
    await team.query(`CREATE TABLE part PARTITION OF parted FOR VALUES FROM (1) TO (9)`);
    await team.query(`CREATE TABLE plain (id int PRIMARY KEY)`);
  });
  afterAll(async () => {
    await team?.end();
    await postgres?.stop();
    await rm(folder, { recursive: true });
  });

  it('gives way instead of running into a deadlock, and reads when the tables are free', async () => {
    const session = await Session.open(
      { host: '127.0.0.1', port: postgres.port, user: 'postgres', database: 'shop' },
      { name: 'catalog' },
    );
    try {
      await team.query('BEGIN');
      await team.query('LOCK TABLE plain IN ACCESS EXCLUSIVE MODE');
      const reading = readTables(session, () => true, 180_000);
      reading.catch(() => {});
      // The catalog's statement now holds the partition and waits for the plain table.
      await until('the reader to wait', async () => {
        const { rows } = await team.query(`SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'plain'::regclass`);
        return rows.length > 0;
      });
      await team.query('LOCK TABLE part IN ACCESS EXCLUSIVE MODE');
      await team.query('COMMIT');
      expect((await reading).map((table) => table.table)).toEqual(['parted', 'plain']);
    } finally {
      await session.close();
    }
  });
});
