import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Database } from '@tributary/duckdb';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectTo, streamMessages } from '../fixtures/event-streams.ts';
import { System } from '../fixtures/system.ts';
import { WebhookReceiver } from '../fixtures/webhook-receiver.ts';
import { until } from '../fixtures/wait.ts';

const SALES = `kind: Kpi
name: sales
from: { o: shop.public.orders }
time: { column: o.paid_at, zone: Europe/Berlin, grains: [hour, day] }
dimensions: { country: o.country }
measures: { gmv: { sql: "sum(o.amount)", unit: EUR }, orders: { sql: "count(*)" }, buyers: { sql: "count(DISTINCT o.buyer)" } }
`;
const BY_HAND = `kind: Kpi
name: byhand
every: 0ms
sql: SELECT country, count(*) AS n FROM shop.orders GROUP BY 1 ORDER BY 1
`;

const SIZE = `kind: Kpi
name: size
owner: bi@shop
from: { o: shop.public.orders }
measures: { n: { sql: "count(*)" } }
alerts: [{ name: many, when: "n > 4", for: 200ms, every: 100ms, keep_firing: 100ms, to: [ops] }]
publish: { nats: { subject: numbers.size }, to: [ops], every: 0ms }
---
kind: Hook
name: ops
webhook: { url: "\${env:KPI_HOOK}", secret: "\${env:KPI_SECRET}" }
`;
const SECRET = `whsec_${Buffer.from('a secret of 24 bytes or more').toString('base64')}`;

interface Problem {
  readonly status: number;
  readonly detail: string;
  readonly parameter?: string;
}
interface Values {
  readonly rows: readonly {
    bucket: string;
    dimensions: Record<string, unknown>;
    values: Record<string, unknown>;
    revision: number;
  }[];
  readonly freshness: { position: string; revision: number; completeTo: string };
}

