import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { changesOf, memoryBroker } from '@tributary/changelog';
import { configReading, type KpiTest } from '@tributary/config';
import { Op, ORIGIN } from '@tributary/core';
import { testKpi } from '@tributary/kpi';
import { describe, expect, it } from 'vitest';
import { text, Written } from '../fixtures/history.ts';

const SALES = `kind: Kpi
name: sales
from:
  o: shop.public.orders
  c: { table: crm.customers, on: "c.id = o.customer_id", as: dimension }
time: { column: o.paid_at, zone: Europe/Berlin, grains: [day, month] }
dimensions: { country: c.country }
measures:
  gmv: { sql: "sum(o.amount)" }
  orders: { sql: "count(DISTINCT o.id)" }
  aov: { derived: "gmv / orders" }
`;
const order = (id: number, customer: number, amount: string, paid: string) => ({
  source: 'shop',
  table: 'orders',
  key: { id },
  after: { id, customer_id: customer, amount, paid_at: paid },
});
const FIXTURE = [
  {
    source: 'shop',
    table: 'orders',
    types: { id: 'bigint', customer_id: 'int', amount: 'numeric(12,2)', paid_at: 'timestamptz' },
  },
  { source: 'crm', table: 'customers', types: { id: 'int', country: 'text' } },
  {
    source: 'crm',
    table: 'customers',
    op: 'c',
    key: { id: 1 },
    after: { id: 1, country: 'DE' },
    committedAt: '2026-10-31T08:00:00Z',
  },
  { op: 'c', ...order(1, 1, '100.10', '2026-10-31 10:00:00+01'), lsn: '0/10', committedAt: '2026-10-31T09:00:00.000001Z' },
  { op: 'c', ...order(2, 1, '19.90', '2026-10-31 23:30:00+01'), lsn: '0/10', committedAt: '2026-10-31T09:00:00.000001Z' },
  { op: 'c', ...order(3, 2, '5', '2026-11-01 00:30:00+01'), committedAt: '2026-11-01T00:00:00Z' },
  // A return, another customer, and an order that never was.
  { op: 'u', ...order(1, 1, '80.10', '2026-10-31 10:00:00+01'), committedAt: '2026-11-02T00:00:00Z' },
  {
    source: 'crm',
    table: 'customers',
    op: 'c',
    key: { id: 2 },
    after: { id: 2, country: 'FR' },
    committedAt: '2026-11-02T01:00:00Z',
  },
  { source: 'shop', table: 'orders', op: 'd', key: { id: 2 }, committedAt: '2026-11-02T02:00:00Z' },
]
  .map((line) => JSON.stringify(line))
  .join('\n');

