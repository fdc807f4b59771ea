import { memoryBroker } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { type Cell, Op, type TableSchema } from '@tributary/core';
import { discover, proposalYaml } from '@tributary/monitor';
import { expect, it } from 'vitest';
import { type Change, text, Written } from '../fixtures/history.ts';
import { seeded } from '../fixtures/workload.ts';

const number = (name: string, key = 0) => ({ ...text(name, key), sqlType: 'bigint' });
const time = (name: string) => ({ ...text(name), sqlType: 'timestamp with time zone' });
const table = (name: string, ...columns: TableSchema['columns'][number][]): TableSchema => ({
  schema: 'public',
  table: name,
  identity: 'default',
  columns,
});
const CUSTOMERS = table('customers', number('id', 1), text('city'));
const ORDERS = table(
  'orders',
  number('id', 1),
  number('customer_id'),
  text('status'),
  time('paid_at'),
  text('note'),
  number('total'),
);
const PAYMENTS = table('payments', number('id', 1), number('order_ref'), text('state'));
const REFUNDS = table('refunds', number('id', 1), number('payment_id'));
const PARCELS = table('parcels', number('id', 1), number('order_id'), text('status'));
const CASES = 60;

/** Customers order, pay, and are sent parcels, each in a database of its own; every id is a small number. */
async function shop() {
  const broker = memoryBroker();
  const random = seeded(7);
  const writers = new Map<string, Written>();
  for (const source of ['shop', 'pay', 'post'])
    writers.set(source, new Written(await broker.changelogs.write(source, { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), source));
  let lsn = 0n;
  const commit = async (source: string, ...changes: Change[]) => {
    lsn += 16n;
    await writers.get(source)?.stream([{ lsn, changes }]);
  };
  const made = (schema: TableSchema, ...cells: Cell[]): Change => ({ schema, op: Op.created, cells });
  const changed = (schema: TableSchema, ...cells: Cell[]): Change => ({ schema, op: Op.updated, cells });
  for (let id = 1; id <= 20; id++) await commit('shop', made(CUSTOMERS, String(id), `city ${id % 3}`));
  for (let n = 1; n <= CASES; n++) {
    const [id, customer, total] = [String(n), String(1 + Math.floor(random() * 20)), String(Math.floor(random() * 9_000))];
    const order = (status: string, paid: string | null) => [id, customer, status, paid, `note ${n}`, total];
    await commit('shop', made(ORDERS, ...order('new', null)));
    const state = n % 7 === 0 ? 'refused' : 'authorised';
    await commit('pay', made(PAYMENTS, id, id, state));
    if (n % 7 === 0) continue;
    await commit('pay', changed(PAYMENTS, id, id, 'captured'));
    await commit('shop', changed(ORDERS, ...order('paid', '2026-01-01')));
    await commit('post', made(PARCELS, id, id, 'packed'));
    await commit('post', changed(PARCELS, id, id, 'delivered'));
    await commit('shop', changed(ORDERS, ...order('done', '2026-01-01')));
    if (n % 4 === 0) await commit('pay', made(REFUNDS, id, id));
  }
  return broker;
}

it('proposes the process of three databases, with its evidence, and as YAML that is one', async () => {
  const { changelogs } = await shop();
  const proposals = await discover(changelogs, {
    sources: ['shop', 'pay', 'post'],
    references: async () => [],
    signal: new AbortController().signal,
  });
  const [best] = proposals;
  if (!best) throw new Error('nothing is proposed');
  expect(best.root).toBe('order');
  expect(best.score).toBeGreaterThan(0.5);
  const found = best.objects.map(({ name, state, milestones, links }) => ({
    name,
    state: state?.column ?? null,
    created: state?.created ?? null,
    milestones: milestones.map(({ column }) => column),
    links: links.map(({ column, parent }) => `${column} > ${parent}`),
  }));
  expect(found[0]).toEqual({ name: 'order', state: 'status', created: 'event', milestones: ['paid_at'], links: [] });
  expect(found.slice(1).toSorted((a, b) => (a.name < b.name ? -1 : 1))).toEqual([
    { name: 'parcel', state: 'status', created: 'event', milestones: [], links: ['order_id > shop.public.orders'] },
    { name: 'payment', state: 'state', created: 'state', milestones: [], links: ['order_ref > shop.public.orders'] },
    { name: 'refund', state: null, created: null, milestones: [], links: ['payment_id > pay.public.payments'] },
  ]);
  const yaml = proposalYaml(best);
  expect(yaml).toContain('100.0 % of 60 values are keys of shop.public.orders; 60 of 60 came after it');
  const sources = ['shop', 'pay', 'post']
    .map((name) => `kind: Source\nname: ${name}\npostgres: postgres://a@b/c\n---\n`)
    .join('');
  const { configOf } = await configReading();
  const [config] = configOf([{ name: 'a.yaml', text: sources + yaml }], { env: {} }).processes;
  expect(config).toMatchObject({ name: 'order_process', root: 'order' });
  expect(config?.objects.map(({ name }) => name).toSorted()).toEqual(['order', 'parcel', 'payment', 'refund']);
  expect(config?.objects.map(({ updated }) => updated)).toEqual(['none', 'none', 'none', 'none']);
});

it('takes a declared foreign key for a link, whatever its column is called, before what values show', async () => {
  const { changelogs } = await shop();
  const to = 'public.payments';
  const linksOfRefund = async (...declared: { columns: string[]; toColumns: string[] }[]) => {
    const [best] = await discover(changelogs, {
      sources: ['shop', 'pay', 'post'],
      references: async (source) => (source === 'pay' ? declared.map((one) => ({ table: 'public.refunds', to, ...one })) : []),
      signal: new AbortController().signal,
    });
    return best?.objects.find(({ name }) => name === 'refund')?.links;
  };
  expect(await linksOfRefund({ columns: ['id'], toColumns: ['id'] })).toEqual([
    {
      column: 'id',
      parent: 'pay.public.payments',
      score: 1,
      declared: true,
      evidence: 'declared foreign key to pay.public.payments; 13 of 13 came after it',
    },
  ]);
  // A link is one column, and leads to a key.
  const others = [
    { columns: ['id', 'payment_id'], toColumns: ['id', 'order_ref'] },
    { columns: ['id'], toColumns: ['order_ref'] },
  ];
  expect(await linksOfRefund(...others)).toMatchObject([{ column: 'payment_id', declared: false }]);
});

const TICKETS = table('tickets', number('id', 1), text('step'), time('at'), text('note'));

it.each([
  { others: false, updated: 'state' },
  { others: true, updated: 'none' },
])(
  'takes every update for a step only where nothing but state and times changes (others: $others)',
  async ({ others, updated }) => {
    const { changelogs } = memoryBroker();
    const desk = new Written(await changelogs.write('desk', { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), 'desk');
    let lsn = 0n;
    for (let n = 1; n <= 20; n++) {
      for (const [i, step] of ['open', 'waiting', 'waiting', 'closed'].entries()) {
        const note = others && i === 2 ? 'called' : 'none';
        const cells = [String(n), step, `2026-01-0${i + 1}`, note];
        await desk.stream([{ lsn: (lsn += 16n), changes: [{ schema: TICKETS, op: i === 0 ? Op.created : Op.updated, cells }] }]);
      }
    }
    const [best] = await discover(changelogs, {
      sources: ['desk'],
      references: async () => [],
      signal: new AbortController().signal,
    });
    expect(best?.objects[0]?.state).toMatchObject({ column: 'step', updated, created: updated === 'state' ? 'state' : 'event' });
    expect(proposalYaml(best as NonNullable<typeof best>).includes('updated: state')).toBe(updated === 'state');
  },
);
