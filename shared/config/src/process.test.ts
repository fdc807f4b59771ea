import { describe, expect, it } from 'vitest';
import { holdsSecret } from './documents.ts';
import { configOf } from './load.ts';

const SOURCES =
  'kind: Source\nname: shop\npostgres: postgres://a@b/c\n---\nkind: Source\nname: pay\npostgres: postgres://a@b/d\n---\n';
const START = SOURCES.split('\n').length - 1;

function processOf(text: string) {
  const [one] = configOf([{ name: 'a.yaml', text: SOURCES + text }], { env: {} }).processes;
  if (!one) throw new Error('there is no process');
  return one;
}

/** Complaints, with lines counted from the beginning of the process. */
function complaints(text: string): string {
  try {
    processOf(text);
    return '';
  } catch (error) {
    return (error as Error).message.replaceAll(/a\.yaml:(\d+)/g, (_, line: string) => `a.yaml:${Number(line) - START}`);
  }
}

const process = (objects: string, rest = '') => `kind: Process\nname: flow\nroot: order\nobjects:\n${objects}${rest}`;
const ORDER = '  order: { table: shop.orders, key: id, state: status, milestones: [paid_at] }\n';

describe('kind: Process', () => {
  it('puts parents before children, and tables where they are', () => {
    const text = process(
      `  refund: { table: pay.public.refunds, of: { payment: payment_id } }\n  payment: { table: pay.acc.payments, of: { order: ref }, created: state }\n${ORDER}  item: { table: shop.items, of: { order: order_id } }\n`,
      'events: [{ name: place, when: order.insert, with: [item.insert, audit.insert] }]\n',
    );
    const { objects, activities } = processOf(text);
    expect(objects.map(({ name, source, table }) => [name, source, table])).toEqual([
      ['order', 'shop', 'public.orders'],
      ['item', 'shop', 'public.items'],
      ['payment', 'pay', 'acc.payments'],
      ['refund', 'pay', 'public.refunds'],
    ]);
    expect(objects[0]).toMatchObject({ key: ['id'], state: 'status', milestones: ['paid_at'], of: [], created: 'event' });
    expect(activities).toEqual([
      {
        name: 'place',
        when: { object: 'order', what: 'insert', table: false },
        with: [
          { object: 'item', what: 'insert', table: false },
          { object: 'public.audit', what: 'insert', table: true },
        ],
      },
    ]);
  });

  it.each([
    ['a root that is not there', process('  parcel: { table: shop.parcels }\n'), 'a.yaml:3:1: "root": there is no object order'],
    ['an unknown key', process(ORDER.replace('state:', 'status:')), 'a.yaml:5:41: unknown key "objects.order.status"'],
    [
      'a source that is not there',
      process('  order: { table: crm.orders }\n'),
      'a.yaml:5:12: "objects.order.table": there is no source crm',
    ],
    [
      'a parent that is not there',
      process(`${ORDER}  item: { table: shop.items, of: { cart: id } }\n`),
      'a.yaml:6:36: "objects.item.of.cart": there is no object cart',
    ],
    ['an object apart', process(`${ORDER}  item: { table: shop.items }\n`), 'no "of" leads from item to the root order'],
    ['a table of two', process(`${ORDER}  item: { table: shop.orders, of: { order: id } }\n`), 'is the table of order already'],
    [
      'a circle',
      process(`${ORDER}  a: { table: shop.a, of: { b: id } }\n  b: { table: shop.b, of: { a: id } }\n`),
      'a belongs to itself, by way of other objects',
    ],
    [
      'a transaction of two databases',
      process(
        `${ORDER}  pay: { table: pay.p, of: { order: id } }\n`,
        'events: [{ name: x, when: order.insert, with: [pay.insert] }]\n',
      ),
      'pay and order are in two databases',
    ],
    ['the name of a sink', process(ORDER, '---\nkind: Sink\nname: flow\ntype: lake\n'), '"name": a sink is called flow already'],
  ])('refuses %s', (_, text, complaint) => {
    expect(complaints(text)).toContain(complaint);
  });

  it('says what it should look like', () => {
    const text = process(
      `${ORDER}  parcel: { table: pay.parcels, state: state, of: { order: order_id } }\n`,
      `done: "all(parcel.state IN ('delivered', 'it''s back')) AND count(parcel) > 0"
allowed: { order: ">new; new>paid|cancelled" }
rules:
  - { name: pay_first, precedence: [order.paid_at, parcel.insert], severity: critical }
  - { name: complete, condition: "order.status = 'paid' or not any(parcel.state != 'lost')", at: parcel.delivered }
  - { name: no_late, not_response: [parcel.delivered, order.cancelled], after: 30d }
sla: { cycle: { target: 3d, warn_at: 0.8 }, stage: { order.paid: 6h } }
`,
    );
    const parcels = (states: readonly string[], within = true) => ({ object: 'parcel', states, within });
    expect(processOf(text).conformance).toEqual({
      start: { object: 'order', what: 'created' },
      done: {
        kind: 'and',
        of: [
          { kind: 'all', objects: parcels(['delivered', "it's back"]) },
          { kind: 'count', objects: { object: 'parcel', states: null, within: true }, operator: '>', value: 0 },
        ],
      },
      skewMs: 250,
      concurrentMs: 0,
      allowed: [
        {
          object: 'order',
          transitions: [
            [null, 'new'],
            ['new', 'paid'],
            ['new', 'cancelled'],
          ],
        },
      ],
      learned: null,
      rules: [
        {
          name: 'pay_first',
          severity: 'critical',
          constraint: {
            kind: 'precedence',
            events: [
              { object: 'order', what: 'paid_at' },
              { object: 'parcel', what: 'created' },
            ],
            withinMs: null,
          },
        },
        {
          name: 'complete',
          severity: 'warning',
          constraint: {
            kind: 'condition',
            at: { object: 'parcel', what: 'delivered' },
            condition: {
              kind: 'or',
              of: [
                { kind: 'any', objects: { object: 'order', states: ['paid'], within: true } },
                { kind: 'not', of: { kind: 'any', objects: parcels(['lost'], false) } },
              ],
            },
          },
        },
        {
          name: 'no_late',
          severity: 'warning',
          constraint: {
            kind: 'not_response',
            events: [
              { object: 'parcel', what: 'delivered' },
              { object: 'order', what: 'cancelled' },
            ],
            withinMs: null,
            afterMs: 30 * 86_400_000,
          },
        },
      ],
      cycle: { from: null, to: null, targetMs: 3 * 86_400_000, warnAt: 0.8 },
      stages: [{ object: 'order', state: 'paid', limitMs: 6 * 3_600_000 }],
    });
  });

  it.each([
    ['a transition that is none', 'allowed: { order: "new-paid" }', '"allowed.order": "new-paid" is no transition'],
    ['transitions of what has no state', 'allowed: { item: "a>b" }', '"allowed.item": there is no object item with a state'],
    ['a condition that ends', 'done: "count(order) >"', '"done": character 15: expected a whole number; there is nothing more'],
    ['another column than the state', `done: "all(order.total = '1')"`, '"done": character 5: expected order.status'],
    ['two constraints', 'rules: [{ name: x, init: order.new, absence: order.paid }]', '"rules.0": a rule has exactly one of'],
    [
      'a time where none counts',
      'rules: [{ name: x, init: order.new, within: 1h }]',
      '"rules.0.within": "init" takes no "within"',
    ],
    ['an event of nothing', 'rules: [{ name: x, init: cart.new }]', '"rules.0.init": there is no event cart.new'],
    [
      'two rules of one name',
      'rules: [{ name: x, init: order.new }, { name: x, absence: order.lost }]',
      '"rules.1.name": there are two',
    ],
    ['a target without an end', 'sla: { cycle: { target: 3d } }', '"sla.cycle": say when a case is done'],
    ['a target without a time', 'sla: { cycle: { to: order.paid } }', '"sla.cycle.target": expected a duration'],
  ])('refuses %s', (_, text, complaint) => {
    expect(complaints(process(ORDER, `${text}\n`))).toContain(complaint);
  });

  it('says what it is watched for, and whom that is told', () => {
    const hook =
      '---\nkind: Hook\nname: ops\nwebhook: { url: "https://ops.example/x", secret: "a text of more than 24 bytes" }\n';
    const text = process(
      ORDER,
      `allowed: { learned: { until: 2026-01-31, min_share: 0.01 } }
stuck: { quantile: 0.99 }
drift: { window: 1d }
alerts: [{ on: [rule, drift], to: [ops], group_by: case, renotify: 4h }, { on: [stuck] }]
${hook}`,
    );
    expect(processOf(text).conformance.learned).toEqual({ untilMs: Date.UTC(2026, 0, 31), minShare: 0.01 });
    expect(processOf(text).watch).toEqual({
      usual: { quantile: 0.99, casesMin: 200 },
      drift: { windowMs: 86_400_000, againstMs: 28 * 86_400_000, alpha: 0.001 },
      alerts: [
        { on: ['rule', 'drift'], to: ['ops'], groupBy: 'case', renotifyMs: 4 * 3_600_000 },
        { on: ['stuck'], to: [], groupBy: 'rule', renotifyMs: null },
      ],
    });
    expect(processOf(process(ORDER)).watch).toEqual({ usual: { quantile: 0.995, casesMin: 200 }, drift: null, alerts: [] });
  });

  it.each([
    ['alerts of nothing', 'alerts: [{ on: [], to: [] }]', '"alerts.0.on": expected what it is about'],
    [
      'alerts of what is none',
      'alerts: [{ on: [lost] }]',
      '"alerts.0.on.0": expected some of rule, sla, stuck, missing, silent, drift',
    ],
    ['a hook that is not there', 'alerts: [{ on: [rule], to: [ops] }]', 'a.yaml:6:24: "alerts.0.to": there is no Hook ops'],
    ['drift that is not said', 'alerts: [{ on: [drift] }]', '"alerts.0.on": say what drift is'],
    ['too few to learn from', 'stuck: { min_cases: 2 }', '"stuck.min_cases": expected at least 10'],
    ['a date that is none', 'allowed: { learned: { until: soon } }', '"allowed.learned'],
    ['learned transitions of one type', 'allowed: { order: { until: 2026-01-31 } }', '"allowed.order": expected transitions'],
  ])('refuses %s', (_, text, complaint) => {
    expect(complaints(process(ORDER, `${text}\n`))).toContain(complaint);
  });

  it('holds no secret: its keys are columns', () => {
    expect(holdsSecret([{ name: 'a.yaml', text: process(ORDER) }])).toBe(false);
  });
});
