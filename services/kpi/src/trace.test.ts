import { Database, type Duck } from '@tributary/duckdb';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fromColumn } from './origin.ts';
import { parseSelect, type SqlNode } from './sql-tree.ts';
import { traceQuery } from './trace.ts';

const TABLES: Readonly<Record<string, readonly string[]>> = {
  orders: ['id', 'customer_id', 'qty', 'price', 'paid_at', 'address'],
  returns: ['order_id', 'qty', 'reason'],
  customers: ['id', 'country', 'tags'],
};

describe('the columns that an answer is made from', () => {
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

  /** Per column, and of what decides on rows: names of columns, and `?` with what could not be followed. */
  const traced = async (sql: string): Promise<Record<string, string>> => {
    const statement = await parseSelect(duck, sql);
    const { columns, opaque, rows } = traceQuery(statement['node'] as SqlNode, (node) => {
      const table = String(node['table_name']);
      const named = (TABLES[table] ?? []).map((name) => ({ name, origin: fromColumn(`${table}.${name}`) }));
      return { name: table, columns: named, opaque: null };
    });
    const words = ({ columns: from, unresolved }: (typeof columns)[number]['origin']) =>
      [...[...from].toSorted(), ...[...unresolved].map((why) => `? ${why}`)].join(', ');
    const told = [...columns.map(({ name, origin }) => [name, words(origin)]), ['(rows)', words(rows)]];
    return Object.fromEntries(opaque === null ? told : [...told, ['(others)', opaque]]) as Record<string, string>;
  };

  it('are followed through aliases, joins, conditions and aggregates', async () => {
    expect(
      await traced(`SELECT c.country, sum(o.qty * price) FILTER (WHERE reason IS NULL) AS gmv, count(*) AS n, gmv / n AS mean
        FROM s.orders o JOIN s.customers c ON c.id = o.customer_id LEFT JOIN s.returns r ON r.order_id = o.id
        WHERE paid_at > '2026-01-01' GROUP BY c.country HAVING sum(r.qty) < 9`),
    ).toEqual({
      country: 'customers.country',
      gmv: 'orders.price, orders.qty, returns.reason',
      n: '',
      mean: 'orders.price, orders.qty, returns.reason',
      '(rows)': 'customers.country, customers.id, orders.customer_id, orders.id, orders.paid_at, returns.order_id, returns.qty',
    });
  });

  it('are followed through subqueries, WITH, UNION and *', async () => {
    expect(
      await traced(`WITH sold AS (SELECT id, qty * price AS amount, address.city FROM s.orders WHERE price > 0),
          unread AS (SELECT reason FROM s.returns)
        SELECT * EXCLUDE (id) REPLACE (city || country AS city) FROM
          (SELECT amount, city, c.* FROM sold JOIN s.customers AS c USING (id)
           UNION ALL SELECT qty, reason, 1, reason, NULL FROM s.returns) u(amount)`),
    ).toEqual({
      amount: 'orders.price, orders.qty, returns.qty',
      city: 'customers.country, orders.address, returns.reason',
      country: 'customers.country, returns.reason',
      tags: 'customers.tags',
      '(rows)': 'customers.id, orders.id, orders.price',
    });
    // What is compared by name stands in * once: the fourth column is the first of the orders.
    expect(await traced('SELECT a, d FROM (SELECT * FROM s.customers JOIN s.orders USING (id)) t(a, b, c, d)')).toEqual({
      a: 'customers.id, orders.id',
      d: 'orders.customer_id',
      '(rows)': 'customers.id, orders.id',
    });
  });

  it('are those of a subquery with what decides on its rows, also where it reads the row around it', async () => {
    expect(
      await traced(`SELECT (SELECT max(r.qty) FROM s.returns r WHERE r.order_id = o.id) AS most FROM s.orders o
        WHERE EXISTS (FROM s.customers WHERE id = customer_id)`),
    ).toEqual({
      most: 'orders.id, returns.order_id, returns.qty',
      '(rows)': 'customers.country, customers.id, customers.tags, orders.customer_id',
    });
    expect(await traced('SELECT a, list_filter(tags, qty -> qty = c.country) AS b FROM (SELECT 1 AS a), s.customers c')).toEqual({
      a: '',
      b: 'customers.country, customers.tags',
      '(rows)': '',
    });
  });

  it('decide on rows where rows are counted once, left out or compared whole', async () => {
    expect(await traced('SELECT sum(qty) AS n FROM (SELECT DISTINCT qty, reason FROM s.returns)')).toEqual({
      n: 'returns.qty',
      '(rows)': 'returns.qty, returns.reason',
    });
    expect(await traced('SELECT id FROM s.orders EXCEPT SELECT order_id FROM s.returns')).toEqual({
      id: 'orders.id',
      '(rows)': 'orders.id, returns.order_id',
    });
    expect(await traced('SELECT id FROM s.orders SEMI JOIN s.returns ON order_id = id ORDER BY price LIMIT 3')).toEqual({
      id: 'orders.id',
      '(rows)': 'orders.id, orders.price, returns.order_id',
    });
    expect(await traced('SELECT id FROM s.orders ORDER BY price')).toMatchObject({ '(rows)': '' });
  });

  it('are said not to be known where they are not', async () => {
    const why = async (sql: string) => Object.values(await traced(sql)).filter((text) => /[?] |not/.test(text));
    expect(await traced("SELECT COLUMNS('q.*'), id FROM s.orders")).toMatchObject({
      id: 'orders.id',
      '(others)': 'columns that a pattern chooses are not followed',
    });
    expect(await why('SELECT x FROM s.orders, unnest([qty]) AS u(x)')).toEqual([
      '? x: columns of a table function are not followed',
    ]);
    expect(await why('SELECT id, count(*) AS n FROM s.orders GROUP BY ALL')).toEqual([
      '? GROUP BY ALL does not say which columns it groups by',
    ]);
    expect(await why('SELECT country FROM s.customers NATURAL JOIN s.orders')).toEqual([
      '? a NATURAL JOIN does not say which columns it compares',
    ]);
    expect(await why('WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 9) SELECT n FROM r')).toEqual([
      '? n: a recursive cte is not followed',
      '? a recursive cte is not followed',
    ]);
    expect(await why('SELECT #1 AS one, elsewhere FROM s.orders')).toEqual([
      '? a column named by its place is not followed',
      '? elsewhere: there is no column of that name to be seen',
    ]);
  });
});
