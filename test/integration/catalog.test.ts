import { join } from 'node:path';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { CATALOG_FINGERPRINT, readTables, Session } from '@tributary/postgres';
import { PostgresDatabase } from '@tributary/source';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

/** Everything after which the captured tables, their shape or their publications may be others. */
const CHANGES = [
  'CREATE TABLE t (id int, a int NOT NULL, b text)',
  'ALTER TABLE t ADD PRIMARY KEY (id)',
  'ALTER TABLE t ADD COLUMN c numeric(5,2)',
  'ALTER TABLE t ALTER c TYPE numeric(6,2)',
  'ALTER TABLE t RENAME COLUMN c TO d',
  'ALTER TABLE t DROP COLUMN d',
  'ALTER TABLE t ALTER b SET STORAGE EXTERNAL',
  'ALTER TABLE t REPLICA IDENTITY FULL',
  'CREATE UNIQUE INDEX t_a ON t (a)',
  'ALTER TABLE t REPLICA IDENTITY USING INDEX t_a',
  'DROP INDEX t_a',
  'ALTER TABLE t DROP CONSTRAINT t_pkey',
  'CREATE PUBLICATION p',
  'ALTER PUBLICATION p ADD TABLE t',
  'TRUNCATE t',
  'ALTER TABLE t RENAME TO u',
  'CREATE SCHEMA s',
  'ALTER TABLE u SET SCHEMA s',
  'ALTER SCHEMA s RENAME TO r',
  'ALTER PUBLICATION p DROP TABLE r.u',
  "CREATE TYPE mood AS ENUM ('sad')",
  'ALTER TABLE r.u ADD COLUMN m mood',
  'ALTER TYPE mood RENAME TO feeling',
  'CREATE TABLE parted (id int) PARTITION BY RANGE (id)',
  'CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (10)',
  'TRUNCATE parted_1',
  'ALTER TABLE parted DETACH PARTITION parted_1',
  'ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES FROM (1) TO (10)',
  'DROP TABLE parted_1',
  'DROP TABLE r.u',
];

describe('the fingerprint of a catalog', () => {
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let session: Session;

  beforeAll(async () => {
    postgres = await startPostgres({ dir: join(await temporaryFolder('catalog'), 'postgres'), databases: ['shop'] });
    const connection = { host: '127.0.0.1', port: postgres.port, user: 'postgres', database: 'shop' };
    session = await Session.open(connection, { name: 'catalog', settings: { search_path: 'public' } });
  });
  afterAll(async () => {
    await session?.close();
    await postgres?.stop();
  });

  const fingerprint = async () => (await session.row<{ f: string }>(`SELECT ${CATALOG_FINGERPRINT} AS f`)).f;

  it('is another one after every change of tables, shapes, partitions and publications', async () => {
    const seen = new Set([await fingerprint()]);
    for (const change of CHANGES) {
      await session.run(change);
      const now = await fingerprint();
      expect(seen.has(now), change).toBe(false);
      seen.add(now);
    }
  });

  it('stays the same while rows change and statistics are taken', async () => {
    await session.run('CREATE TABLE quiet (id int PRIMARY KEY, v text)');
    const before = await fingerprint();
    await session.run(`INSERT INTO quiet SELECT i, repeat('x', 100) FROM generate_series(1, 5000) i; UPDATE quiet SET v = 'y'`);
    await session.run('DELETE FROM quiet WHERE id % 2 = 0');
    await session.run('ANALYZE quiet');
    await session.run('VACUUM quiet');
    await session.rows(`SELECT pg_logical_emit_message(true, 'tributary', 'beat')`);
    expect(await fingerprint()).toBe(before);
  });
});

describe('what is asked of a table without key', () => {
  let postgres: Awaited<ReturnType<typeof startPostgres>>;

  beforeAll(async () => {
    postgres = await startPostgres({ dir: join(await temporaryFolder('keyless'), 'postgres'), databases: ['shop'] });
    await withSession((session) =>
      session.run('CREATE TABLE public.log (line text); INSERT INTO public.log SELECT generate_series(1, 10)'),
    );
  });
  afterAll(() => postgres?.stop());

  const connection = () => ({ host: '127.0.0.1', port: postgres.port, user: 'postgres', database: 'shop' });

  async function withSession<T>(use: (session: Session) => Promise<T>): Promise<T> {
    const session = await Session.open(connection(), { name: 'keyless' });
    try {
      return await use(session);
    } finally {
      await session.close();
    }
  }

  const logTable = () => withSession(async (session) => (await readTables(session, (name) => name === 'public.log', 180_000))[0]);

  it('is not truncated from before its snapshot until it has been read', async () => {
    const table = await logTable();
    const reader = await new PostgresDatabase({ name: 'shop', postgres: connection() }).open('whole');
    try {
      await reader.begin(table);
      const truncation = withSession((session) => session.run(`SET lock_timeout = '200ms'; TRUNCATE public.log`));
      await expect(truncation).rejects.toMatchObject({ facts: { sqlState: '55P03' } });
      await reader.end();
      await withSession((session) => session.run('TRUNCATE public.log'));
    } finally {
      await reader.close();
    }
  });

  it('tells that statistics of its updates began anew in a crash', async () => {
    const before = await logTable();
    expect((await logTable())?.churn).toBe(before?.churn);
    await postgres.restart();
    expect((await logTable())?.churn).toBe(before?.churn);
    await postgres.restart({ mode: 'immediate' });
    expect((await logTable())?.churn).not.toBe(before?.churn);
  });
});
