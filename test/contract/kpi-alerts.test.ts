import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memoryBroker } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { askOne, type Bus, Op, systemClock } from '@tributary/core';
import { type KpiFreshness, startKpis } from '@tributary/kpi';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { text, Written } from '../fixtures/history.ts';
import { until } from '../fixtures/wait.ts';
import { WebhookReceiver } from '../fixtures/webhook-receiver.ts';

const SECRET = `whsec_${Buffer.from('a secret of 24 bytes or more').toString('base64')}`;
const ORDERS = {
  schema: 'public',
  table: 'orders',
  identity: 'default' as const,
  columns: [text('id', 1), text('country'), text('at')],
};
const CONFIG = `kind: Source
name: shop
postgres: "postgres://u:p@nowhere/s"
---
kind: Hook
name: ops
webhook: { url: "URL", secret: "\${env:SECRET}" }
---
kind: Kpi
name: sales
from: { o: shop.public.orders }
time: { column: "o.at::TIMESTAMPTZ", grains: [hour, day] }
dimensions: { country: o.country, first: "left(o.id, 1)" }
measures: { orders: { sql: "count(*)" }, last: { sql: "max(o.id::INT)" } }
freshness: { alert_after: 36500d }
targets: [{ measure: orders, grain: hour, target: 9, warn: 8, crit: 1, check: on_close, to: [ops] }]
alerts:
  - { name: few, when: "orders(hour) < 2", by: [country], seen_within: 1d, every: 250ms, to: [ops] }
  - { name: late, when: "last(hour) > 1000", by: [country, first], every: 250ms, to: [ops] }
---
kind: Kpi
name: promised
from: { o: shop.public.orders }
measures: { orders: { sql: "count(*)" } }
freshness: { target: 1h, alert_after: 2h, to: [ops] }
alerts: [{ name: never, when: "orders < 0", every: 250ms }]
---
kind: Kpi
name: listed
sql: SELECT count(*) AS n FROM shop.orders
every: 1h
freshness: { target: 1h, to: [ops], alert_after: 1h }
`;
const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

describe('alerts of KPIs', () => {
  const closing: (() => unknown)[] = [];
  let receiver: WebhookReceiver;
  let written: Written;
  let bus: Bus;
  afterAll(async () => {
    for (const close of closing.toReversed()) await close();
  });
  /** Orders of a transaction; everything up to its time is there then. */
  const commit = (at: string, ...orders: readonly (readonly [id: string, country: string | null, at: string])[]) =>
    commitAt(Date.parse(`2026-03-${at}:00Z`), ...orders);
  const commitAt = (ms: number, ...orders: readonly (readonly [id: string, country: string | null, at: string])[]) =>
    written.stream([
      {
        lsn: BigInt(ms) * 1_000n,
        changes: orders.map(([id, country, paid]) => ({
          schema: ORDERS,
          op: Op.created,
          cells: [id, country, `2026-03-${paid}:00Z`],
        })),
      },
    ]);
  /** Letters that came of a KPI, in words. */
  const told = (kpi = 'sales') =>
    receiver.taken
      .map(({ body }) => body as { kpi: string; alert: string; state: string; dimensions?: object; values: object })
      .filter((letter) => letter.kpi === kpi)
      .map(
        ({ alert, state, dimensions, values }) =>
          `${alert} ${state} ${JSON.stringify(dimensions ?? {})} ${JSON.stringify(values)}`,
      );

  beforeAll(async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tributary-contract-alerts-'));
    closing.push(() => rm(folder, { recursive: true, force: true }));
    receiver = await WebhookReceiver.start(SECRET);
    closing.push(() => receiver.stop());
    const { configOf } = await configReading();
    const config = configOf([{ name: 'config', text: CONFIG.replace('URL', receiver.url) }], { env: { SECRET } });
    const broker = memoryBroker();
    bus = broker.bus;
    await broker.bus.serve('tributary.source.shop.barrier', async function* () {
      yield { seq: 0 };
    });
    written = new Written(await broker.changelogs.write('shop', { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), 'shop');
    // In the ten o'clock hour: three of DE, two of FR and of nowhere; none of AT, which had one before, nor of IT, long ago.
    const hour = ['DE', 'DE', 'DE', 'FR', 'FR', null, null].map((country, i) => [`${i + 10}`, country, '12T10:30'] as const);
    await commit('12T11:05', ['1', 'IT', '01T00:00'], ['2', 'AT', '12T08:00'], ...hour);
    const kpis = await startKpis(config, {
      ...broker,
      clock: systemClock,
      log: quiet,
      dataDir: folder,
      worker: 'w',
      labels: null,
      capacity: 1,
    });
    closing.push(() => kpis.stop());
  });

  it('are raised for the values they are about, also for those that have no rows any more, and targets for hours that closed', async () => {
    await until('the first letters', async () => told().length >= 2);
    expect(told().toSorted()).toEqual([
      'few firing {"country":"AT"} {"orders(hour)":0}',
      'target_orders_hour firing {} {"orders(hour)":7}',
    ]);
    const hour = ['AT', 'AT', 'AT', 'FR', 'FR', 'FR', null, null].map(
      (country, i) => [`${i + 20}`, country, '12T11:30'] as const,
    );
    await commit('12T12:05', ...hour, ['4000', 'DE', '12T11:40']);
    await until('the next letters', async () => told().length >= 6);
    expect(told().slice(2).toSorted()).toEqual([
      'few firing {"country":"DE"} {"orders(hour)":1}',
      'few resolved {"country":"AT"} {"orders(hour)":3}',
      'late firing {"country":"DE","first":"4"} {"last(hour)":4000}',
      'target_orders_hour resolved {} {"orders(hour)":9}',
    ]);
    expect(receiver.forged).toBe(0);
  });

  it('of a promise about freshness: every value says whether it is kept, and that of one that is older than alert_after is told', async () => {
    const ask = async (kpi: string, question: object = {}) =>
      (await askOne<{ freshness: KpiFreshness }>(bus, `tributary.kpi.${kpi}.values`, { ...question, reader: 'local' })).freshness;
    // The newest commit is of March.
    for (const kpi of ['promised', 'listed']) {
      await until(`the letter of ${kpi}`, async () => told(kpi).length > 0);
      expect(told(kpi)).toEqual(['freshness firing {} {}']);
      expect(await ask(kpi)).toMatchObject({ targetMs: 3_600_000, withinTarget: false });
    }
    // The rows of the short form are kept for an hour here; how old they are is told anew.
    const { lagMs, position } = await ask('listed');
    await until('it to be older', async () => (await ask('listed')).lagMs > lagMs);
    await commitAt(Date.now());
    await until('the end to be told', async () => told('promised').length > 1);
    expect(told('promised')).toEqual(['freshness firing {} {}', 'freshness resolved {} {}']);
    expect(await ask('promised')).toMatchObject({ targetMs: 3_600_000, withinTarget: true });
    expect(await ask('promised', { asOf: position })).toMatchObject({ targetMs: 3_600_000, withinTarget: null });
    expect(await ask('sales')).toMatchObject({ targetMs: null, withinTarget: null });
    const shown = await askOne(bus, 'tributary.kpi.promised.show', { reader: 'local' });
    expect(shown).toMatchObject({ freshness: { targetMs: 3_600_000, withinTarget: true } });
  });
});