describe('tests of a definition', () => {
  const definition = async (yaml: string) => {
    const { kpisOf } = await configReading();
    const [config] = kpisOf({ name: 'sales.yaml', text: yaml }, ['shop', 'crm', 's']);
    if (!config) throw new Error('no Kpi');
    return config;
  };
  const run = async (test: Partial<KpiTest> & Pick<KpiTest, 'expect'>, { yaml = SALES, fixture = FIXTURE } = {}) =>
    testKpi(await definition(yaml), { fixture: 'returns.ndjson', at: null, grain: null, ...test }, fixture);

  it('run a fixture through the engine, up to a time', async () => {
    const at = Date.parse('2026-11-01T12:00:00Z') * 1_000;
    const before = [
      { bucket: '2026-10-31', country: 'DE', gmv: 120, orders: 2, aov: 60 },
      { bucket: '2026-11-01', country: null, gmv: 5, orders: 1 },
    ];
    expect(await run({ at, expect: before })).toEqual([]);
    // Only what is named counts, and every row that is not as expected is told.
    const later = [
      { bucket: '2026-10', country: 'DE', gmv: 80.1, orders: 2 },
      { bucket: '2026-11', country: 'AT', gmv: 5 },
    ];
    const november = { bucket: '2026-11-01T00:00:00+01:00', country: 'FR' };
    expect(await run({ grain: 'month', expect: later })).toEqual([
      { row: { bucket: '2026-10', country: 'DE' }, expected: { orders: 2 }, actual: { orders: 1 } },
      { row: { bucket: '2026-11', country: 'AT' }, expected: later[1], actual: null },
      { row: november, expected: null, actual: { ...november, gmv: 5, orders: 1, aov: 5 } },
    ]);
  });

  it('say what keeps them from being run', async () => {
    await expect(run({ expect: [] }, { fixture: `${FIXTURE}\n{"source":"shop"}` })).rejects.toThrow(
      'returns.ndjson:10: expected',
    );
    await expect(run({ expect: [] }, { fixture: FIXTURE.replace('"op":"u"', '"op":"x"') })).rejects.toThrow(
      'returns.ndjson:7: "op" is c, u, d, r or t, not "x"',
    );
    await expect(run({ expect: [] }, { yaml: SALES.replace('o.amount', 'o.amont') })).rejects.toThrow(/sales.yaml:9:10: .*amont/);
  });

  it('take what tail prints', async () => {
    const { changelogs } = memoryBroker();
    const written = new Written(await changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), 's');
    const K = { schema: 'public', table: 'k', identity: 'default' as const, columns: [text('id', 1), text('v'), text('big')] };
    await written.snapshot({ schema: K, rows: [['0', 'a', 'old']] }, 1);
    await written.stream([
      {
        lsn: 16n,
        changes: [
          { schema: K, op: Op.created, cells: ['1', 'a', 'long'] },
          { schema: K, op: Op.created, cells: ['2', null, 'x'] },
          { schema: K, op: Op.updated, cells: ['1', 'b', undefined] },
          { schema: K, op: Op.updated, cells: ['3', 'b', 'x'], old: ['2', undefined, undefined] },
          { schema: K, op: Op.deleted, cells: ['0', undefined, undefined] },
        ],
      },
    ]);
    const lines: string[] = [];
    const end = new AbortController();
    for await (const batch of changelogs.read('s', { after: ORIGIN, signal: end.signal })) {
      for (const change of changesOf(batch)) lines.push(JSON.stringify(change));
      if (batch.seq === written.seq) break;
    }
    expect(lines).toHaveLength(6);
    const yaml = `kind: Kpi\nname: k\nsql: SELECT v, count(*) AS n, min(big) AS big FROM s.k GROUP BY v\n`;
    expect(await run({ expect: [{ v: 'b', n: 2, big: 'long' }] }, { yaml, fixture: lines.join('\n') })).toEqual([]);
  });

  it('are read from files with their places', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tributary-contract-fixtures-'));
    try {
      const file = join(folder, 'kpis.yaml');
      const { testedKpis } = await configReading();
      const read = async (tests: string) => {
        await writeFile(file, `kind: Source\nname: shop\npostgres: "\${env:NOT_SET}"\n---\n${SALES}tests:\n  - ${tests}\n`);
        return testedKpis([file]);
      };
      const [found] = await read(`{ fixture: f.ndjson, at: 2026-11-01T00:00:00Z, expect: [{ country: DE, gmv: 120.00 }] }`);
      expect(found?.tests).toEqual([
        {
          fixture: 'f.ndjson',
          at: Date.parse('2026-11-01T00:00:00Z') * 1_000,
          grain: null,
          expect: [{ country: 'DE', gmv: 120 }],
        },
      ]);
      await expect(read('{ fixture: f.ndjson, expect: [{ gmw: 1 }] }')).rejects.toThrow(
        /kpis.yaml:17:37: .*there is no measure or dimension gmw/,
      );
      await expect(read('{ fixture: f.ndjson, grain: week, expect: [] }')).rejects.toThrow(
        /kpis.yaml:17:26: .*week is not among/,
      );
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
