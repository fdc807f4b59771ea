import { configReading } from '@tributary/config';
import { Database, type Duck } from '@tributary/duckdb';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Origin } from './origin.ts';
import { Upstream } from './upstream.ts';

const SOURCES = ['shop_1', 'shop_2', 'crm'].map((name) => `kind: Source\nname: ${name}\npostgres: "postgres://u:p@h/d"\n`);

describe('the columns that a transform makes its own from', () => {
  let database: Database;
  let duck: Duck;
  beforeAll(async () => {
    database = await Database.open({ path: ':memory:', memoryBytes: 2 ** 27, threads: 1, spillDir: '' });
    duck = await database.connect();
  });
  afterAll(() => {
    duck.close();
    database.close();
  });

  /** @param steps of the transform `t`, as YAML in one line */
  const upstream = async (steps: string, from = '[crm.public.orders]', others: readonly string[] = []): Promise<Upstream> => {
    const { configOf } = await configReading();
    const text = [...SOURCES, `kind: Transform\nname: t\nfrom: ${from}\nsteps: ${steps}\n`, ...others].join('---\n');
    return new Upstream(configOf([{ name: 'config', text }], { env: {} }), duck);
  };
  const words = ({ columns, unresolved }: Origin) => [...[...columns].toSorted(), ...[...unresolved].map((why) => `? ${why}`)];
  const columnOf = async (one: Upstream, name: string, table = 'public.orders', source = 't') =>
    words(await one.column({ source, table }, name));
  const orders = (...names: string[]) => names.map((name) => `crm.public.orders.${name}`);

  it('are followed backwards through names that steps give, hide and take apart', async () => {
    const one = await upstream(`[{ rename: { qty: pieces, note: qty } }, { cast: { pieces: integer } }, { drop: [spare] },
      { mask: { email: hash, phone: 'null' } }, { flatten: { doc: { city: address.city } } }, { set: { total: pieces * price } },
      { set: { price: total + tax } }, { set: { total: "0" } }]`);
    for (const [name, columns] of [
      ['id', ['id']],
      ['pieces', ['qty']],
      ['qty', ['note']],
      ['email', ['email']],
      ['phone', []],
      ['city', ['doc']],
      ['doc', ['doc']],
      ['price', ['price', 'qty', 'tax']],
      ['total', []],
    ] as const)
      expect(await columnOf(one, name), name).toEqual(orders(...columns));
    expect(await columnOf(one, 'note', 'public.orders', 'crm')).toEqual(orders('note'));
    expect(words(await one.rows({ source: 't', table: 'public.orders' }))).toEqual([]);
  });

  it('are those of a condition and of the row before, where a column is set under one', async () => {
    const one = await upstream(`[{ set: { vip: "'yes'", total: "total * 2" }, when: "Country = 'DE' AND \\"Since\\" < 2000" }]`);
    expect(await columnOf(one, 'total')).toEqual(orders('Since', 'country', 'total'));
    expect(await columnOf(one, 'vip')).toEqual([
      ...orders('Since', 'country'),
      '? transform t, step 1, column vip: where its condition does not hold, it is what it was before; perhaps crm.public.orders.vip',
    ]);
  });

  it('are followed into a table that is looked up, with what finds its row', async () => {
    const one = await upstream(`[{ rename: { customer: buyer } },
      { lookup: { table: shop_1.public.people, on: { id: "buyer::int" }, set: { land: country } } }, { set: { place: "land || city" } }]`);
    const looked = [...orders('customer'), 'shop_1.public.people.country', 'shop_1.public.people.id'];
    expect(await columnOf(one, 'land')).toEqual(looked);
    expect(await columnOf(one, 'place')).toEqual([...orders('city'), ...looked].toSorted());
    expect(await columnOf(one, 'country')).toEqual(orders('country'));
  });

  it('are those of every table whose rows go to it, also behind another transform', async () => {
    const last = `kind: Transform\nname: last\nfrom: [t.public.sales]\nsteps: [{ filter: "paid > 0" }, { rename: { paid: gmv } }]\n`;
    const one = await upstream(
      '[{ filter: "qty > 0 AND NOT test" }, { set: { paid: qty * price } }]\nto: public.sales',
      '["shop_*.public.orders"]',
      [last],
    );
    const both = (...names: string[]) =>
      ['shop_1', 'shop_2'].flatMap((shop) => names.map((name) => `${shop}.public.orders.${name}`));
    expect(await columnOf(one, 'gmv', 'public.sales', 'last')).toEqual(both('price', 'qty'));
    expect(words(await one.rows({ source: 't', table: 'public.sales' }))).toEqual(both('qty', 'test'));
    expect(words(await one.rows({ source: 'last', table: 'public.sales' }))).toEqual(both('price', 'qty', 'test'));
    const shards = await upstream(
      '[{ set: { shard: "source || id" } }, { rename: { origin: source } }, { set: { old: source } }]',
    );
    expect(await columnOf(shards, 'shard')).toEqual(orders('id'));
    expect(await columnOf(shards, 'old')).toEqual(orders('origin'));
    const every = await upstream('[]', '["shop_*.*"]');
    expect(await columnOf(every, 'id', 'public.people')).toEqual(['shop_1.public.people.id', 'shop_2.public.people.id']);
  });

  it('decide on rows where they route them', async () => {
    const one = await upstream('[{ set: { big: total > 9 } }, { route: { a.large: big, a.small: "NOT big AND ok" } }]');
    expect(await columnOf(one, 'id', 'a.small')).toEqual(orders('id'));
    expect(words(await one.rows({ source: 't', table: 'a.small' }))).toEqual(orders('ok', 'total'));
    const split = await upstream('[{ split: { a.heads: [id, day], a.rest: [id, note] } }]');
    expect(await columnOf(split, 'note', 'a.rest')).toEqual(orders('note'));
    expect(words(await split.rows({ source: 't', table: 'a.rest' }))).toEqual([]);
  });

  it('are said not to be known where code makes them, or tables are not named', async () => {
    const module = 'kind: Module\nname: tax.ts\ncode: "export default 1"\n';
    const one = await upstream('[{ rename: { net: sum } }, { module: ./tax.ts }]', '[crm.public.orders]', [module]);
    expect(await columnOf(one, 'sum')).toEqual([
      '? transform t, step 2, column sum: what ./tax.ts makes is not followed; perhaps crm.public.orders.net',
    ]);
    expect(words(await one.rows({ source: 't', table: 'public.orders' }))).toEqual([
      '? transform t, step 2: which rows ./tax.ts lets pass is not followed',
    ]);
    const any = await upstream('[]\nto: public.sales', '["crm.*"]');
    expect(await columnOf(any, 'id', 'public.sales')).toEqual([
      '? transform t reads crm.*: which tables these are is not followed',
    ]);
  });
});
