import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memoryBroker } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { askOne, type Bus, Op, systemClock } from '@tributary/core';
import { Database, type Duck } from '@tributary/duckdb';
import { startKpis, type ValueRow } from '@tributary/kpi';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { text, Written } from '../fixtures/history.ts';
import { until } from '../fixtures/wait.ts';

const ORDERS = {
  schema: 'public',
  table: 'orders',
  identity: 'default' as const,
  columns: [text('id', 1), text('country'), text('amount'), text('at')],
};
const config = (lake: string, more = '') => `kind: Cluster
lake: { url: "file:${lake}" }
---
kind: Source
name: shop
postgres: "postgres://u:p@nowhere/s"
---
kind: Kpi
name: sales
from: { o: shop.public.orders }
time: { column: "o.at::TIMESTAMPTZ", zone: Europe/Berlin, grains: [hour, day] }
dimensions: { country: o.country }
measures: { gmv: { sql: "sum(o.amount::BIGINT)" }, buyers: { sql: "count(DISTINCT o.id)" } }
publish: { nats: false, by: [country], measures: [gmv], files: { every: 100ms } }
---
kind: Kpi
name: byhand
sql: SELECT country, count(*) AS n FROM shop.orders GROUP BY 1
every: 0ms
publish: { nats: false, files: { every: 100ms } }
${more}`;