describe('KPIs over HTTP', () => {
  let folder: string;
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let system: System;
  let shop: Client;
  let receiver: WebhookReceiver;

  const get = (path: string, headers: Record<string, string> = {}) => fetch(`${system.console}/v1/${path}`, { headers });
  const json = async <T>(path: string): Promise<T> => {
    const response = await get(path);
    expect(response.status, path).toBe(200);
    return (await response.json()) as T;
  };
  const problem = async (path: string, body?: string): Promise<Problem> => {
    const url = `${system.console}/v1/${path}`;
    const response =
      body === undefined
        ? await fetch(url)
        : await fetch(url, { method: 'POST', body, headers: { 'Content-Type': 'application/yaml' } });
    expect(response.headers.get('content-type'), path).toContain('problem+json');
    return (await response.json()) as Problem;
  };
  const post = (path: string, body: string) =>
    fetch(`${system.console}/v1/${path}`, { method: 'POST', body, headers: { 'Content-Type': 'application/yaml' } });
  const day = (question = '') => json<Values>(`kpis/sales/values?grain=day&by=none${question}`);
  /** Every order so far is in the answer. */
  const level = async (orders: number) =>
    until(`${orders} orders`, async () => {
      const { rows } = await day();
      return rows.reduce((sum, { values }) => sum + Number(values['orders']), 0) === orders;
    });

  beforeAll(async () => {
    folder = await temporaryFolder('kpi-http');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop'] });
    shop = new Client({ connectionString: postgres.url('shop') });
    await shop.connect();
    await shop.query(`CREATE TABLE orders (id int PRIMARY KEY, country text, buyer int, amount numeric(10,2), paid_at timestamptz);
      INSERT INTO orders VALUES (1, 'DE', 7, 10.50, '2026-03-01 10:00+01'), (2, 'DE', 7, 1, '2026-03-01 23:30+01'),
      (3, 'FR', 8, 4, '2026-03-02 08:00+01')`);
    await mkdir(join(folder, 'data'));
    const file = join(folder, 'tributary.yaml');
    await writeFile(
      file,
      `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"\n---\n${SALES}---\n${BY_HAND}---\n${SIZE}`,
    );
    receiver = await WebhookReceiver.start(SECRET);
    process.env['KPI_HOOK'] = receiver.url;
    process.env['KPI_SECRET'] = SECRET;
    system = new System(file, join(folder, 'data'));
    await system.start();
    await until(
      'the KPIs to be computed',
      async () => (await get('kpis/sales/values')).ok && (await get('kpis/byhand/values')).ok,
    );
  });
  afterAll(async () => {
    await shop?.end();
    await system?.stop();
    await postgres?.stop();
    await receiver?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  it('lists KPIs and tells of each', async () => {
    const list = await json<{ name: string; state: string }[]>('kpis');
    expect(list.map(({ name, state }) => [name, state])).toEqual([
      ['byhand', 'ready'],
      ['sales', 'ready'],
      ['size', 'ready'],
    ]);
    expect(await json('kpis/sales')).toMatchObject({ tables: ['shop.public.orders'], definition: { kind: 'measures' } });
  });

  it('answers in every form the same values', async () => {
    const { rows, freshness } = await json<Values>(
      'kpis/sales/values?grain=day&measure=gmv,buyers&from=2026-03-01&to=2026-03-02',
    );
    expect(rows).toEqual([
      {
        bucket: '2026-03-01T00:00:00+01:00',
        dimensions: { country: 'DE' },
        values: { gmv: 11.5, buyers: 1 },
        revision: 0,
        flagged: false,
        closed: true,
      },
    ]);
    expect(freshness).toMatchObject({ revision: 0, sources: { shop: {} } });
    const csv = await get('kpis/sales/values?grain=day&measure=gmv&format=csv');
    expect(csv.headers.get('content-type')).toContain('text/csv');
    expect(await csv.text()).toBe(
      'bucket,country,gmv,revision,closed\r\n2026-03-01T00:00:00+01:00,DE,11.5,0,true\r\n2026-03-02T00:00:00+01:00,FR,4,0,true\r\n',
    );
    const lines = await (
      await get('kpis/sales/values?grain=day&by=none&filter=country%3DDE&measure=orders&format=ndjson')
    ).text();
    expect(lines).toBe('{"bucket":"2026-03-01T00:00:00+01:00","orders":2,"revision":0,"closed":true}\n');
    expect(await (await get('kpis/byhand/values?format=csv')).text()).toBe('country,n\r\nDE,2\r\nFR,1\r\n');
    expect(await json(`grafana/sales?grain=day&measure=gmv&from=${Date.parse('2026-03-02T00:00:00+01:00')}`)).toEqual([
      { time: Date.parse('2026-03-02T00:00:00+01:00'), country: 'FR', gmv: 4, revision: 0, closed: true },
    ]);
  });

  it('gives Parquet in the types of the columns, with the freshness beside it', async () => {
    const path = join(folder, 'sales.parquet');
    const answer = await get('kpis/sales/values?grain=day&measure=gmv&format=parquet');
    await writeFile(path, Buffer.from(await answer.arrayBuffer()));
    const database = await Database.open({ path: ':memory:', memoryBytes: 2 ** 28, threads: 1, spillDir: folder });
    const duck = await database.connect();
    const { columns, rows } = await duck.answer(`FROM '${path}'`);
    expect(columns.map(({ name, type }) => `${name} ${type}`)).toEqual([
      'bucket TIMESTAMP WITH TIME ZONE',
      'country VARCHAR',
      'gmv DECIMAL(38,2)',
      'revision BIGINT',
      'closed BOOLEAN',
    ]);
    expect(rows.map(({ bucket, country, gmv }) => [bucket, country, gmv])).toEqual([
      ['2026-02-28 23:00:00+00', 'DE', '11.50'],
      ['2026-03-01 23:00:00+00', 'FR', '4.00'],
    ]);
    const [about] = await duck.rows<{ value: string }>(`SELECT decode(value) AS value FROM parquet_kv_metadata('${path}')`);
    expect(JSON.parse(about?.value ?? '{}')).toMatchObject({ kpi: 'sales', position: answer.headers.get('tributary-position') });
    duck.close();
    database.close();
  });

  it('answers 304 until the position moves', async () => {
    await shop.query(`INSERT INTO orders VALUES (4, 'FR', 9, 1, '2026-03-02 09:00+01')`);
    await level(4);
    // The position moves once a second by itself: until two questions came between two moves.
    await until('the same position twice', async () => {
      const etag = (await get('kpis/sales/values')).headers.get('etag') ?? '';
      expect(etag).toMatch(/^"[0-9a-f]{12};json;shop:[0-9A-F]+\/[0-9A-F]+\+\d+"$/);
      const again = await get('kpis/sales/values', { 'If-None-Match': `"other", ${etag}` });
      const otherForm = await get('kpis/sales/values?format=csv', { 'If-None-Match': etag });
      expect(otherForm.status).toBe(200);
      return again.status === 304;
    });
    const etag = (await get('kpis/sales/values')).headers.get('etag') ?? '';
    await shop.query(`DELETE FROM orders WHERE id = 4`);
    await level(3);
    expect((await get('kpis/sales/values', { 'If-None-Match': etag })).status).toBe(200);
  });

  it('tells values as they change, and the rows and revisions behind them', async () => {
    const stream = await get('kpis/sales/stream?grain=day&by=none&measure=gmv');
    const events = eventsOf(stream);
    const first = (await events.next()).value as Values & { whole: boolean };
    expect([first.whole, first.rows.map(({ values }) => values['gmv'])]).toEqual([true, [11.5, 4]]);
    const { freshness: before } = await day();
    await shop.query(`UPDATE orders SET amount = 5 WHERE id = 3`);
    const changed = (await events.next()).value as Values & { whole: boolean };
    expect(changed).toMatchObject({ whole: false, rows: [{ values: { gmv: 5 }, revision: 3, closed: true }] });
    await events.return(null);
    const past = await day(`&asof=${encodeURIComponent(before.position)}`);
    expect(past.rows.map(({ values }) => values['gmv'])).toEqual([11.5, 4]);
    const { rows } = await json<{ rows: unknown[] }>('kpis/sales/rows?grain=day&bucket=2026-03-02T15:00:00Z&filter=country%3DFR');
    expect(rows).toEqual([
      { 'o.id': 3, 'o.country': 'FR', 'o.buyer': 8, 'o.amount': '5.00', 'o.paid_at': '2026-03-02 07:00:00+00' },
    ]);
    const { revisions } = await json<{ revisions: { revision: number; position: string }[] }>(
      'kpis/sales/revisions?grain=day&from=2026-03-02',
    );
    // Order 4 came and went, and order 3 changed.
    expect(revisions.map(({ revision }) => revision)).toEqual([3, 2, 1]);
    const earlier = await day(`&asof=${encodeURIComponent(revisions[0]?.position ?? '')}`);
    expect(earlier.rows.map(({ values }) => values['gmv'])).toEqual([11.5, 4]);
  });

  it('checks and previews definitions', async () => {
    const valid = await post('kpis:validate', SALES.replace('name: sales', 'name: other'));
    expect(await valid.json()).toMatchObject({ valid: true, kpi: 'other', running: false, bound: true });
    expect(await problem('kpis:validate', SALES.replace('sum(o.amount)', 'sum(o.amont)'))).toMatchObject({
      status: 400,
      detail: expect.stringMatching(/^body:6:\d+: Kpi sales, "measures.gmv.sql": .*amont/) as string,
    });
    expect(await problem('kpis:validate', SALES.replace('shop.public.orders', 'nowhere.public.orders'))).toMatchObject({
      status: 400,
      detail: 'body:3:9: "from.o": there is no source nowhere',
    });
    const secret = await problem('kpis:validate', `kind: Kpi\nname: x\nsql: "SELECT 1 FROM shop.\${env:HOME}"\n`);
    expect(secret.detail).not.toContain(process.env['HOME'] as string);
    const preview = await post('kpis/sales:preview?grain=day&by=none', SALES.replace('sum(o.amount)', 'max(o.amount)'));
    expect(await preview.json()).toMatchObject({
      kpi: 'sales',
      running: true,
      differences: [{ bucket: '2026-03-01T00:00:00+01:00', before: { gmv: 11.5 }, after: { gmv: 10.5 } }],
    });
    const anew = await post('kpis/sales/backfills', '{}');
    expect(await anew.json()).toMatchObject({ kpi: 'sales', differing: 0 });
  });

  it('says which parameter is wrong', async () => {
    const wrong: readonly [string, number, string, RegExp][] = [
      ['kpis/nobody/values', 404, 'kpi', /no KPI named "nobody". KPIs: byhand, sales, size/],
      ['kpis/sales/values?grain=week', 422, 'grain', /no grain week. Grains: hour, day/],
      ['kpis/sales/values?grain=fortnight', 400, 'grain', /allowed values: minute, hour/],
      ['kpis/sales/values?measure=gmw', 422, 'measure', /no measure gmw. Measures: gmv, orders/],
      ['kpis/sales/values?by=city', 422, 'by', /no dimension city. Dimensions: country/],
      ['kpis/sales/values?filter=country', 422, 'filter', /expected dimension=value/],
      ['kpis/sales/values?filter=city%3DX', 422, 'filter', /no dimension city/],
      ['kpis/sales/values?from=yesterday', 422, 'from', /"yesterday" is no time/],
      ['kpis/sales/values?fill=all', 400, 'fill', /allowed values: none, empty/],
      ['kpis/sales/values?format=xls', 400, 'format', /allowed values: json, csv, ndjson, parquet/],
      ['kpis/sales/values?asof=2001-01-01', 410, 'asof', /does not reach back to 2001-01-01/],
      ['kpis/sales/values?mesure=gmv', 400, 'mesure', /there is no such parameter/],
      ['kpis/sales/stream?measure=gmw', 422, 'measure', /no measure gmw/],
      ['kpis/sales/rows?grain=day', 422, 'bucket', /is missing/],
      ['kpis/sales/revisions?grain=week', 422, 'grain', /no grain week/],
    ];
    for (const [path, status, parameter, detail] of wrong)
      expect(await problem(path), path).toMatchObject({ status, parameter, detail: expect.stringMatching(detail) as string });
    expect(await problem('kpis/byhand/rows')).toMatchObject({ status: 422 });
  });

  it('tells a hook, and whoever looks, when an alert begins and ends', async () => {
    interface Alert {
      readonly kpi: string;
      readonly state: string;
      readonly problem: string;
    }
    const ofKind = (type: string) =>
      receiver.taken.filter(({ body: one }) => (one as { type: string }).type === `tributary.kpi.${type}`);
    const told = (state: string) =>
      until(`the receiver to be told: ${state}`, async () =>
        receiver.taken.find(({ body }) => (body as { state: string }).state === state),
      );
    const gauge = async (name: string) =>
      new RegExp(`^${name.replaceAll(/[{}]/g, '.')} (\\S+)$`, 'm').exec(
        await (await fetch(`${system.console}/metrics`)).text(),
      )?.[1];
    expect(await json('alerts')).toEqual([]);
    await shop.query(`INSERT INTO orders SELECT i, 'DE', 1, 1, '2026-04-01' FROM generate_series(11, 13) i`);
    const { body } = await told('firing');
    expect(body).toMatchObject({
      kpi: 'size',
      alert: 'many',
      owner: 'bi@shop',
      when: 'n > 4',
      values: { n: 6 },
      cause: 'condition',
    });
    expect((body as { freshness: object }).freshness).toMatchObject({ position: expect.stringMatching(/^shop:/) as string });
    const [alert] = await until('the alert to be seen', async () => {
      const alerts = await json<Alert[]>('alerts');
      return alerts[0]?.state === 'firing' ? alerts : null;
    });
    expect(alert).toMatchObject({ kind: 'kpi', kpi: 'size', alert: 'many', problem: 'n > 4 (n = 6)', owner: 'bi@shop' });
    expect((await system.run(['status'])).stdout).toContain('"alert":"many"');
    // Each is told on a way of its own.
    const shows = (name: string, value: string) => until(`${name} ${value}`, async () => (await gauge(name)) === value);
    await shows('tributary_kpi_alert_firing_state{kpi="size",alert="many",owner="bi@shop"}', '1');
    await shows('tributary_kpi_value{kpi="size",measure="n",grain=""}', '6');
    // Its values go to the same hook, and to its subject: first all, then what changed since, and the last in any case.
    interface Published {
      readonly whole: boolean;
      readonly rows: readonly { values: { n: number } }[];
    }
    const counts = (published: readonly Published[]) => published.map(({ rows }) => rows[0]?.values.n);
    const values = () => ofKind('values').map(({ body: one }) => one as Published);
    const nats = await connectTo(system);
    const valuesTold = async (n: number) => {
      await until(`${n} at the hook`, async () => counts(values()).at(-1) === n);
      return until(`${n} on the subject`, async () => {
        const all = await streamMessages(nats, 'KPI_size');
        return counts(all.map(({ body: one }) => JSON.parse(one) as Published)).at(-1) === n ? all : null;
      });
    };
    await valuesTold(6);
    await shop.query(`DELETE FROM orders WHERE id > 10`);
    await told('resolved');
    await until('the alert to be over', async () => (await json<Alert[]>('alerts')).length === 0);
    expect(await json<Alert[]>('alerts?state=all')).toMatchObject([{ state: 'resolved', problem: 'n > 4' }]);
    expect(ofKind('alert').map(({ body: one }) => (one as { state: string }).state)).toEqual(['firing', 'resolved']);
    expect([receiver.forged, new Set(receiver.taken.map(({ id }) => id)).size]).toEqual([0, receiver.taken.length]);

    const messages = await valuesTold(3);
    await nats.close();
    expect(new Set(messages.map(({ subject }) => subject))).toEqual(new Set(['numbers.size']));
    for (const published of [values(), messages.map(({ body: one }) => JSON.parse(one) as Published)]) {
      expect(published[0]?.whole).toBe(true);
      expect(counts(published)).toContain(6);
    }
    expect(messages.at(-1)?.headers.get('tributary-position')).toMatch(/^shop:/);
  });

  it('takes definitions, changes and deletes them: at once, and only over the one that was known', async () => {
    const own = (where: string) =>
      `kind: Kpi\nname: own\nfrom: { o: shop.public.orders }\nwhere: "${where}"\nmeasures: { n: { sql: "count(*)" } }\n`;
    const send = async (method: string, name: string, headers: Record<string, string>, body?: string) => {
      const yaml = body === undefined ? {} : { body, headers: { 'Content-Type': 'application/yaml', ...headers } };
      const answer = await fetch(`${system.console}/v1/kpis/${name}`, { method, headers, ...yaml });
      const text = await answer.text();
      return {
        status: answer.status,
        tag: answer.headers.get('etag') ?? '',
        told: text === '' ? null : (JSON.parse(text) as object),
      };
    };
    const counts = (n: number) =>
      until(`${n} orders of its own`, async () => {
        const answer = await get('kpis/own/values');
        return answer.ok && ((await answer.json()) as Values).rows[0]?.values['n'] === n;
      });
    const made = await send('PUT', 'own', { 'If-None-Match': '*' }, own('o.id < 3'));
    expect(made).toMatchObject({ status: 201, told: { kpi: 'own', origin: 'api', version: 1, bound: true } });
    await counts(2);
    expect(await json('kpis/own')).toMatchObject({ document: { origin: 'api', version: 1, text: own('o.id < 3') } });
    expect(await json('kpis/sales')).toMatchObject({
      document: { origin: 'file', file: expect.stringMatching(/\.yaml$/) as string },
    });
    const refused = [
      await send('PUT', 'own', { 'If-None-Match': '*' }, own('true')),
      await send('PUT', 'own', {}, own('true')),
      await send('PUT', 'own', { 'If-Match': '"1-000000000000"' }, own('true')),
      await send('PUT', 'own', { 'If-Match': made.tag }, own('o.di < 3')),
      await send('PUT', 'other', {}, own('true')),
      await send('PUT', 'sales', {}, SALES),
      await send('DELETE', 'sales', { 'If-Match': '*' }),
      await send('DELETE', 'nobody', {}),
      await send('DELETE', 'own', {}),
    ];
    expect(refused.map(({ status }) => status)).toEqual([412, 428, 412, 400, 400, 409, 409, 404, 428]);
    const changed = await send('PUT', 'own', { 'If-Match': made.tag }, own('o.id < 4'));
    expect(changed).toMatchObject({ status: 200, told: { version: 2 } });
    await counts(3);
    // Files are applied around it, and may not take its name.
    const file = join(folder, 'tributary.yaml');
    expect(JSON.parse((await system.run(['diff', '-f', file])).stdout)).toEqual({
      applied: true,
      changes: [],
      api: [{ kind: 'Kpi', name: 'own', version: 2 }],
    });
    const taken = join(folder, 'taken.yaml');
    await writeFile(taken, `${await readFile(file, 'utf8')}---\n${own('true')}`);
    const applied = await system.run(['apply', '-f', taken]);
    expect([applied.code, applied.stderr]).toEqual([1, expect.stringContaining('Kpi own was defined over HTTP') as string]);
    expect((await send('DELETE', 'own', { 'If-Match': made.tag })).status).toBe(412);
    expect((await send('DELETE', 'own', { 'If-Match': changed.tag })).status).toBe(204);
    await until('it to be gone', async () => (await get('kpis/own')).status === 404);
    await until('the others to be answered again', async () => (await get('kpis/sales/values')).ok);
  });

  it('says the same by the command line', async () => {
    const csv = await system.run(['kpi', 'values', 'sales', '--grain', 'day', '--measure', 'gmv', '--format', 'csv']);
    expect(csv.stdout).toBe(
      await (await get('kpis/sales/values?grain=day&measure=gmv&format=csv')).text().then((text) => text.replaceAll('\r', '')),
    );
    const behind = await system.run(['kpi', 'rows', 'sales', '--grain', 'day', '--bucket', '2026-03-01']);
    expect(JSON.parse(behind.stdout)).toMatchObject({ rows: [{ 'o.id': 1 }, { 'o.id': 2 }], more: false });
  });
});

/** Values that a stream of events tells; how fresh they are in between is passed over. */
async function* eventsOf(response: Response): AsyncGenerator<unknown> {
  const reader = (response.body as ReadableStream<Uint8Array>)
    .pipeThrough(new TextDecoderStream() as never)
    .getReader() as ReadableStreamDefaultReader<string>;
  let text = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      for (let end = text.indexOf('\n\n'); end !== -1; end = text.indexOf('\n\n')) {
        const event = text.slice(0, end);
        text = text.slice(end + 2);
        if (event.includes('event: values')) yield JSON.parse(/^data: (.*)$/m.exec(event)?.[1] ?? '{}');
      }
    }
  } finally {
    await reader.cancel();
  }
}
