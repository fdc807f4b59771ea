import { type Config, configReading } from '@tributary/config';
import { askOne, askUntil } from '@tributary/core';
import type { Session } from '@tributary/postgres';
import { barrier } from '../cluster.ts';
import type { World } from './world.ts';

export const SOURCES = ['shop', 'payments', 'logistics'] as const;
export type Source = (typeof SOURCES)[number];

/** With `allowed` and `sla` these are ten rules. Commits of three databases of one server need no skew. */
const PROCESS = `kind: Process
name: flow
objects:
  order:   { table: shop.orders, key: id, state: status }
  payment: { table: payments.payments, key: id, state: state, of: { order: order_ref } }
  parcel:  { table: logistics.parcels, key: id, state: status, of: { order: order_id } }
root: order
done: "all(parcel.status IN ('delivered','returned')) AND count(parcel) > 0"
skew: 0ms
allowed: { order: ">new; new>paid|cancelled; paid>packed; packed>done" }
rules:
  - { name: pay_before_ship, precedence: [payment.captured, parcel.handed_over], severity: critical }
  - { name: ship_in_24h, response: [payment.captured, parcel.handed_over], within: 24h }
  - { name: arrives, response: [parcel.handed_over, parcel.delivered], within: 120h }
  - { name: no_late_refund, not_response: [parcel.delivered, payment.refunded], after: 30d }
  - { name: nothing_lost, absence: parcel.lost }
  - { name: paid, existence: payment.captured, within: 24h }
  - { name: begins, init: order.created }
  - { name: not_both, not_coexistence: [order.cancelled, parcel.delivered] }
sla: { cycle: { target: 3d, warn_at: 0.8 } }
`;
const TABLES: Readonly<Record<Source, string>> = {
  shop: 'CREATE TABLE public.orders (id bigint PRIMARY KEY, status text NOT NULL)',
  payments: 'CREATE TABLE public.payments (id bigint PRIMARY KEY, state text NOT NULL, order_ref bigint NOT NULL)',
  logistics: 'CREATE TABLE public.parcels (id bigint PRIMARY KEY, status text NOT NULL, order_id bigint NOT NULL)',
};

/** One case is ten events over three databases; so many rounds behind its first, and always in this order. */
const STEPS: readonly { readonly after: number; readonly source: Source; readonly sql: (ids: string) => string }[] = [
  { after: 0, source: 'shop', sql: (ids) => `INSERT INTO public.orders SELECT id, 'new' FROM ${ids}` },
  { after: 1, source: 'payments', sql: (ids) => `INSERT INTO public.payments SELECT id, 'authorized', id FROM ${ids}` },
  { after: 2, source: 'payments', sql: (ids) => change('payments', `state = 'captured'`, ids) },
  { after: 2, source: 'shop', sql: (ids) => change('orders', `status = 'paid'`, ids) },
  { after: 3, source: 'logistics', sql: (ids) => `INSERT INTO public.parcels SELECT id, 'packed', id FROM ${ids}` },
  // One in a thousand goes back.
  {
    after: 3,
    source: 'shop',
    sql: (ids) => change('orders', `status = CASE WHEN t.id % ${BROKEN_ONE_IN} = 0 THEN 'new' ELSE 'packed' END`, ids),
  },
  { after: 4, source: 'logistics', sql: (ids) => change('parcels', `status = 'handed_over'`, ids) },
  { after: 5, source: 'logistics', sql: (ids) => change('parcels', `status = 'in_transit'`, ids) },
  { after: 6, source: 'logistics', sql: (ids) => change('parcels', `status = 'delivered'`, ids) },
  { after: 7, source: 'shop', sql: (ids) => change('orders', `status = 'done'`, ids) },
];
export const EVENTS_A_CASE = STEPS.length;
/** Steps of a case that stays open. */
export const OPEN_STEPS = 4;
export const BROKEN_ONE_IN = 1_000;
/** Rows of one transaction. */
const CHUNK = 500;

function change(table: string, set: string, ids: string): string {
  return `UPDATE public.${table} t SET ${set} FROM ${ids} WHERE t.id = i.id`;
}

export const far = () => Date.now() + 3_600_000;

/** The process over the three databases of a world. @param more further keys of the process, and documents behind it, as YAML */
export async function configOf(world: World, more = ''): Promise<Config> {
  const { configOf: read } = await configReading();
  const documents = SOURCES.map((name) => `kind: Source\nname: ${name}\npostgres: postgres://a@b/c\n---\n`).join('');
  const { processes, hooks } = read([{ name: 'bench', text: documents + PROCESS + more }], { env: {} });
  const config = world.config([]);
  const [source] = config.sources;
  if (!source) throw new Error('the world has no source');
  const sources = SOURCES.map((name) => ({ ...source, name, postgres: world.connection(name), snapshot: 'none' as const }));
  return { ...config, sources, processes, hooks };
}

/** Cases side by side, each step of a chunk one transaction, in the order in which they would happen. */
export async function rounds(
  sessions: ReadonlyMap<Source, Session>,
  { first, cases, steps }: { first: number; cases: number; steps: number },
): Promise<void> {
  const chunks = Math.ceil(cases / CHUNK);
  const own = STEPS.slice(0, steps);
  const last = Math.max(...own.map(({ after }) => after));
  for (let round = 0; round < chunks + last; round++)
    for (const { after, source, sql } of own) {
      const chunk = round - after;
      if (chunk < 0 || chunk >= chunks) continue;
      const from = first + chunk * CHUNK;
      const to = Math.min(first + cases, from + CHUNK) - 1;
      await sessions.get(source)?.run(sql(`generate_series(${from}, ${to}) i(id)`));
    }
}

/** Everything that was committed is in the process. */
export async function reached(world: World): Promise<void> {
  for (const source of SOURCES) {
    await barrier(world.broker.bus, source, far());
    const seq = (await world.broker.changelogs.last(source))?.seq ?? 0;
    await askUntil(world.broker.bus, `tributary.projection.flow.${source}.reached`, { seq }, far());
  }
}

export function ask<Answer>({ broker }: World, question: object): Promise<Answer> {
  return askOne<Answer>(broker.bus, 'tributary.process.flow.ask', question, { idleMs: 600_000 });
}

/** Tables are there, and what is written from now on is in the changelogs. */
export async function begin(world: World): Promise<ReadonlyMap<Source, Session>> {
  const sessions = new Map<Source, Session>();
  for (const source of SOURCES) {
    const session = await world.session(source);
    await session.run(TABLES[source]);
    sessions.set(source, session);
  }
  return sessions;
}