describe('files of KPIs', () => {
  const closing: (() => unknown)[] = [];
  let root: string;
  let lake: string;
  let written: Written;
  let bus: Bus;
  let duck: Duck;
  let start: (text: string) => Promise<{ stop: () => Promise<void> }>;
  let running: { stop: () => Promise<void> };
  const told: Record<string, unknown>[] = [];
  let lsn = 0n;
  const insert = (...rows: (string | null)[][]) => {
    lsn += 16n;
    return written.stream([{ lsn, changes: rows.map((cells) => ({ schema: ORDERS, op: Op.created, cells })) }]);
  };
  const values = (kpi: string) =>
    askOne<{ rows: readonly ValueRow[]; freshness: { position: string; definitionVersion: string } }>(
      bus,
      `tributary.kpi.${kpi}.values`,
      { reader: 'local', grain: kpi === 'sales' ? 'day' : undefined },
    );
  const path = (kpi: string, grain: string) => join(lake, 'kpis', kpi, `${grain}.parquet`);
  /** Rows of a file; null where it is not there yet. */
  const rowsIn = async (kpi: string, grain: string): Promise<Record<string, unknown>[] | null> => {
    const there = await readFile(path(kpi, grain)).catch(() => null);
    if (there === null) return null;
    const copy = join(root, 'read.parquet');
    await writeFile(copy, there);
    return (await duck.query(`FROM '${copy}'`)).rows as Record<string, unknown>[];
  };
  /** Of the file, once it is at the position given. */
  const at = (kpi: string, grain: string, position: string) =>
    until(`${grain} of ${kpi} at ${position}`, async () => {
      const rows = await rowsIn(kpi, grain);
      return rows?.every((row) => row['_position'] === position) ? rows : null;
    });

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'tributary-contract-files-'));
    closing.push(() => rm(root, { recursive: true, force: true }));
    lake = join(root, 'shared');
    const database = await Database.open({ path: ':memory:', memoryBytes: 2 ** 28, threads: 1, spillDir: root });
    closing.push(() => database.close());
    duck = await database.connect();
    closing.push(() => duck.close());
    const { configOf } = await configReading();
    const broker = memoryBroker();
    bus = broker.bus;
    await bus.serve('tributary.source.shop.barrier', async function* () {
      yield { seq: 0 };
    });
    written = new Written(await broker.changelogs.write('shop', { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), 'shop');
    await insert(['1', 'DE', '9007199254740993', '2026-03-01 23:30:00+00'], ['2', 'FR', '5', '2026-03-02 10:00:00+00']);
    const log = { debug: () => {}, info: () => {}, error: () => {}, warn: (facts: object) => told.push(facts as never) };
    let workers = 0;
    start = async (document) => {
      const dataDir = join(root, `worker${++workers}`);
      const runtime = { ...broker, clock: systemClock, log, dataDir, worker: `w${workers}`, labels: null, capacity: 1 };
      return startKpis(configOf([{ name: 'config', text: document }], { env: {} }), runtime);
    };
    running = await start(config(lake));
    closing.push(() => running.stop());
  });
  afterAll(async () => {
    for (const close of closing.toReversed()) await close();
  });

  it('hold what the KPI says, a file for each grain, in the types of its columns, with how far they are', async () => {
    for (const grain of ['hour', 'day']) await until(`the ${grain}`, () => rowsIn('sales', grain));
    const { freshness } = await values('sales');
    const { position, definitionVersion } = freshness;
    expect(await rowsIn('sales', 'day')).toEqual([
      // A day begins at midnight in Berlin; a sum beyond 2^53 is exact.
      expect.objectContaining({ country: 'DE', gmv: '9007199254740993', revision: 0, _position: position }),
      expect.objectContaining({ country: 'FR', gmv: '5', _definition: definitionVersion }),
    ]);
    expect(
      (
        await duck.rows<{ t: string }>(
          `SELECT max(bucket) = TIMESTAMPTZ '2026-03-01 23:00:00+00' AS t FROM '${path('sales', 'day')}'`,
        )
      )[0],
    ).toEqual({ t: true });
    const types = await duck.rows<{ column_name: string; column_type: string }>(`DESCRIBE FROM '${path('sales', 'hour')}'`);
    expect(types.map(({ column_name: name, column_type: type }) => `${name} ${type}`)).toEqual([
      'bucket TIMESTAMP WITH TIME ZONE',
      'country VARCHAR',
      'gmv DECIMAL(38,0)',
      'revision BIGINT',
      'closed BOOLEAN',
      '_definition VARCHAR',
      '_complete_to TIMESTAMP WITH TIME ZONE',
      '_position VARCHAR',
    ]);
    const [about] = await duck.rows<{ value: string }>(
      `SELECT decode(value) AS value FROM parquet_kv_metadata('${path('sales', 'day')}') WHERE decode(key) = 'tributary'`,
    );
    expect(JSON.parse(about?.value ?? '{}')).toMatchObject({ kpi: 'sales', position, definitionVersion });
    expect(await until('the SELECT', () => rowsIn('byhand', 'values'))).toMatchObject([{ n: 1 }, { n: 1 }]);
  });

  it('follow what changes, and tell where they are', async () => {
    await insert(['3', 'FR', '7', '2026-03-02 11:00:00+00']);
    const rows = await until('the sale', async () => {
      const found = await rowsIn('sales', 'day');
      return found?.some((row) => row['gmv'] === '12') ? found : null;
    });
    const { freshness } = await values('sales');
    expect(rows.map((row) => row['_position'])).toEqual([freshness.position, freshness.position]);
    await at('byhand', 'values', freshness.position);
    expect(await readdir(join(lake, 'kpis', 'sales'))).toEqual(['day.parquet', 'hour.parquet']);
    // Told right behind the renaming.
    const shown = await until('all to be told', async () => {
      const { files } = await askOne<{ files: { position: string }[] }>(bus, 'tributary.kpi.sales.show', { reader: 'local' });
      return files.every((file) => file.position === freshness.position) ? files : null;
    });
    const rest = { writtenAt: expect.any(String), position: freshness.position, reason: null };
    expect(shown).toEqual(['hour', 'day'].map((grain) => ({ path: path('sales', grain), ...rest })));
  });

  it('are written by the worker that runs the KPI next, to the same place; those of a KPI that is gone stay as they were', async () => {
    await running.stop();
    const before = await rowsIn('byhand', 'values');
    await insert(['4', 'FR', '1', '2026-03-02 11:00:00+00']);
    const gone = config(lake).replace(/---\nkind: Kpi\nname: byhand[^]*$/, '');
    running = await start(gone);
    await until('the next worker', async () => (await rowsIn('sales', 'day'))?.some((row) => row['gmv'] === '13'));
    expect(await rowsIn('byhand', 'values')).toEqual(before);
  });

  it('that cannot be written hold up nothing: it is told what is wrong, and they come when it is mended', async () => {
    await running.stop();
    const other = join(root, 'other');
    await writeFile(other, 'no folder');
    told.length = 0;
    running = await start(config(other));
    await until('the warning', async () =>
      told.some(({ reason }) => String(reason).includes(`See that ${join(other, 'kpis', 'sales')} is there`)),
    );
    await until('values', async () => (await values('sales').catch(() => null))?.rows.length);
    await rm(other);
    lake = other;
    await until('the files', async () => (await rowsIn('sales', 'day'))?.length);
    // One for each file at most, however often it was tried.
    expect(told.filter(({ path: of }) => of !== undefined).length).toBeLessThanOrEqual(3);
  });
});
