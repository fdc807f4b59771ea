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
    ['what is not built', process(ORDER, 'sla: {}\n'), 'a.yaml:6:1: "sla" of a Process is not built yet'],
    ['the name of a sink', process(ORDER, '---\nkind: Sink\nname: flow\ntype: lake\n'), '"name": a sink is called flow already'],
  ])('refuses %s', (_, text, complaint) => {
    expect(complaints(text)).toContain(complaint);
  });

  it('holds no secret: its keys are columns', () => {
    expect(holdsSecret([{ name: 'a.yaml', text: process(ORDER) }])).toBe(false);
  });
});
