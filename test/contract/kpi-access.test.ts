import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memoryBroker } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { startConsole } from '@tributary/console';
import { type Bus, Fault, Op, systemClock } from '@tributary/core';
import { Database } from '@tributary/duckdb';
import { startKpis } from '@tributary/kpi';
import { tableFromIPC } from 'apache-arrow';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { text, Written } from '../fixtures/history.ts';
import { until } from '../fixtures/wait.ts';

const CONFIG = `kind: Cluster
http:
  tokens:
    - { name: everything, token: token-of-everything, role: analyst, claims: { countries: [DE, FR, AT] } }
    - { name: bi, token: token-of-germany, role: analyst, claims: { countries: [DE] } }
    - { name: sly, token: token-of-nowhere, role: viewer, claims: { countries: "') OR true --" } }
    - { name: unclaimed, token: token-without-claims, role: admin }
    - { name: guest, token: token-of-a-guest, role: operator, claims: { countries: [DE] } }
---
kind: Source
name: s
postgres: "postgres://u:p@nowhere/s"
---
kind: Kpi
name: sales
from: { o: s.public.orders }
time: { column: "o.at::TIMESTAMPTZ", zone: UTC, grains: [day] }
dimensions: { country: o.country, first: "left(o.id, 1)" }
measures:
  gmv: { sql: "sum(o.amount::INT)" }
  buyers: { sql: "count(DISTINCT o.id)" }
  before: { of: gmv, versus: 1d, as: value }
  both: { derived: "gmv + buyers" }
access: { read: [everything, bi, sly, unclaimed], row_filter: "country IN (:claims.countries)" }
---
kind: Kpi
name: open
from: { o: s.public.orders }
measures: { n: { sql: "count(*)" } }
freshness: { target: 25s }
---
kind: Kpi
name: byhand
every: 0ms
sql: SELECT count(*) AS n FROM s.orders
access: { read: [admin] }
---
kind: Transform
name: t
from: [s.public.orders]
steps: [{ filter: "country <> 'XX'" }, { rename: { amount: paid } }, { set: { large: "paid::int > 9" } }]
---
kind: Kpi
name: made
engine: second
from: { o: t.public.orders }
dimensions: { large: o.large }
measures: { paid: { sql: "sum(o.paid::INT)" } }
access: { read: [everything] }
`;
const ORDERS = {
  schema: 'public',
  table: 'orders',
  identity: 'default' as const,
  columns: [text('id', 1), text('country'), text('amount'), text('at')],
};
const MADE = { ...ORDERS, columns: [text('id', 1), text('paid'), text('large')] };
const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

interface Values {
  readonly rows: readonly { bucket: string; dimensions: Record<string, unknown>; values: Record<string, number | null> }[];
}

