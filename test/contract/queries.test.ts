import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { memoryBroker } from '@tributary/changelog';
import type { Bus } from '@tributary/core';
import { Sandbox } from '@tributary/duckdb';
import { LakeStore, serveQueries } from '@tributary/sink';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { until } from '../fixtures/wait.ts';

/** Stands in a row, in a table that is not to be read, and in a file beside the state. */
const SECRET = 'do-not-tell-4711';
const GIB = 2 ** 30;
/** Takes hours. */
const LONG = 'SELECT count(*) FROM range(3000000) a(x), range(3000000) b(y) WHERE (x * y) % 7 = 3';

const NOT_SELECT = /Only SELECT|one SELECT/i;
const NO_TABLE = /there is no table/;
const NO_FUNCTION = /function \w+ is not allowed/;
const NO_MEMORY = /needs more memory/;
const TOO_LARGE = /more than \d+ (rows|MiB)|needs more memory/;

/** What is tried, and what is said of it. `FILE` stands for the file with the secret, `FOLDER` for its folder. */
const ATTEMPTS: readonly (readonly [sql: string, told: RegExp])[] = [
  // Files.
  [`SELECT * FROM 'FILE'`, NO_TABLE],
  [`SELECT * FROM "FILE"`, NO_TABLE],
  [`SELECT * FROM read_csv('FILE')`, NO_FUNCTION],
  [`SELECT * FROM read_text('FILE')`, NO_FUNCTION],
  [`SELECT * FROM read_blob('FILE')`, NO_FUNCTION],
  [`SELECT * FROM read_json('FILE')`, NO_FUNCTION],
  [`SELECT * FROM read_parquet('FOLDER/*.parquet')`, NO_FUNCTION],
  [`SELECT * FROM parquet_metadata('FOLDER/x.parquet')`, NO_FUNCTION],
  [`SELECT * FROM sniff_csv('FILE')`, NO_FUNCTION],
  [`SELECT * FROM glob('FOLDER/*')`, NO_FUNCTION],
  [`SELECT (SELECT content FROM read_text('FILE'))`, NO_FUNCTION],
  [`SELECT id FROM shop.orders WHERE note IN (SELECT content FROM read_text('FILE'))`, NO_FUNCTION],
  [`WITH x AS (SELECT * FROM read_csv('FILE')) SELECT * FROM x`, NO_FUNCTION],
  [`SELECT * FROM shop.orders o, LATERAL (SELECT * FROM read_text('FILE')) t`, NO_FUNCTION],
  [`WITH "FILE" AS (SELECT 1) SELECT * FROM "FILE"`, /a name in WITH/],
  [`SELECT * FROM (WITH "x.csv" AS (SELECT 1) FROM "x.csv"), 'x.csv'`, /a name in WITH/],
  [`COPY shop.orders TO 'FOLDER/out.csv'`, NOT_SELECT],
  [`COPY (SELECT * FROM shop.orders) TO 'FOLDER/out.parquet' (FORMAT parquet)`, NOT_SELECT],
  [`COPY shop.orders FROM 'FILE'`, NOT_SELECT],
  [`EXPORT DATABASE 'FOLDER/all'`, NOT_SELECT],
  [`IMPORT DATABASE 'FOLDER/all'`, NOT_SELECT],
  // The network, and what could be loaded from it.
  [`SELECT * FROM 'https://example.org/x.csv'`, NO_TABLE],
  [`SELECT * FROM read_csv('https://example.org/x.csv')`, NO_FUNCTION],
  [`SELECT * FROM read_parquet('s3://bucket/x.parquet')`, NO_FUNCTION],
  [`INSTALL httpfs`, NOT_SELECT],
  [`LOAD httpfs`, NOT_SELECT],
  [`LOAD 'FOLDER/evil.duckdb_extension'`, NOT_SELECT],
  [`INSTALL evil FROM community`, NOT_SELECT],
  [`CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')`, NOT_SELECT],
  [`SELECT * FROM postgres_scan('host=localhost', 'public', 'orders')`, NO_FUNCTION],
  [`SELECT * FROM duckdb_secrets()`, NO_FUNCTION],
  // Settings, and what they tell.
  [`SET memory_limit = '64GB'`, NOT_SELECT],
  [`SET enable_external_access = true`, NOT_SELECT],
  [`RESET lock_configuration`, NOT_SELECT],
  [`PRAGMA database_list`, NOT_SELECT],
  [`PRAGMA enable_profiling`, NOT_SELECT],
  [`CALL pragma_database_size()`, NOT_SELECT],
  [`SELECT * FROM duckdb_settings()`, NO_FUNCTION],
  [`SELECT current_setting('temp_directory')`, NO_FUNCTION],
  [`SELECT getenv('PATH')`, NO_FUNCTION],
  [`SELECT set_config('memory_limit', '64GB', false)`, NO_FUNCTION],
  [`SELECT current_database()`, NO_FUNCTION],
  [`SET VARIABLE x = 1`, NOT_SELECT],
  [`SELECT * FROM pragma_database_size()`, NO_FUNCTION],
  // Other tables, schemas and catalogs.
  ['SELECT * FROM _current."shop.secrets"', NO_TABLE],
  ['SELECT * FROM _meta.position', NO_TABLE],
  ['WITH "_meta.position" AS (SELECT 1) SELECT * FROM _meta.position', /a name in WITH|there is no table/],
  ['SELECT * FROM hidden.secrets', NO_TABLE],
  ['SELECT * FROM information_schema.tables', NO_TABLE],
  ['SELECT * FROM pg_catalog.pg_class', NO_TABLE],
  ['SELECT * FROM sqlite_master', NO_TABLE],
  ['SELECT * FROM duckdb_tables', NO_TABLE],
  ['WITH a AS (SELECT * FROM duckdb_databases), duckdb_databases AS (SELECT 1) SELECT * FROM a', /a name in WITH/],
  ['SELECT * FROM other.shop.orders', NO_TABLE],
  ['SELECT * FROM duckdb_databases()', NO_FUNCTION],
  ['SELECT * FROM duckdb_columns()', NO_FUNCTION],
  ['SELECT * FROM duckdb_views()', NO_FUNCTION],
  [`SELECT * FROM query('SELECT * FROM hidden.secrets')`, NO_FUNCTION],
  [`SELECT * FROM query_table('hidden.secrets')`, NO_FUNCTION],
  [`SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))`, NO_FUNCTION],
  ['SELECT * FROM (SHOW ALL TABLES)', /not allowed, only SELECT/],
  ['SELECT * FROM (DESCRIBE shop.orders)', /not allowed, only SELECT/],
  ['SUMMARIZE shop.orders', /not allowed, only SELECT/],
  ['SELECT * FROM duckdb_logs', NO_TABLE],
  // Changes, and several statements.
  ['SELECT 1; SELECT 2', NOT_SELECT],
  ['SELECT 1; DROP TABLE shop.orders', NOT_SELECT],
  [`SELECT 1 /* */; ATTACH 'FOLDER/x.duckdb'`, NOT_SELECT],
  [`ATTACH 'FOLDER/x.duckdb' AS x`, NOT_SELECT],
  ['DETACH shop', NOT_SELECT],
  ['USE memory', NOT_SELECT],
  ['INSERT INTO shop.orders SELECT * FROM shop.orders', NOT_SELECT],
  ['WITH x AS (SELECT 1) DELETE FROM shop.orders', NOT_SELECT],
  ['CREATE TABLE t AS SELECT * FROM shop.orders', NOT_SELECT],
  ['CREATE MACRO m() AS 1', NOT_SELECT],
  [`CREATE MACRO t() AS TABLE SELECT * FROM read_text('FILE')`, NOT_SELECT],
  ['PREPARE p AS SELECT 1', NOT_SELECT],
  ['EXECUTE p', NOT_SELECT],
  ['EXPLAIN ANALYZE SELECT * FROM shop.orders', NOT_SELECT],
  ['CHECKPOINT', NOT_SELECT],
  ['BEGIN', NOT_SELECT],
  ['VACUUM', NOT_SELECT],
  ['', /SELECT/],
  ['not sql at all', /syntax error/],
  // Values and paths in errors.
  ['SELECT note::INTEGER FROM shop.orders', /a value cannot be converted to INT/],
  ['SELECT (note || 1)::DATE FROM shop.orders', /a value cannot be converted/],
  ['SELECT error(note) FROM shop.orders', /a function was given a value|cannot be computed/],
  ['SELECT strptime(note, note) FROM shop.orders', /a function was given a value|cannot be computed/],
  ['SELECT (9223372036854775807 + id)::BIGINT FROM shop.orders', /out of range|cannot be converted/],
  ['SELECT nothing FROM shop.orders', /Referenced column "nothing" not found/],
  // Memory.
  [`SELECT length(repeat('x', 2000000000))`, NO_MEMORY],
  [`SELECT sum(length(repeat('x', 1500000000 + x::INT))) FROM range(3) t(x)`, NO_MEMORY],
  ['SELECT length(range(200000000))', NO_MEMORY],
  ['SELECT list(x) FROM range(400000000) t(x)', NO_MEMORY],
  [`SELECT string_agg(md5(x::VARCHAR), '') FROM range(90000000) t(x)`, NO_MEMORY],
  // Results.
  ['SELECT x FROM range(100000000) t(x)', TOO_LARGE],
  [`SELECT repeat('x', 100000) FROM range(100000) t(x)`, TOO_LARGE],
  [`SELECT repeat('x', 700000000)`, TOO_LARGE],
];

