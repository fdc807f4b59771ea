import type { Condition, EventsSinkConfig } from '@tributary/config';
import type { Cell, TableSchema } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { Filter } from './filter.ts';
import type { RowChange } from './row-changes.ts';

const type = { oid: 25, schema: 'pg_catalog', name: 'text', kind: 'base' } as const;
const column = (name: string, key: number) => ({ name, type, typmod: -1, sqlType: 'text', key });
const schema: TableSchema = {
  schema: 'public',
  table: 'orders',
  identity: 'default',
  columns: [column('id', 1), column('status', 0)],
};

const config = (part: Partial<EventsSinkConfig>) =>
  ({
    name: 'e',
    from: ['*'],
    tables: ['*.*'],
    ops: ['create', 'update', 'delete', 'read'],
    where: {},
    snapshot: true,
    ...part,
  }) as EventsSinkConfig;
const change = (op: RowChange['op'], cells: readonly Cell[]) =>
  ({ op, schema, after: op === 'delete' ? null : cells, before: op === 'delete' ? cells : null }) as unknown as RowChange;
const passes = (status: Condition, cell: Cell) =>
  new Filter(config({ where: { 'public.orders': { status } } }), 's').passes(change('update', ['1', cell]));

describe('a filter', () => {
  it('chooses tables by patterns, the last one that matches decides', () => {
    const filter = new Filter(config({ from: ['s.*'], tables: ['public.*', '!public.audit'] }), 's');
    expect(['public.orders', 'public.audit', 'other.x'].map((table) => filter.wants(table))).toEqual([true, false, false]);
    expect(new Filter(config({ from: ['t.*'] }), 's').wants('public.orders')).toBe(false);
  });

  it('chooses what happened; snapshot: false leaves out reads', () => {
    const filter = new Filter(config({ ops: ['delete', 'read'], snapshot: false }), 's');
    expect((['create', 'delete', 'read'] as const).map((op) => filter.passes(change(op, ['1', 'x'])))).toEqual([
      false,
      true,
      false,
    ]);
    expect(filter.marks).toBe(false);
  });

  it.each<[Condition, Cell, boolean]>([
    ['paid', 'paid', true],
    ['paid', 'draft', false],
    [['paid', null], null, true],
    ['paid', null, false],
    [{ not: ['draft'] }, 'draft', false],
    [{ not: ['draft'] }, null, true],
    [10, '10.00', true],
    [0, '', false],
    [true, 't', true],
    // Not sent: rather an event too many.
    ['paid', undefined, true],
  ])('where status is %j: %j', (condition, cell, expected) => {
    expect(passes(condition, cell)).toBe(expected);
  });

  it('judges a deleted row as it was, as far as that is known', () => {
    const filter = new Filter(config({ where: { 'public.orders': { id: '1', status: 'paid' } } }), 's');
    expect(filter.passes(change('delete', ['1', undefined]))).toBe(true);
    expect(filter.passes(change('delete', ['2', undefined]))).toBe(false);
  });

  it('refuses to judge by a column that is not there', () => {
    const filter = new Filter(config({ where: { 'public.orders': { stauts: 'paid' } } }), 's');
    expect(() => filter.passes(change('create', ['1', 'paid']))).toThrow(/public\.orders\.stauts/);
  });
});
