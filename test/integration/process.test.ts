import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';

const CONFIG = (shop: string, pay: string) => `kind: Source
name: shop
postgres: "${shop}"
---
kind: Source
name: pay
postgres: "${pay}"
---
kind: Process
name: order_to_cash
objects:
  order:   { table: shop.orders, key: id, state: status, milestones: [paid_at] }
  item:    { table: shop.order_items, of: { order: order_id } }
  payment: { table: pay.payments, key: id, state: state, of: { order: order_ref }, created: state }
  refund:  { table: pay.refunds, of: { payment: payment_id } }
root: order
events: [{ name: place order, when: order.insert, with: [item.insert] }]
rules: [{ name: kept, absence: order.cancelled, severity: critical }]
alerts: [{ on: [rule] }]
`;

interface Map {
  readonly cases: number;
  readonly events: number;
  readonly activities: Record<string, number>;
  readonly edges: readonly { from: string; to: string; count: number }[];
  readonly freshness: { completeTo: string | null; sources: Record<string, object> };
}

describe('a process over two databases', () => {
  let folder: string;
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let system: System;
  let shop: Client;
  let pay: Client;

  const get = (path: string) => fetch(`${system.console}/v1/processes${path}`);
  const json = async <T>(path: string) => {
    const answer = await get(path);
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${text}`);
    return JSON.parse(text) as T;
  };
  const caughtUp = async () => {
    const told = await system.run(['status', '--wait', 'caught-up']);
    expect(told.code, told.stderr).toBe(0);
  };
  const edges = ({ edges: all }: Map) => Object.fromEntries(all.map(({ from, to, count }) => [`${from} > ${to}`, count]));

  beforeAll(async () => {
    folder = await temporaryFolder('process');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'pay'] });
    shop = new Client({ connectionString: postgres.url('shop') });
    pay = new Client({ connectionString: postgres.url('pay') });
    await Promise.all([shop.connect(), pay.connect()]);
    await shop.query(`CREATE TABLE orders (id int PRIMARY KEY, status text, paid_at timestamptz);
      CREATE TABLE order_items (order_id int REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE, line int, PRIMARY KEY (order_id, line));
      INSERT INTO orders VALUES (1, 'paid', now())`);
    await pay.query(`CREATE TABLE payments (id int PRIMARY KEY, order_ref int, state text);
      CREATE TABLE refunds (id int PRIMARY KEY, payment_id int REFERENCES payments)`);
    await mkdir(join(folder, 'data'));
    const file = join(folder, 'tributary.yaml');
    await writeFile(file, CONFIG(postgres.url('shop'), postgres.url('pay')));
    system = new System(file, join(folder, 'data'));
    await system.start();
  });
  afterAll(async () => {
    await Promise.all([shop?.end(), pay?.end()]);
    await system?.stop();
    await postgres?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  it('shows what happened, in order, across databases, also where links come late', async () => {
    for (const id of [10, 11]) {
      await shop.query(
        `BEGIN; INSERT INTO orders VALUES (${id}, 'new'); INSERT INTO order_items VALUES (${id}, 1), (${id}, 2); COMMIT`,
      );
      await pay.query(`INSERT INTO payments VALUES (${id}, ${id === 10 ? 'NULL' : id}, 'authorised')`);
      await pay.query(`UPDATE payments SET state = 'captured' WHERE id = ${id}`);
      await shop.query(`UPDATE orders SET status = 'paid', paid_at = now() WHERE id = ${id}`);
    }
    // A case that comes to its payment late; one that is cancelled; one that gets another key.
    await pay.query('INSERT INTO refunds VALUES (1, 10)');
    await pay.query('UPDATE payments SET order_ref = 10 WHERE id = 10');
    await shop.query('DELETE FROM orders WHERE id = 11');
    await shop.query('UPDATE orders SET id = 20 WHERE id = 10');
    await pay.query('UPDATE payments SET order_ref = 20 WHERE id = 10');
    await caughtUp();
    const map = lastJson<Map>(await system.run(['process', 'map', 'order_to_cash']));
    const activities = {
      'place order': 2,
      'payment authorised': 2,
      'payment captured': 2,
      'order paid': 2,
      'order paid_at': 2,
      'item deleted': 2,
      'refund created': 1,
      'order deleted': 1,
    };
    expect(map).toMatchObject({ cases: 2, activities });
    expect(edges(map)).toMatchObject({
      'place order > payment authorised': 2,
      'payment authorised > payment captured': 2,
      'payment captured > order paid': 2,
      'order paid > order paid_at': 2,
      'order paid_at > refund created': 1,
    });
    expect(map.freshness.completeTo).not.toBeNull();
    const { cases } = await json<{ cases: { case: string }[] }>('/order_to_cash/cases');
    expect(new Set(cases.map((one) => one.case))).toEqual(new Set(['11', '20']));
    const { variants } = await json<{ variants: { cases: number }[] }>('/order_to_cash/variants');
    expect(variants.map((one) => one.cases)).toEqual([1, 1]);
  });

  it('is the same after a snapshot, a crash, and a replay from the start', async () => {
    const map = async () => {
      const { freshness: _, ...rest } = await json<Map>('/order_to_cash/map');
      return rest;
    };
    const before = await map();
    expect(before.events).toBeGreaterThan(0);
    expect((await system.run(['snapshot', 'shop'])).code).toBe(0);
    await caughtUp();
    expect(await map()).toEqual(before);
    await system.kill();
    await system.start();
    await until('its worker to answer', async () => (await get('/order_to_cash/map')).ok);
    expect(await map()).toEqual(before);
    expect((await system.run(['replay', 'order_to_cash', '--from', 'start'])).code).toBe(0);
    expect(await map()).toEqual(before);
  });

  it('answers over HTTP, with what is wrong in a problem', async () => {
    expect(await json('')).toMatchObject([{ name: 'order_to_cash', state: 'running', root: 'order' }]);
    expect(await json('/order_to_cash')).toMatchObject({ root: 'order', freshness: { sources: { shop: {}, pay: {} } } });
    const map = await json<Map>('/order_to_cash/map?object=payment');
    expect(map.cases).toBe(2);
    expect(edges(map)).toEqual({ 'payment authorised > payment captured': 2 });
    expect(await json('/order_to_cash/cases?limit=1')).toMatchObject({ process: 'order_to_cash', cases: [{}] });
    expect(await (await get('/order_to_cash/export?format=csv')).text()).toContain('20,place order,');
    expect((await get('/other/map')).status).toBe(404);
    expect((await get('/order_to_cash/map?object=nobody')).status).toBe(404);
    expect((await get('/order_to_cash/map?from=never')).status).toBe(400);
    const { projections } = lastJson<{ projections: { name: string; kind: string }[] }>(await system.run(['status']));
    expect(projections.filter(({ kind }) => kind === 'process').map(({ name }) => name)).toEqual([
      'order_to_cash/pay',
      'order_to_cash/shop',
    ]);
    const { processes } = lastJson<{ processes: object[] }>(await system.run(['process', 'list']));
    expect(processes).toEqual([{ name: 'order_to_cash', kind: 'declared' }]);
  });

  it('answers every other question over HTTP', async () => {
    const bottlenecks = await json<{ activities: { activity: string }[] }>('/order_to_cash/bottlenecks');
    expect(bottlenecks.activities.map(({ activity }) => activity)).toContain('payment captured');
    const spectrum = encodeURIComponent('payment authorised>payment captured');
    expect(await json(`/order_to_cash/spectrum?segment=${spectrum}`)).toMatchObject({ total: 2, from: 'payment authorised' });
    const { times } = await json<{ times: string[] }>('/order_to_cash/wip?buckets=3');
    expect(times).toHaveLength(4);
    expect(await json('/order_to_cash/drift?window=1h')).toMatchObject({ edges: { drifted: false } });
    expect(await json('/order_to_cash/cases?state=stuck')).toMatchObject({ cases: [] });
    expect(await json('/order_to_cash/cases?sort=longest&limit=1')).toMatchObject({
      cases: [{ case: expect.any(String) as string }],
    });
    const timeline = (await (await fetch(`${system.console}/v1/objects/payment/10/timeline`)).json()) as {
      events: { activity: string }[];
    };
    expect(timeline.events.map(({ activity }) => activity)).toEqual(['payment authorised', 'payment captured']);
    for (const [path, type] of [
      ['map', 'image/svg+xml'],
      ['wip', 'image/svg+xml'],
      [`spectrum?segment=${spectrum}`, 'image/svg+xml'],
    ] as const) {
      const picture = await get(`/order_to_cash/${path}${path.includes('?') ? '&' : '?'}format=svg`);
      expect([picture.headers.get('content-type'), (await picture.text()).startsWith('<svg')]).toEqual([
        `${type}; charset=utf-8`,
        true,
      ]);
    }
    expect((await get('/order_to_cash/spectrum?segment=nothing')).status).toBe(400);
    expect((await get('/order_to_cash/cases?state=lost')).status).toBe(400);
  });

  it('tells a broken rule to whoever looks, until somebody takes note', async () => {
    const alerts = async (query = '') =>
      (await (await fetch(`${system.console}/v1/alerts${query}`)).json()) as Record<string, unknown>[];
    await shop.query("INSERT INTO orders VALUES (12, 'new')");
    await shop.query("UPDATE orders SET status = 'cancelled' WHERE id = 12");
    const [alert] = await until('the alert', async () => {
      const raised = await alerts();
      return raised.length > 0 ? raised : null;
    });
    const id = 'process.order_to_cash.kept';
    expect(alert).toMatchObject({
      kind: 'process',
      id,
      state: 'firing',
      severity: 'critical',
      problem: '“order cancelled” happened, in 1 case',
      on: ['rule'],
    });
    expect(await json('/order_to_cash/cases?state=violated')).toMatchObject({
      cases: [{ case: '12', violations: [{ rule: 'kept' }] }],
    });
    const told = lastJson<{ alerts: object[] }>(await system.run(['alert', 'list']));
    expect(told.alerts).toMatchObject([
      { id, findings: [{ case: '12', rule: 'kept', event: { before: 'new', after: 'cancelled' } }] },
    ]);
    // Another rule, on the cases that are here.
    const body = `kind: Process${CONFIG('', '').split('kind: Process')[1]}`.replace(
      'absence: order.cancelled',
      'absence: order.paid',
    );
    const replayed = async (text: string) => {
      const headers = { 'Content-Type': 'application/yaml' };
      return (await fetch(`${system.console}/v1/processes/order_to_cash:replay`, { method: 'POST', headers, body: text })).json();
    };
    const kept = { rule: 'kept', fired: 2, cases: 2 };
    expect(await replayed(body)).toMatchObject({ fired: 2, rules: [{ ...kept, more: 2, fewer: 1 }] });
    expect(await replayed(`${body}---\n${body}`)).toMatchObject({
      against: { definition: 'given', fired: 2 },
      rules: [{ ...kept, more: 0, fewer: 0 }],
    });
    const ack = (name: string) => fetch(`${system.console}/v1/alerts/${encodeURIComponent(name)}:ack`, { method: 'POST' });
    expect([(await ack('kept')).status, (await ack('process.order_to_cash.other')).status]).toEqual([400, 404]);
    expect(await (await ack(id)).json()).toEqual({ process: 'order_to_cash', alert: 'kept', acknowledgedBy: 'local' });
    await until('it to be over', async () => (await alerts()).length === 0);
    expect(await alerts('?state=all')).toMatchObject([{ id, state: 'resolved', problem: 'kept' }]);
    expect((await system.run(['alert', 'ack', id])).code).toBe(1);
  });

  it('is defined over HTTP, beside logs that are sent', async () => {
    const yaml = { 'Content-Type': 'application/yaml' };
    const body = 'kind: Process\nname: paying\nobjects: { payment: { table: pay.payments, state: state } }\nroot: payment\n';
    const made = await fetch(`${system.console}/v1/processes/paying`, { method: 'PUT', headers: yaml, body });
    expect([made.status, await made.json()]).toEqual([201, expect.objectContaining({ process: 'paying', version: 1 })]);
    await until('its worker to have read', async () => {
      const answer = await get('/paying/map');
      return answer.ok && ((await answer.json()) as Map).activities['payment captured'] === 2;
    });
    expect(await json('/paying')).toMatchObject({ root: 'payment', document: { origin: 'api', text: body } });
    const sent = (text: string | Uint8Array, more = '') =>
      fetch(`${system.console}/v1/processes:import?name=sent&format=csv${more}`, { method: 'POST', body: text });
    const wrong = await sent('case,activity,time\n1,a,2026-01-01\n,b,2026-01-02\n');
    expect([wrong.status, ((await wrong.json()) as { detail: string }).detail]).toEqual([400, 'body:3: no case']);
    const log = 'order,activity,time\n1,a,2026-01-01\n1,b,2026-01-02\n2,a,2026-01-03\n';
    const imported = await sent(gzipSync(log), '&case=order');
    expect([imported.status, await imported.json()]).toMatchObject([201, { process: 'sent', cases: 2, events: 3 }]);
    expect((await (await get('/sent/export?format=xes')).text()).match(/<event>/g)).toHaveLength(3);
    expect(await json('')).toMatchObject([{ name: 'order_to_cash' }, { name: 'paying' }, { name: 'sent', kind: 'imported' }]);
    for (const name of ['sent', 'paying']) {
      const gone = await fetch(`${system.console}/v1/processes/${name}`, { method: 'DELETE', headers: { 'If-Match': '*' } });
      expect([name, gone.status]).toEqual([name, 204]);
    }
    await until('both to be gone', async () => (await json<object[]>('')).length === 1);
  });

  it('is proposed from what the changelogs hold', async () => {
    await shop.query(`INSERT INTO orders SELECT i, 'new' FROM generate_series(100, 119) i`);
    await pay.query(`INSERT INTO payments SELECT i, i, 'authorised' FROM generate_series(100, 119) i`);
    await pay.query('INSERT INTO refunds SELECT i, i FROM generate_series(100, 109) i');
    await shop.query(`UPDATE orders SET status = 'paid' WHERE id >= 100`);
    await caughtUp();
    const told = lastJson<{ proposals: { root: string; yaml: string }[] }>(await system.run(['process', 'discover']));
    expect(told.proposals[0]).toMatchObject({ root: 'order' });
    expect(told.proposals[0]?.yaml).toContain('state: status');
    expect(told.proposals[0]?.yaml).toContain('declared foreign key to pay.public.payments');
    // Two at once get one answer.
    const asked = await Promise.all([1, 2].map(() => fetch(`${system.console}/v1/processes:discover`, { method: 'POST' })));
    for (const answer of asked) expect(await answer.json()).toEqual({ proposals: told.proposals });
  });
});
