import type { ContractConfig, SourceConfig } from '@tributary/config';
import { Fault, type TableSchema } from '@tributary/core';
import type { CatalogTable } from '@tributary/postgres';
import { describe, expect, it } from 'vitest';
import { breachesOf, Contract, type Offered } from './contract.ts';
import { type ContractAlert, ContractAlerts } from './contract-alerts.ts';

const promised = { key: ['id'], columns: { id: 'bigint', total: 'numeric(12,2)', note: 'text' } };
const contract: ContractConfig = { owner: 'Team Shop', tables: { 'public.orders': promised } };

function offered(columns: Record<string, string>, key: readonly string[] = ['id'], keyed = key.length > 0): Offered {
  return { columns: Object.entries(columns).map(([name, sqlType]) => ({ name, sqlType })), key, keyed };
}
const whole = { id: 'bigint', total: 'numeric(12,2)', note: 'text' };
const found = (table: Offered | null, promise = promised) =>
  breachesOf('public.orders', promise, table).map(({ problem, bearable }) => `${problem}${bearable ? '' : ' !'}`);

describe('a table keeps its contract', () => {
  it.each<[string, Offered]>([
    ['as it was promised', offered(whole)],
    ['with more columns', offered({ ...whole, extra: 'jsonb' })],
    ['in another order', offered({ note: 'text', total: 'numeric(12,2)', id: 'bigint' })],
    ['with narrower types', offered({ id: 'integer', total: 'numeric(8,2)', note: 'character varying(20)' })],
  ])('%s', (_, table) => {
    expect(found(table)).toEqual([]);
  });

  it('with any key, where none was promised', () => {
    const promise = { ...promised, key: [] };
    expect(found(offered(whole, []), promise)).toEqual([]);
    expect(found(offered(whole, ['id', 'note']), promise)).toEqual([]);
  });
});

describe('a table breaks its contract', () => {
  it.each<[string, Offered | null, string[]]>([
    ['gone', null, ['the table is gone']],
    ['a column is dropped', offered({ id: 'bigint', note: 'text' }), ['column total is gone']],
    ['a column is renamed', offered({ id: 'bigint', sum: 'numeric(12,2)', note: 'text' }), ['column total is gone']],
    ['a type holds more', offered({ ...whole, total: 'numeric' }), ['column total is numeric instead of numeric(12,2)']],
    ['the key is dropped', offered(whole, []), ['the key (id) is gone !']],
    ['the key is wider', offered(whole, ['id', 'note']), ['the key (id) is (id, note) !']],
    ['a key column is of another type', offered({ ...whole, id: 'text' }), ['column id is text instead of bigint !']],
    ['a column of a table without key', offered({ id: 'bigint', note: 'text' }, ['id'], false), ['column total is gone !']],
  ])('%s', (_, table, problems) => {
    expect(found(table)).toEqual(problems);
  });
});

const text = { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' } as const;

function schemaOf(columns: Record<string, string>, key = ['id']): TableSchema {
  return {
    schema: 'public',
    table: 'orders',
    identity: 'default',
    columns: Object.entries(columns).map(([name, sqlType]) => ({
      name,
      sqlType,
      type: text,
      typmod: -1,
      key: key.indexOf(name) + 1,
    })),
  };
}
function catalog(columns: Record<string, string>, key = ['id']): CatalogTable {
  return { ...offered(columns, key), identifiable: key.length > 0 } as unknown as CatalogTable;
}

function contractOf(schemaChanges: SourceConfig['schemaChanges']) {
  const told: ContractAlert[] = [];
  let now = 1_000;
  const clock = { now: () => now++, monotonic: () => 0, sleep: async () => {} };
  const alerts = new ContractAlerts(clock, (alert) => told.push(alert));
  const typeNamed = async (name: string) => ({ ...text, name });
  return { told, alerts, made: new Contract({ config: { name: 'shop', contract, schemaChanges }, alerts, typeNamed }) };
}

describe('what is done about it', () => {
  const dropped = { id: 'bigint', note: 'text' };
  const look = (policy: SourceConfig['schemaChanges'], table: CatalogTable | null) =>
    contractOf(policy).made.look(new Map(table ? [['public.orders', table]] : []));

  it('apply: nothing but an alert', async () => {
    expect(look('apply', catalog(dropped, []))).toBeNull();
    const { schema, absent } = await contractOf('apply').made.shape(schemaOf(dropped), catalog(dropped));
    expect([schema.columns.length, absent.size]).toEqual([2, 0]);
  });

  it('keep: the promised columns stay, where the table has its key', async () => {
    expect(look('keep', catalog(dropped))).toBeNull();
    expect(look('keep', null)).toBeNull();
    expect(look('keep', catalog(dropped, []))?.message).toContain('That cannot be kept');
    const retyped = { id: 'bigint', note: 'jsonb', extra: 'date' };
    const { schema, read, absent } = await contractOf('keep').made.shape(schemaOf(retyped), catalog(retyped));
    expect(schema.columns.map(({ name, sqlType, key }) => [name, sqlType, key])).toEqual([
      ['id', 'bigint', 1],
      ['note', 'text', 0],
      ['extra', 'date', 0],
      ['total', 'numeric(12,2)', 0],
    ]);
    expect(schema.columns[3]?.typmod).toBe(786_438);
    expect([...absent]).toEqual([1, 3]);
    expect(read.columns.map(({ name }) => name)).toEqual(['id', 'extra']);
  });

  it('halt: the source stands still, and names the owner and what is broken', () => {
    expect(look('halt', catalog(whole))).toBeNull();
    const fault = look('halt', catalog({ id: 'bigint', total: 'text', note: 'text' }));
    expect(fault?.kind).toBe('contract_broken');
    expect(fault?.message).toContain('Team Shop answers for: public.orders: column total is text instead of numeric(12,2).');
  });

  it('rows of an earlier shape are left out when the table fits again, and stand in the way until it does', async () => {
    const { made } = contractOf('halt');
    expect(await made.shape(schemaOf(dropped), catalog(whole))).toMatchObject({ leftOut: true });
    expect(await made.shape(schemaOf(dropped), undefined).catch((error: unknown) => (error as Fault).kind)).toBe(
      'contract_broken',
    );
    expect(await contractOf('keep').made.shape(schemaOf(whole, []), catalog(whole))).toMatchObject({ leftOut: true });
  });
});

it('an alert is raised once, and resolved once, however often it is seen and whoever answers for it', () => {
  const { told, alerts, made } = contractOf('apply');
  const broken = new Map([['public.orders', catalog({ id: 'bigint', note: 'text' })]]);
  made.look(broken);
  made.look(broken);
  expect(told).toEqual([
    {
      table: 'public.orders',
      column: 'total',
      problem: 'column total is gone',
      owner: 'Team Shop',
      raisedAt: 1_000,
      resolvedAt: null,
    },
  ]);
  made.look(new Map([['public.orders', catalog(whole)]]));
  made.look(new Map([['public.orders', catalog(whole)]]));
  expect(told.map(({ raisedAt, resolvedAt }) => [raisedAt, resolvedAt])).toEqual([
    [1_000, null],
    [1_000, 1_002],
  ]);
  made.look(broken);
  expect(alerts.list().map(({ resolvedAt }) => resolvedAt)).toEqual([null, 1_002]);
});
