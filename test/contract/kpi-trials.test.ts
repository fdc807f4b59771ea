import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memoryBroker } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { askOne, type Bus, Op, systemClock } from '@tributary/core';
import { startKpis } from '@tributary/kpi';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { text, Written } from '../fixtures/history.ts';
import { ENDLESS, FORBIDDEN, HARMFUL, SECRET } from '../fixtures/sql-attempts.ts';
import { until } from '../fixtures/wait.ts';

const ORDERS = {
  schema: 'public',
  table: 'orders',
  identity: 'default' as const,
  columns: [text('id', 1), text('country'), text('amount'), text('note')],
};
const RUNNING = `kind: Kpi
name: sales
from: { o: shop.public.orders }
dimensions: { country: o.country }
measures: { gmv: { sql: "sum(o.amount::INT)" } }
---
kind: Kpi
name: byhand
every: 0ms
sql: SELECT country, count(*) AS n FROM shop.orders GROUP BY ALL
`;
const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

const tried = (rest: object) => JSON.stringify({ kind: 'Kpi', name: 'mine', ...rest });
const FROM = { o: 'shop.public.orders' };
const COUNT = { n: { sql: 'count(*)' } };
const query = (sql: string) => tried({ sql });
const measure = (sql: string) => tried({ from: FROM, measures: { m: { sql } } });
const where = (sql: string) => tried({ from: FROM, where: sql, measures: COUNT });
const dimension = (sql: string) => tried({ from: FROM, dimensions: { d: sql }, measures: COUNT });
const time = (column: string) => tried({ from: FROM, time: { column, grains: ['day'] }, measures: COUNT });
const derived = (sql: string) => tried({ from: FROM, measures: { ...COUNT, m: { derived: sql } } });
const joined = (on: string, ...more: string[]) =>
  tried({
    from: {
      ...FROM,
      ...Object.fromEntries(['p', ...more].map((alias) => [alias, { table: 'shop.public.orders', on }])),
    },
    measures: {
      m: { sql: `count(*) FILTER (WHERE md5(o.id || ${['p', ...more].map((one) => `${one}.id`).join(' || ')}) = 'x')` },
    },
  });

/** Parts of a definition that reach for what is not theirs, and what is said of them. */
const REACHING: readonly (readonly [definition: string, told: RegExp])[] = [
  [measure(`max((SELECT content FROM read_text('FILE')))`), /"measures.m.sql": holds a subquery/],
  [measure(`max(o.note)) FROM read_csv('FILE') --`), /"measures.m.sql"/],
  [measure(`max(o.note); SELECT 1`), /"measures.m.sql"/],
  [measure(`max(o.note)), (SELECT content FROM read_text('FILE')`), /"measures.m.sql"/],
  [measure(`max(getenv('PATH'))`), /function getenv is not allowed|calls getenv/],
  [measure(`max(current_setting('temp_directory'))`), /current_setting/],
  [measure('count(*) OVER ()'), /window function/],
  [measure('max(o.note || $1)'), /parameter/],
  [measure('sum(random())'), /calls random/],
  [measure(`max(read_text('FILE'))`), /"measures.m.sql"/],
  [measure(`max(_meta.position.lsn)`), /"measures.m.sql"/],
  [measure('o.note'), /not an aggregate/],
  [where(`o.id IN (SELECT lsn FROM _meta.position)`), /subquery/],
  [where(`EXISTS (SELECT * FROM duckdb_settings())`), /subquery/],
  [where(`true) UNION ALL SELECT 1 WHERE (true`), /"where"/],
  [where('o.nothing = 1'), /"where".*nothing/s],
  [dimension(`(SELECT max(lsn) FROM _meta.position)`), /subquery/],
  [dimension(`o.note FROM 'FILE' --`), /"dimensions.d"/],
  [dimension('current_database()'), /current_database/],
  [time(`(SELECT max(content) FROM read_text('FILE'))`), /subquery/],
  [time('o.note'), /expected a timestamp or a date/],
  [derived(`(SELECT content FROM read_text('FILE'))`), /subquery/],
  [derived('o.note'), /"measures.m.derived"/],
  [joined(`o.id = p.id) JOIN read_text('FILE') ON (true`), /"from.p"/],
  [joined('EXISTS (SELECT 1)'), /subquery/],
];
/** What a definition does to rows, and says of them. */
const SPILLING: readonly (readonly [definition: string, told: RegExp])[] = [
  // Computed as soon as it is planned.
  [measure(`sum(length(repeat('x', 2000000000)))`), /needs more memory/],
  [where(`length(repeat('x', 2000000000)) > length(o.id)`), /needs more memory/],
  [measure('max(o.note::INT)'), /a value cannot be converted to INT/],
  [dimension(`strptime(o.note, '%Y')`), /a function was given a value|cannot be computed/],
  [measure('list(range(length(o.id) * 0 + 200000000))'), /needs more memory/],
  [query('SELECT id FROM shop.orders, range(1000)'), /more than \d+ rows/],
];
/** End at their time only. */
const HEAVY = [joined('true', 'q', 'r', 's'), ...ENDLESS.slice(0, 2).map((sql) => query(`SELECT * FROM (${sql}), shop.orders`))];
/** What is forbidden to a query is to a definition, by the same code: a part of it shows that it is asked. */
const AS_QUERIES = FORBIDDEN.filter((_, i) => i % 3 === 0);
/** What a definition in one SELECT is refused for besides what a query is refused for. */
const AS_QUERY =
  /there is no source|without its source|reads no captured table|there is no table|function \w+ is not allowed|SELECT|a name in WITH|syntax error|expected/i;

