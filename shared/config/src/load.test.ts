import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { matchesTable, sourcesOf, targetSchema, wantsTable } from './config.ts';
import { configJsonSchema } from './json-schema.ts';
import { configOf, loadConfig } from './load.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tributary-config-'));
});
afterEach(() => rm(folder, { recursive: true }));

async function load(text: string, env: Record<string, string> = {}) {
  const file = join(folder, 'a.yaml');
  await writeFile(file, text);
  return loadConfig([file], { env });
}

/** What the config is refused with, without the folder. */
async function refusal(text: string): Promise<string> {
  try {
    await load(text);
  } catch (error) {
    return (error as Error).message.replaceAll(`${folder}/`, '');
  }
  throw new Error('the config was accepted');
}

describe('config', () => {
  it('refuses transforms that read nothing, themselves, or look up in a transform', async () => {
    const source = 'kind: Source\nname: shop\npostgres: "postgres://u@h/shop"\n';
    const transform = (name: string, from: string, steps = '[]') =>
      `---\nkind: Transform\nname: ${name}\nfrom: ["${from}"]\nsteps: ${steps}\n`;
    expect(await refusal(source + transform('t', 'crm.*'))).toContain('no source or transform is named as in crm.*');
    expect(await refusal(source + transform('t', 'u.*') + transform('u', 't.*'))).toContain('transform t reads what it writes');
    const lookup = '[ { lookup: { table: t.public.a, on: { id: id }, set: { b: b } } } ]';
    expect(await refusal(source + transform('t', 'shop.*') + transform('u', 'shop.*', lookup))).toContain(
      'transform u looks up in t.public.a: t is no source',
    );
  });

  it('takes one Source document alone, with the lake as its sink', async () => {
    const config = await load('kind: Source\nname: shop\npostgres: "${env:URL}"\n', {
      URL: 'postgres://me:p%40ss@db:5433/shop?sslmode=require',
    });
    expect(config.sources[0]).toEqual({
      name: 'shop',
      postgres: { host: 'db', port: 5433, user: 'me', password: 'p@ss', database: 'shop', ssl: { rejectUnauthorized: false } },
      tables: ['public.*'],
      snapshot: 'initial',
      labels: {},
      schemaChanges: 'apply',
      heartbeatMs: 1_000,
    });
    expect(config.sinks).toMatchObject([{ type: 'lake', name: 'lake', from: ['*'] }]);
    expect(config.cluster.changelog).toEqual({
      maxAgeMs: 604_800_000,
      maxBytes: 100 * 2 ** 30,
      lingerMs: 5,
      confirmAfterMs: 120_000,
    });
  });

  it('takes several addresses of one NATS cluster, and confirms at once where changelogs are replicated', async () => {
    const source = '---\nkind: Source\nname: shop\npostgres: postgres://me@db/shop\n';
    const cluster = (nats: string, more = '') => load(`kind: Cluster\nnats: ${nats}\n${more}${source}`);
    const listed = await cluster('{ url: ["nats://a:4222", "nats://b:4222"], replicas: 3 }');
    expect(listed.cluster.nats).toEqual({ url: 'nats://a:4222,nats://b:4222', replicas: 3 });
    expect(listed.cluster.changelog.confirmAfterMs).toBe(0);
    const written = await cluster('{ url: "nats://a:4222, nats://b:4222" }');
    expect(written.cluster.nats.url).toBe('nats://a:4222, nats://b:4222');
    expect(written.cluster.changelog.confirmAfterMs).toBe(120_000);
    const chosen = await cluster('{ replicas: 3 }', 'changelog: { confirmAfter: 30s }\n');
    expect(chosen.cluster.changelog.confirmAfterMs).toBe(30_000);
    expect(await refusal(`kind: Cluster\nnats: { url: [] }\n${source}`)).toBe(
      'a.yaml:2:9: "nats.url": expected an address, or a list of them',
    );
  });

  it('names file, line and column of everything that is wrong at once', async () => {
    expect(await refusal('kind: Source\nname: Shop\npostgres: mysql://x\ntabels: [a]\n')).toBe(
      [
        'a.yaml:2:1: "name": expected lower-case letters, digits and _ (at most 40, a letter first)',
        'a.yaml:3:1: "postgres": expected a URL that begins with postgres://',
        'a.yaml:4:1: unknown key "tabels"',
      ].join('\n'),
    );
  });

  it('says where YAML itself is broken', async () => {
    expect(await refusal('kind: Source\nname: [shop\npostgres: x\n')).toMatch(/^a\.yaml:\d+:\d+: /);
  });

  it('says what is missing, what is named twice, and what is not built yet', async () => {
    expect(await refusal('kind: Source\nname: shop\n')).toContain('"postgres"');
    const one = 'kind: Source\nname: shop\npostgres: postgres://a@b/c\n';
    expect(await refusal(`${one}---\n${one}`)).toContain('changelog shop is already defined at a.yaml:1');
    expect(await refusal(`${one}columns: {}\n`)).toContain('not built yet');
    expect(await refusal('kind: Source\nname: shop\npostgres: "${env:NOPE}"\n')).toContain(
      'a.yaml:3:11: environment variable NOPE is not set',
    );
  });

  it('takes the contract of a source, and says where it cannot be one', async () => {
    const one = 'kind: Source\nname: shop\npostgres: postgres://a@b/c\n';
    const contract = (table: string) => `${one}contract:\n  owner: Team Shop\n  tables:\n    public.orders:\n${table}`;
    const loaded = await load(contract('      key: [id]\n      columns: { id: int8, total: "decimal(12, 2)" }\n'));
    expect(loaded.sources[0]?.contract).toEqual({
      owner: 'Team Shop',
      tables: { 'public.orders': { key: ['id'], columns: { id: 'bigint', total: 'numeric(12,2)' } } },
    });
    expect(await refusal(contract('      columns: { id: int8, total: "numeric(" }\n'))).toBe(
      'a.yaml:8:28: "contract.tables.public.orders.columns.total": expected a type of PostgreSQL, such as bigint or numeric(12,2)',
    );
    expect(await refusal(contract('      key: [no]\n      columns: { id: int8 }\n'))).toContain(
      'a.yaml:8:7: "contract.tables.public.orders.key": column no is not among "columns"',
    );
    expect(await refusal(contract('      colums: { id: int8 }\n'))).toContain('a.yaml:8:7: unknown key');
    expect(await refusal(contract('      columns: {}\n'))).toContain('a.yaml:8:7: ');
    expect(await refusal(`${one}contract: { tables: {} }\n`)).toBe('a.yaml:4:1: "contract.owner" is missing');
    expect(await refusal(`${one}schemaChanges: keep\n`)).toBe(
      'a.yaml:4:1: "schemaChanges": keep needs a "contract", which says what must not change',
    );
    expect(await refusal(`${contract('      columns: { id: int8 }\n')}tables: [stock.*]\n`)).toContain(
      'a.yaml:7:5: "contract.tables.public.orders": this source does not capture it',
    );
  });

  it('takes a Kpi, with the place of every part that holds SQL, and says what cannot be one', async () => {
    const one = 'kind: Source\nname: shop\npostgres: postgres://a@b/c\n---\n';
    const kpi = `kind: Kpi
name: gmv
from: { o: shop.orders, i: { table: shop.public.items, on: "i.order_id = o.id" } }
time: { column: o.paid_at, zone: Europe/Berlin }
measures:
  gmv: { sql: "sum(i.price)" }
  week: { of: gmv, rolling: 7d }
`;
    const [loaded] = configOf([{ name: 'a.yaml', text: one + kpi }], { env: {} }).kpis;
    expect(loaded?.definition).toMatchObject({
      from: [
        { alias: 'o', source: 'shop', table: 'public.orders' },
        { alias: 'i', table: 'public.items' },
      ],
      measures: { week: { kind: 'rolling', of: 'gmv', span: { count: 7, unit: 'day' } } },
    });
    expect(loaded?.places['measures.gmv.sql']).toBe('a.yaml:10:10');
    expect(await refusal(one + kpi.replace('shop.orders', 'crm.orders'))).toContain(
      'a.yaml:7:9: "from.o": there is no source crm',
    );
    expect(await refusal(one + kpi.replace('of: gmv', 'of: gmw'))).toContain('there is no measure gmw with sql');
    expect(await refusal(one + kpi.replace('Europe/Berlin', 'Berlin'))).toContain('expected a time zone');
    const files = (text: string, more = '') => `${one}${kpi}publish: { files: ${text}${more} }\n`;
    const filesOf = async (text: string, more = '') => (await load(files(text, more))).kpis[0]?.publish?.files;
    const grains = ['hour', 'day', 'week', 'month'];
    expect(await filesOf('true')).toEqual({ grains, everyMs: 10_000 });
    expect(await filesOf('{ every: 1m }', ', grain: day')).toEqual({ grains: ['day'], everyMs: 60_000 });
    expect(await filesOf('{ grains: [week, week] }')).toEqual({ grains: ['week'], everyMs: 10_000 });
    expect(await filesOf('false')).toBeNull();
    expect(await refusal(files('{ grains: [day, year] }'))).toBe(
      'a.yaml:12:35: "publish.files.grains.1": year is not among time.grains',
    );
    expect(await refusal(files('{ every: 1ms }'))).toContain('a.yaml:12:21: "publish.files.every": expected at least 100 ms');
    expect(await refusal(files('sometimes'))).toContain('"publish.files"');
    const alert = (more: string) => `${one}${kpi}alerts:\n  - { name: drop, when: "gmv(hour) < 1", to: [ops], ${more} }\n`;
    expect(await refusal(alert(''))).toMatch(/^a\.yaml:\d+:\d+: "alerts.0.to": there is no Hook ops$/);
    expect(await refusal(alert('renotify: never'))).toContain('"alerts.0.renotify": expected a duration');
    expect(await refusal(alert('by: [city]'))).toContain('"alerts.0.by.0": there is no dimension city');
    expect(await refusal(alert('').replace('gmv(hour)', 'gmv(decade)'))).toMatch(
      /^a\.yaml:\d+:\d+: "alerts.0.when": character 5: decade is not among time.grains/,
    );
    const ops = `---\nkind: Hook\nname: ops\nwebhook: { url: "https://ops.example/x", secret: "a text of more than 24 bytes" }\n`;
    const alerted = await load(alert('for: 5m') + ops);
    expect(alerted.kpis[0]?.alerts).toMatchObject([{ name: 'drop', forMs: 300_000, stale: 'hold', to: ['ops'] }]);
    const divided = (more: string) =>
      alert('by: [city]').replace('measures:', `dimensions: { city: o.city }\n${more}measures:`) + ops;
    expect((await load(divided(''))).kpis[0]?.alerts).toMatchObject([{ by: ['city'], seenWithinMs: 7 * 86_400_000 }]);
    expect(await refusal(divided('access: { read: [viewer] }\n'))).toContain('"alerts.0.by": everyone is told of alerts');
    const target = (more: string) =>
      `${one}${kpi}targets: [{ measure: gmv, grain: hour, good: down, target: 5, warn: 7, ${more} }]\n${ops}`;
    expect(await refusal(target('to: [ops]'))).toContain('"targets.0.to": "to" goes with check: on_close');
    expect(await refusal(target('check: on_close, to: [boss]'))).toContain('"targets.0.to": there is no Hook boss');
    const checked = (await load(target('check: on_close, to: [ops]'))).kpis[0];
    expect(checked?.alerts).toMatchObject([{ name: 'target_gmv_hour', when: 'gmv(hour) > 7', to: ['ops'] }]);
    expect(checked?.targets).toEqual([{ measure: 'gmv', grain: 'hour', good: 'down', target: 5, warn: 7, crit: null }]);
    expect(alerted.hooks).toMatchObject([{ name: 'ops', target: { url: 'https://ops.example/x' } }]);
    const fresh = (more: string) => `${one}${kpi}freshness: { ${more} }\n${ops}`;
    const promised = (await load(fresh('target: 2s, alert_after: 20s, to: [ops]'))).kpis[0];
    expect(promised).toMatchObject({ freshnessTargetMs: 2_000, staleAfterMs: 20_000 });
    expect(promised?.alerts).toMatchObject([
      { name: 'freshness', about: 'freshness', stale: 'alert', everyMs: 5_000, to: ['ops'] },
    ]);
    expect((await load(fresh('alert_after: 20s'))).kpis[0]).toMatchObject({ freshnessTargetMs: null, alerts: [] });
    expect(await refusal(fresh('target: soon'))).toMatch(/^a\.yaml:12:14: "freshness.target": expected a duration/);
    expect(await refusal(fresh('target: 0s'))).toContain('12:14: "freshness.target": expected more than 0');
    expect(await refusal(fresh('target: 31s'))).toContain(
      '12:14: "freshness.target": expected at most alert_after, which is 30000 ms',
    );
    expect(await refusal(fresh('target: 1s'))).toContain('12:14: "freshness.target": while shop is idle it tells how far it is');
    expect(await refusal(fresh('to: [ops]'))).toContain('12:14: "freshness.to": "to" goes with "target"');
    expect(await refusal(fresh('target: 2s, to: [boss]'))).toMatch(/^a\.yaml:12:\d+: "freshness.to": there is no Hook boss$/);
    expect(await refusal(alert('').replace('drop', 'freshness') + 'freshness: { target: 2s }\n' + ops)).toContain(
      '"alerts.0.name": an alert called freshness is there already',
    );
    expect(await refusal(`${one}kind: Kpi\nname: x\n`)).toContain('"from" is missing');
  });

  it('splits an ods sink by table, and says why not a lake', async () => {
    const source = 'kind: Source\nname: shop\npostgres: postgres://a@b/c\n---\n';
    const ods = (more: string) => `${source}kind: Sink\nname: ods\ntype: ods\npostgres: postgres://a@b/d\n${more}`;
    expect((await load(ods(''))).sinks).toMatchObject([{ partitions: 1 }]);
    expect((await load(ods('partitions: 4\n'))).sinks).toMatchObject([{ partitions: 4 }]);
    expect(await refusal(ods('partitions: 0\n'))).toMatch(/^a\.yaml:9:1: "partitions": /);
    expect((await load(ods('merge: { into: all }\n'))).sinks).toMatchObject([{ merge: { into: 'all', shard: 'shard' } }]);
    expect(await refusal(ods('merge: { into: "x_{source}" }\n'))).toContain('must be the same for all sources');
    expect(await refusal(ods('merge: { into: all }\nschema: one\n'))).toContain('it needs {source} in it');
    expect((await load(ods(''))).sinks).toMatchObject([
      { existing: 'refuse', foreignKeys: 'check', history: false, softDelete: false },
    ]);
    expect((await load(ods('history: true\nsoftDelete: true\n'))).sinks).toMatchObject([{ history: true, softDelete: true }]);
    expect((await load(ods('existing: adopt\nforeignKeys: replica\n'))).sinks).toMatchObject([
      { existing: 'adopt', foreignKeys: 'replica' },
    ]);
    expect(await refusal(ods('merge: { into: all }\nexisting: adopt\n'))).toMatch(/^a\.yaml:10:1: "existing": with "merge"/);
    expect(await refusal(`${source}kind: Sink\nname: lake\ntype: lake\npartitions: 2\n`)).toMatch(
      /^a\.yaml:8:1: "partitions" is for a Sink of type ods: /,
    );
  });

  it('never repeats a connection URL, which may hold a password', async () => {
    expect(await refusal('kind: Source\nname: shop\npostgres: "postgres://me:hunter2@host"\n')).not.toContain('hunter2');
  });

  it('chooses tables by the last pattern that matches', () => {
    expect(matchesTable(['public.*', '!public.secret'], 'public.orders')).toBe(true);
    expect(matchesTable(['public.*', '!public.secret'], 'public.secret')).toBe(false);
    expect(matchesTable(['public.order*'], 'public.customers')).toBe(false);
    const sink = {
      type: 'ods' as const,
      partitions: 1,
      onError: 'halt' as const,
      existing: 'refuse' as const,
      foreignKeys: 'check' as const,
      history: false,
      softDelete: false,
      name: 'ods',
      from: ['shop.*', 'pay.public.bills'],
      postgres: { host: '', port: 1, user: '', database: '' },
    };
    expect(wantsTable(sink, 'shop', 'other.x')).toBe(true);
    expect(wantsTable(sink, 'pay', 'public.bills')).toBe(true);
    expect(wantsTable(sink, 'pay', 'public.cards')).toBe(false);
    const sources = ['shop', 'pay', 'stock'].map((name) => ({ name })) as unknown as Parameters<typeof sourcesOf>[1]['sources'];
    expect(sourcesOf(sink, { sources, transforms: [] })).toEqual(['shop', 'pay']);
    expect([targetSchema('shop', 'public'), targetSchema('shop', 'x'), targetSchema('shop', 'x', 'all_{schema}')]).toEqual([
      'shop',
      'shop_x',
      'all_x',
    ]);
  });

  it('describes itself as JSON Schema', () => {
    expect(JSON.stringify(configJsonSchema())).toContain('"heartbeat"');
  });
});