describe('access to KPIs over HTTP', () => {
  const closing: (() => Promise<unknown>)[] = [];
  let url = '';
  let folder = '';
  /** Subjects of which the next question is lost with the worker that took it. */
  const lose = new Set<string>();
  /** The same, that nobody serves when the next question comes. */
  const away = new Set<string>();
  let insert: (...rows: (string | null)[][]) => Promise<unknown>;

  const get = (token: string, path: string, headers: Record<string, string> = {}, body?: string) =>
    fetch(`${url}/${path}`, {
      headers: { Authorization: `Bearer token-${token}`, 'Content-Type': 'application/yaml', ...headers },
      ...(body === undefined ? {} : { method: 'POST', body }),
    });
  const json = async <T>(token: string, path: string) => {
    const answer = await get(token, path);
    expect(answer.status, path).toBe(200);
    return (await answer.json()) as T;
  };
  const refused = async (token: string, path: string, body?: string) => {
    const answer = await get(token, path, {}, body);
    const { status, detail, type } = (await answer.json()) as { status: number; detail: string; type: string };
    expect([answer.status, status, type], path).toEqual([403, 403, 'urn:tributary:fault:access_refused']);
    return detail;
  };

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-contract-access-'));
    closing.push(() => rm(folder, { recursive: true, force: true }));
    const { configOf } = await configReading();
    const config = configOf([{ name: 'config', text: CONFIG }], { env: {} });
    const broker = memoryBroker();
    const runtime = { ...broker, clock: systemClock, log: quiet, dataDir: folder, worker: 'w', labels: null, capacity: 1 };
    const written = new Written(await broker.changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), 's');
    let lsn = 0n;
    insert = (...rows) => {
      lsn += 16n;
      return written.stream([{ lsn, changes: rows.map((cells) => ({ schema: ORDERS, op: Op.created, cells })) }]);
    };
    await insert(
      ['1', 'DE', '10', '2026-03-01 10:00:00+00'],
      ['2', 'DE', '5', '2026-03-02 10:00:00+00'],
      ['3', 'FR', '100', '2026-03-01 10:00:00+00'],
      ['4', 'FR', '100', '2026-03-02 10:00:00+00'],
      ['5', null, '1000', '2026-03-02 10:00:00+00'],
    );
    const transformed = new Written(await broker.changelogs.write('t', { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), 't');
    await transformed.stream([{ lsn: 16n, changes: [{ schema: MADE, op: Op.created, cells: ['1', '10', 'true'] }] }]);
    for (const name of ['s', 't'])
      await broker.bus.serve(`tributary.source.${name}.barrier`, async function* () {
        yield { seq: 0 };
      });
    const kpis = await startKpis(config, runtime);
    closing.push(() => kpis.stop());
    const bus: Bus = {
      ...broker.bus,
      ask: async function* (subject, question, options) {
        if (lose.delete(subject)) throw new Fault('worker_lost', 'not a word from it');
        if (away.delete(subject)) throw new Fault('not_found', `nobody answers ${subject}`);
        yield* broker.bus.ask(subject, question, options);
      },
    };
    const server = await startConsole(config, { ...runtime, bus }, { port: 0, host: '127.0.0.1', connected: () => true });
    closing.push(() => server.stop());
    url = server.url;
    await until('the KPIs to be computed', async () =>
      (await Promise.all(['sales', 'open', 'made'].map((kpi) => get('of-everything', `v1/kpis/${kpi}/values`)))).every(
        ({ ok }) => ok,
      ),
    );
  });
  afterAll(async () => {
    for (const close of closing.toReversed()) await close();
  });

  it('shows every reader the rows of his claims, whatever he asks', async () => {
    for (const [token, countries, gmv, buyers] of [
      ['of-germany', ['DE'], [10, 5], [1, 1]],
      ['of-everything', ['DE', 'FR'], [110, 105], [2, 2]],
    ] as const) {
      const all = await json<Values>(token, 'v1/kpis/sales/values');
      expect([...new Set(all.rows.map(({ dimensions }) => dimensions['country']))]).toEqual(countries);
      // Kept sums, recomputed aggregates, windows and what is derived from them; divided by nothing, filled, and of the past.
      const whole = await json<Values>(token, 'v1/kpis/sales/values?by=none&fill=empty&from=2026-03-01&to=2026-03-03');
      expect(whole.rows.map(({ values }) => values)).toEqual(
        [0, 1].map((d) => ({
          gmv: gmv[d],
          buyers: buyers[d],
          before: d === 0 ? null : gmv[0],
          both: (gmv[d] as number) + (buyers[d] as number),
        })),
      );
      const { position } = ((await json(token, 'v1/kpis/sales/values')) as { freshness: { position: string } }).freshness;
      const past = await json<Values>(token, `v1/kpis/sales/values?by=none&asof=${encodeURIComponent(position)}`);
      expect(past.rows.map(({ values }) => values['gmv'])).toEqual(gmv);
    }
    const asked = await json<Values>(
      'of-germany',
      'v1/kpis/sales/values?filter=country%3DFR&fill=empty&from=2026-03-01&to=2026-03-03',
    );
    expect(asked.rows).toEqual([]);
    expect((await json<Values>('of-nowhere', 'v1/kpis/sales/values')).rows).toEqual([]);
  });

  it('says which columns feed each part of a KPI', async () => {
    const partsOf = async (token: string, kpi: string) => {
      const { lineage } = await json<{ lineage: readonly Record<string, unknown>[] }>(token, `v1/kpis/${kpi}`);
      return lineage.map((one) => ['part', 'name', 'columns', 'measures', 'unresolved'].map((key) => one[key]));
    };
    const column = (name: string) => `s.public.orders.${name}`;
    expect(await partsOf('of-everything', 'sales')).toEqual([
      ['measure', 'gmv', [column('amount')], [], []],
      ['measure', 'buyers', [column('id')], [], []],
      ['measure', 'before', [column('amount')], ['gmv'], []],
      ['measure', 'both', [column('amount'), column('id')], ['gmv', 'buyers'], []],
      ['dimension', 'country', [column('country')], [], []],
      ['dimension', 'first', [column('id')], [], []],
      ['time', null, [column('at')], [], []],
    ]);
    expect(await partsOf('without-claims', 'byhand')).toEqual([
      ['column', 'n', [], [], []],
      ['rows', null, [], [], []],
    ]);
    // Through a transform, to the columns of its source.
    expect(await partsOf('of-everything', 'made')).toEqual([
      ['measure', 'paid', [column('amount')], [], []],
      ['dimension', 'large', [column('amount')], [], []],
      ['rows', 't.public.orders', [column('country')], [], []],
    ]);
  });

  it('is the same in every form, and behind a bucket', async () => {
    const csv = await (await get('of-germany', 'v1/kpis/sales/values?measure=gmv&by=country&format=csv')).text();
    expect(csv.split('\r\n').map((line) => line.split(',')[1])).toEqual(['country', 'DE', 'DE', undefined]);
    const flat = await json<{ country: string }[]>('of-germany', 'v1/grafana/sales?measure=gmv');
    expect(flat.map(({ country }) => country)).toEqual(['DE', 'DE']);
    const { rows } = await json<{ rows: Record<string, unknown>[] }>('of-germany', 'v1/kpis/sales/rows?bucket=2026-03-02');
    expect(rows.map((row) => row['o.id'])).toEqual(['2']);
    const path = join(folder, 'sales.parquet');
    const parquet = await get('of-germany', 'v1/kpis/sales/values?measure=gmv&format=parquet');
    await writeFile(path, Buffer.from(await parquet.arrayBuffer()));
    const database = await Database.open({ path: ':memory:', memoryBytes: 2 ** 28, threads: 1, spillDir: folder });
    const duck = await database.connect();
    expect((await duck.rows<{ country: string }>(`FROM '${path}'`)).map(({ country }) => country)).toEqual(['DE', 'DE']);
    duck.close();
    database.close();
    const stream = 'application/vnd.apache.arrow.stream';
    const arrow = await get('of-germany', 'v1/kpis/sales/values?measure=gmv', { Accept: `${stream}, application/json;q=0.5` });
    expect([arrow.status, arrow.headers.get('content-type')]).toEqual([200, stream]);
    const table = tableFromIPC(new Uint8Array(await arrow.arrayBuffer()));
    expect(table.schema.fields.map(({ name, type }) => `${name} ${type}`)).toEqual([
      'bucket Timestamp<MICROSECOND, UTC>',
      'country Utf8',
      'first Utf8',
      'gmv Decimal[38e0]',
      'revision Int64',
      'closed Bool',
    ]);
    expect([...(table.getChild('country') ?? [])]).toEqual(['DE', 'DE']);
    expect(JSON.parse(table.schema.metadata.get('tributary') ?? '{}')).toMatchObject({
      kpi: 'sales',
      position: arrow.headers.get('tributary-position'),
    });
  });

  it('tells readers apart in ETags and streams', async () => {
    const tagOf = async (token: string) => (await get(token, 'v1/kpis/sales/values')).headers.get('etag') ?? '';
    const [german, whole] = [await tagOf('of-germany'), await tagOf('of-everything')];
    expect(german).not.toBe(whole);
    const again = async (token: string) => (await get(token, 'v1/kpis/sales/values', { 'If-None-Match': german })).status;
    expect([await again('of-germany'), await again('of-everything')]).toEqual([304, 200]);
    const streams = await Promise.all(
      (['of-germany', 'of-everything'] as const).map(async (token) => {
        const { body } = await get(token, 'v1/kpis/sales/stream?by=country&measure=gmv&from=2026-03-02');
        return (body as ReadableStream<Uint8Array>).pipeThrough(new TextDecoderStream() as never).getReader();
      }),
    );
    const next = async (i: 0 | 1) => {
      const stream = streams[i] as ReadableStreamDefaultReader<string>;
      for (let told = ''; ; ) {
        told += (await stream.read()).value ?? '';
        const [, event] = /event: values\ndata: (.*)\n\n/.exec(told) ?? [];
        if (event)
          return (JSON.parse(event) as Values).rows.map(({ dimensions, values }) => [dimensions['country'], values['gmv']]);
      }
    };
    expect(await next(0)).toEqual([['DE', 5]]);
    expect(await next(1)).toEqual([
      ['DE', 5],
      ['FR', 100],
    ]);
    await insert(['6', 'FR', '1', '2026-03-02 11:00:00+00']);
    expect(await next(1)).toEqual([['FR', 101]]);
    await insert(['7', 'DE', '2', '2026-03-02 11:00:00+00']);
    expect(await next(0)).toEqual([['DE', 7]]);
    await Promise.all(streams.map((stream) => stream.cancel()));
  });

  it('refuses whoever may not read, and does not list what he may not', async () => {
    const names = async (token: string) => (await json<{ name: string }[]>(token, 'v1/kpis')).map(({ name }) => name);
    expect(await names('of-germany')).toEqual(['open', 'sales']);
    expect(await names('of-a-guest')).toEqual(['open']);
    expect(await names('without-claims')).toEqual(['byhand', 'open']);
    const ways = ['', '/values', '/values?format=parquet', '/stream', '/rows?bucket=2026-03-02', '/revisions'];
    for (const way of ways) {
      expect(await refused('of-a-guest', `v1/kpis/sales${way}`)).toContain('the token guest (operator) is not among those');
      expect(await refused('without-claims', `v1/kpis/sales${way}`)).toContain('has no claim "countries"');
    }
    expect(await refused('of-a-guest', 'v1/grafana/sales')).toContain('not among');
    expect(await refused('of-everything', 'v1/kpis/byhand/values')).toContain('not among');
    expect(await json('without-claims', 'v1/kpis/byhand/values')).toMatchObject({ rows: [{ n: 7 }] });
    expect(((await (await get('of-a-guest', 'v1/kpis/nobody')).json()) as { detail: string }).detail).not.toContain('sales');
    // A definition of one's own over the same tables would show what the filter hides.
    const own = `kind: Kpi\nname: mine\nfrom: { x: s.public.orders }\nmeasures: { n: { sql: "count(*)" } }\n`;
    expect(await refused('of-germany', 'v1/kpis/mine:preview', own)).toContain('a preview would show all');
    expect(await refused('of-a-guest', 'v1/kpis/mine:preview', own)).toContain('a preview would show all');
    // Neither does one of the short form.
    const short = 'kind: Kpi\nname: mine\nsql: SELECT * FROM s.orders\n';
    expect(await refused('of-germany', 'v1/kpis/mine:preview', short)).toContain('a preview would show all');
  });

  it('asks the successor of a worker that was lost with a question, where it may be asked twice', async () => {
    const known = await json<Values>('of-germany', 'v1/kpis/open/values');
    for (const what of ['show', 'values']) lose.add(`tributary.kpi.open.${what}`);
    expect((await json<Values>('of-germany', 'v1/kpis/open/values')).rows).toEqual(known.rows);
    expect(lose.size).toBe(0);
    lose.add('tributary.kpi.open.backfill');
    const headers = { Authorization: 'Bearer token-of-a-guest' };
    const answer = await fetch(`${url}/v1/kpis/open/backfills`, { method: 'POST', headers });
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '1']);
    expect(await answer.json()).toMatchObject({ type: 'urn:tributary:fault:worker_lost', detail: 'not a word from it' });
  });

  it('checks a definition with an engine that only starts anew, instead of letting it pass', async () => {
    const own = 'kind: Kpi\nname: mine\nfrom: { x: s.public.orders }\nmeasures: { n: { sql: "count(*)" } }\n';
    away.add('tributary.kpi-engine.kpi.validate');
    expect(await (await get('of-everything', 'v1/kpis:validate', {}, own)).json()).toMatchObject({ valid: true, bound: true });
    expect(away.size).toBe(0);
    const another = own.replace('name: mine', 'name: mine\nengine: another');
    expect(await (await get('of-everything', 'v1/kpis:validate', {}, another)).json()).toMatchObject({
      valid: true,
      bound: false,
    });
  });

  it('tells a scrape no value that needs a claim', async () => {
    const scraped = await until('both to be told', async () => {
      const told = await (await get('without-claims', 'metrics')).text();
      return /tributary_kpi_value\{kpi="open"/.test(told) && /tributary_kpi_lag_seconds\{kpi="sales"/.test(told) ? told : null;
    });
    expect(scraped).not.toMatch(/tributary_kpi_value\{kpi="sales"/);
    expect(scraped.match(/tributary_kpi_freshness_target_seconds\{.*/g)).toEqual([
      'tributary_kpi_freshness_target_seconds{kpi="open"} 25',
    ]);
    expect(scraped).toMatch(/tributary_kpi_lag_seconds\{kpi="byhand"/);
    expect(scraped).toMatch(/tributary_kpi_queries_total\{kpi="open"\} [1-9]/);
    expect(scraped).toMatch(/tributary_kpi_query_seconds_total\{kpi="open"\} \d/);
    expect(scraped).toMatch(/tributary_kpi_reaction_seconds\{kpi="open"\} \d/);
    expect(scraped).toMatch(/tributary_kpi_differences_total\{kpi="open"\} 0\n/);
  });
});