describe('definitions of KPIs that people try', () => {
  const closing: (() => unknown)[] = [];
  let folder: string;
  let bus: Bus;
  let kpis: Awaited<ReturnType<typeof startKpis>>;
  let insert: (...rows: (string | null)[][]) => Promise<unknown>;
  const asked = async (definition: string, what: 'validate' | 'preview', engine = 'kpi') => {
    const { kpisOf } = await configReading();
    const [config] = kpisOf({ name: 'body', text: inFolder(definition) }, ['shop']);
    return askOne<Record<string, unknown>>(
      bus,
      `tributary.kpi-engine.${engine}.${what}`,
      { config, ask: {}, reader: 'local' },
      { idleMs: 120_000 },
    );
  };
  const inFolder = (definition: string) => definition.replaceAll('FILE', join(folder, 'secret.csv')).replaceAll('FOLDER', folder);

  const gmvOf = async (country: string, kpi = 'sales') => {
    const question = { reader: 'local', filter: { country: [country] } };
    const asking = askOne<{ rows: { values: { gmv: number } }[] }>(bus, `tributary.kpi.${kpi}.values`, question);
    return (await asking.catch(() => null))?.rows[0]?.values.gmv;
  };

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-contract-trials-'));
    closing.push(() => rm(folder, { recursive: true, force: true }));
    await writeFile(join(folder, 'secret.csv'), `a\n${SECRET}\n`);
    const { configOf } = await configReading();
    const source = 'kind: Source\nname: shop\npostgres: "postgres://u:p@nowhere/s"\n---\n';
    const config = configOf([{ name: 'config', text: source + RUNNING }], { env: {} });
    const broker = memoryBroker();
    bus = broker.bus;
    const runtime = { ...broker, clock: systemClock, log: quiet, dataDir: folder, worker: 'w', labels: null, capacity: 1 };
    const written = new Written(await broker.changelogs.write('shop', { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), 'shop');
    let lsn = 0n;
    insert = (...rows) => {
      lsn += 16n;
      return written.stream([{ lsn, changes: rows.map((cells) => ({ schema: ORDERS, op: Op.created, cells })) }]);
    };
    await insert(...Array.from({ length: 400 }, (_, i) => [`${i}`, i % 2 === 0 ? 'DE' : 'FR', '1', `${SECRET} ${i}`]));
    await bus.serve('tributary.source.shop.barrier', async function* () {
      yield { seq: 0 };
    });
    kpis = await startKpis(config, runtime);
    closing.push(() => kpis.stop());
    const other = RUNNING.replaceAll('\nname: ', '\nengine: hurried\nname: hurried_');
    const limits = { ms: 1_500, rows: 1_000, bytes: 2 ** 20 };
    const hurried = await startKpis(
      configOf([{ name: 'config', text: source + other }], { env: {} }),
      { ...runtime, kv: memoryBroker().kv },
      limits,
    );
    closing.push(() => hurried.stop());
    for (const name of ['sales', 'hurried_sales'])
      await until('the KPI to be computed', async () => (await gmvOf('DE', name)) === 200);
  });
  afterAll(async () => {
    for (const close of closing.toReversed()) await close();
  });

  it('are looked at, and compared with what runs', async () => {
    const dearer = `kind: Kpi\nname: sales\nfrom: { o: shop.public.orders }\ndimensions: { country: o.country }\nwhere: "o.id <> '7'"\nmeasures: { gmv: { sql: "sum(o.amount::INT)" } }\n`;
    expect(await asked(dearer, 'validate')).toMatchObject({
      kpi: 'sales',
      bound: true,
      running: true,
      tables: ['shop.public.orders'],
    });
    expect(await asked(dearer, 'preview')).toMatchObject({
      running: true,
      rows: 2,
      differences: [{ bucket: null, dimensions: { country: 'FR' }, before: { gmv: 200 }, after: { gmv: 199 } }],
    });
    const counted = `kind: Kpi\nname: byhand\nsql: SELECT country, count(*) AS n FROM shop.orders WHERE id <> '7' GROUP BY ALL\n`;
    expect(await asked(counted, 'validate')).toMatchObject({ bound: true, tables: ['shop.public.orders'] });
    expect(await asked(counted, 'preview')).toMatchObject({
      running: true,
      rows: 2,
      differences: [
        { before: { country: 'FR', n: 200 }, after: null },
        { before: null, after: { country: 'FR', n: 199 } },
      ],
    });
    expect(await asked(tried({ from: { x: 'shop.public.nobody' }, measures: COUNT }), 'validate')).toMatchObject({
      bound: false,
      reason: 'engine kpi does not hold shop.public.nobody yet',
    });
  });

  const attempts = REACHING.length + AS_QUERIES.length + 3 + SPILLING.length + HEAVY.length;
  it(`are refused in clear words where they reach further (${attempts} attempts), while KPIs go on publishing`, async () => {
    const refusals: { definition: string; told: RegExp; said: string }[] = [];
    const attempt = async (definition: string, told: RegExp, ...how: ['validate' | 'preview', engine?: string]) => {
      const said = await asked(definition, ...how).then(
        (answer) => `answered ${JSON.stringify(answer)}`,
        (error: unknown) => `${(error as { kind?: string }).kind}: ${(error as Error).message}`,
      );
      refusals.push({ definition, told, said });
    };
    const waiting: (() => Promise<void>)[] = [
      ...REACHING.map(
        ([definition, told], i) =>
          () =>
            attempt(definition, told, i % 3 === 0 ? 'preview' : 'validate'),
      ),
      ...AS_QUERIES.map(
        ([sql]) =>
          () =>
            attempt(query(sql), AS_QUERY, 'preview'),
      ),
      ...HARMFUL.slice(0, 3).map(
        ([sql, told]) =>
          () =>
            attempt(query(sql), told, 'preview'),
      ),
      ...SPILLING.map(
        ([definition, told]) =>
          () =>
            attempt(definition, told, 'preview'),
      ),
    ];
    let published = 0;
    const publishes = async () => {
      await insert([`x${published++}`, 'AT', '1', null]);
      await until('the KPI to follow', async () => (await gmvOf('AT')) === published);
    };
    const attacker = async (follows: () => Promise<void>) => {
      for (let next = waiting.shift(), n = 0; next; next = waiting.shift(), n++) {
        await next();
        if (n % 5 === 0) await follows();
      }
    };
    await Promise.all([
      attacker(publishes),
      attacker(async () => {}),
      ...HEAVY.map((one) => attempt(one, /takes longer/, 'preview', 'hurried')),
    ]);
    await publishes();
    expect(published).toBeGreaterThan(1);
    expect(refusals).toHaveLength(attempts);
    expect(refusals.filter(({ told, said }) => !/^(query_refused|config_invalid): /.test(said) || !told.test(said))).toEqual([]);
    expect(refusals.filter(({ said }) => said.includes(SECRET) || said.includes(folder))).toEqual([]);
    for (const engine of ['kpi', 'hurried']) expect(await readdir(join(folder, 'kpi', `${engine}.trials`))).toEqual([]);
    expect((await readdir(folder)).toSorted()).toEqual(['kpi', 'secret.csv']);
  });

  it('are to be tried again where their engine ends meanwhile', async () => {
    const trial = expect(asked(HEAVY[0] as string, 'preview')).rejects.toMatchObject({ kind: 'not_complete' });
    await until('the trial to begin', async () => (await readdir(join(folder, 'kpi', 'kpi.trials'))).length > 0);
    await kpis.stop();
    await trial;
  });
});