/** Ends at its time only. */
const ENDLESS = [
  LONG,
  // Deaf while it makes one value.
  `SELECT lpad('x', 1900000000, 'y')`,
  'WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n > 0) SELECT count(*) FROM r',
  'WITH RECURSIVE r(n) AS (SELECT 1 UNION SELECT (n * 7 + 1) % 100000000007 FROM r) SELECT max(n) FROM r',
  `SELECT count(*) FROM range(100000000) a(x), range(1000000) b(y) WHERE regexp_matches((x * y)::VARCHAR, '(1+)+9')`,
];

describe('queries of people', () => {
  const closing: (() => unknown)[] = [];
  let folder: string;
  let store: LakeStore;
  const served = async (name: string, limits: ConstructorParameters<typeof Sandbox>[1], at = folder): Promise<Bus> => {
    const { bus, changelogs } = memoryBroker();
    const sandbox = new Sandbox(join(at, `${name}.queries`), limits);
    await sandbox.open();
    const cut = new AbortController();
    const stop = await serveQueries({ bus, changelogs, store, sandbox, sink: 'lake', sources: [], cut: cut.signal });
    closing.push(async () => {
      cut.abort(new Error('stopped'));
      await stop();
      sandbox.close();
    });
    return bus;
  };
  const ask = async (bus: Bus, sql: string): Promise<readonly Readonly<Record<string, unknown>>[]> => {
    const rows: Readonly<Record<string, unknown>>[] = [];
    for await (const part of bus.ask('tributary.query', { sql })) rows.push(...(part as { rows: typeof rows }).rows);
    return rows;
  };
  const inFolder = (sql: string) => sql.replaceAll('FILE', join(folder, 'secret.csv')).replaceAll('FOLDER', folder);

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-contract-queries-'));
    closing.push(() => rm(folder, { recursive: true, force: true }));
    await writeFile(join(folder, 'secret.csv'), `a\n${SECRET}\n`);
    store = await LakeStore.open(folder, 'lake', () => {});
    closing.push(() => store.close());
    const duck = await store.connect();
    for (const statement of [
      'CREATE SCHEMA shop',
      'CREATE SCHEMA hidden',
      `CREATE TABLE _current."shop.orders" AS SELECT x::VARCHAR AS id, (x % 5)::VARCHAR AS amount, '${SECRET}' AS note FROM range(20000) t(x)`,
      'CREATE VIEW shop.orders AS SELECT id::BIGINT AS id, amount::DECIMAL(12, 2) AS amount, note FROM _current."shop.orders"',
      `CREATE TABLE hidden.secrets AS SELECT '${SECRET}' AS secret`,
      `CREATE TABLE _current."shop.secrets" AS SELECT '${SECRET}' AS secret`,
      `INSERT INTO _meta.tables (source, name, view_schema, view_name) VALUES ('shop', 'public.orders', 'shop', 'orders')`,
    ])
      await duck.run(statement);
    duck.close();
  });
  afterAll(async () => {
    for (const close of closing.toReversed()) await close();
  });

  it('answers what may be asked: whole rows, joins, names of columns of every kind, no table at all', async () => {
    const bus = await served('plain', { ms: 120_000, rows: 1_000_000, bytes: GIB });
    const told = (sql: string) => ask(bus, sql);
    expect(await told('SELECT count(*) AS n, sum(Amount) AS total FROM shop.Orders')).toEqual([{ n: 20_000, total: '40000.00' }]);
    expect(await told('SELECT * FROM shop.orders WHERE id = 7;')).toEqual([{ id: 7, amount: '2.00', note: SECRET }]);
    expect(await told('SELECT count(*) AS n FROM shop.orders a JOIN shop.orders b USING (id)')).toEqual([{ n: 20_000 }]);
    expect(await told('SELECT count(*) AS n FROM shop.orders a NATURAL JOIN shop.orders b')).toEqual([{ n: 20_000 }]);
    expect(await told('SELECT o FROM shop.orders o ORDER BY o.id LIMIT 1')).toEqual([
      { o: { id: '0', amount: '0.00', note: SECRET } },
    ]);
    expect(await told('SELECT c FROM shop.orders AS o(a, b, c) LIMIT 1')).toEqual([{ c: SECRET }]);
    expect(await told('WITH big AS (FROM shop.orders WHERE id > 19997) SELECT id FROM big ORDER BY id')).toEqual([
      { id: 19_998 },
      { id: 19_999 },
    ]);
    expect(await told(`SELECT DATE '2026-03-29' AS day, TIMESTAMPTZ '2026-03-29 01:30:00+00' AS at`)).toEqual([
      { day: '2026-03-29', at: '2026-03-29 01:30:00+00' },
    ]);
    expect(await told('SELECT x FROM range(5000) t(x)')).toHaveLength(5_000);
    expect(await told('SELECT id FROM shop.orders WHERE false')).toEqual([]);
  });

  it('answers where its folder is named relative to the working directory, as `npm start` names it', async () => {
    await mkdir('.tributary', { recursive: true });
    const near = await mkdtemp(join('.tributary', 'queries-'));
    closing.push(() => rm(near, { recursive: true, force: true }));
    const bus = await served('relative', { ms: 120_000, rows: 1_000, bytes: 2 ** 20 }, near);
    expect(await ask(bus, 'SELECT count(*) AS n FROM shop.orders')).toEqual([{ n: 20_000 }]);
  });

  it('shows a caller the tables that are his', async () => {
    const bus = await served('limited', { ms: 120_000, rows: 1_000, bytes: 2 ** 20 });
    const told = async (tables: readonly string[]) => {
      const question = { sql: 'SELECT count(*) AS n FROM shop.orders', tables };
      const rows: unknown[] = [];
      for await (const part of bus.ask('tributary.query', question)) rows.push(...(part as { rows: unknown[] }).rows);
      return rows;
    };
    expect(await told(['shop.orders'])).toEqual([{ n: 20_000 }]);
    expect(await told(['pay.*', 'Shop.*'])).toEqual([{ n: 20_000 }]);
    for (const tables of [[], ['shop.order'], ['sho.*'], ['hidden.*']])
      await expect(told(tables)).rejects.toThrow('there is no table shop.orders');
  });

  it(`refuses ${ATTEMPTS.length + ENDLESS.length} attempts in clear words, while another query goes on`, async () => {
    const bus = await served('attacked', { ms: 120_000, rows: 100_000, bytes: 64 * 2 ** 20 });
    const hurried = await served('hurried', { ms: 1_000, rows: 1_000, bytes: 2 ** 20 });
    let over = false;
    let answered = 0;
    const others: unknown[] = [];
    const goesOn = (async () => {
      for (; !over; answered++) {
        const answer = ask(bus, 'SELECT count(*) AS n FROM shop.orders WHERE amount = 3').catch(String);
        others.push(...(isDeepStrictEqual(await answer, [{ n: 4_000 }]) ? [] : [await answer]));
      }
    })();
    const refusals: { sql: string; told: RegExp; said: string }[] = [];
    const attempt = async (on: Bus, sql: string, told: RegExp) => {
      const said = await ask(on, inFolder(sql)).then(
        (rows) => `answered with ${rows.length} rows`,
        (error: unknown) => `${(error as { kind?: string }).kind}: ${(error as Error).message}`,
      );
      refusals.push({ sql, told, said });
    };
    const waiting = [...ATTEMPTS];
    const attacker = async () => {
      for (let next = waiting.shift(); next; next = waiting.shift()) await attempt(bus, ...next);
    };
    await Promise.all([attacker(), attacker(), ...ENDLESS.map((sql) => attempt(hurried, sql, /takes longer/))]);
    const before = answered;
    await until('the query that goes on to be answered once more', async () => answered > before);
    over = true;
    await goesOn;
    expect(others).toEqual([]);

    expect(refusals.filter(({ told, said }) => !said.startsWith('query_refused: ') || !told.test(said))).toEqual([]);
    expect(refusals.filter(({ said }) => said.includes(SECRET) || said.includes(folder) || said.includes('/'))).toEqual([]);
    // Nothing was written, and nothing stays behind.
    expect((await readdir(folder)).toSorted()).toEqual(
      expect.arrayContaining(['attacked.queries', 'hurried.queries', 'lake.duckdb', 'secret.csv']),
    );
    expect((await readdir(folder)).filter((name) => /out|all|^x/.test(name))).toEqual([]);
    for (const name of ['attacked', 'hurried']) expect(await readdir(join(folder, `${name}.queries`))).toEqual([]);
    const duck = await store.connect();
    expect(await duck.rows('SELECT count(*)::INT AS n FROM duckdb_databases() WHERE NOT internal')).toEqual([{ n: 1 }]);
    duck.close();
  });
});
