import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { memoryBroker } from '@tributary/changelog';
import type { Bus } from '@tributary/core';
import { Sandbox } from '@tributary/duckdb';
import { LakeStore, serveQueries } from '@tributary/sink';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ENDLESS, FORBIDDEN, HARMFUL, SECRET } from '../fixtures/sql-attempts.ts';
import { until } from '../fixtures/wait.ts';

const GIB = 2 ** 30;
const ATTEMPTS = [...FORBIDDEN, ...HARMFUL];

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
