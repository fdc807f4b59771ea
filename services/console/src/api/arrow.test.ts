import { tableFromIPC } from 'apache-arrow';
import { describe, expect, it } from 'vitest';
import { arrowStream } from './arrow.ts';

describe('rows as an Arrow stream', () => {
  const columns = [
    ['at', 'TIMESTAMP WITH TIME ZONE'],
    ['day', 'DATE'],
    ['country', 'VARCHAR'],
    ['gmv', 'DECIMAL(38,2)'],
    ['n', 'BIGINT'],
    ['small', 'INTEGER'],
    ['rate', 'DOUBLE'],
    ['closed', 'BOOLEAN'],
    ['list', 'INTEGER[]'],
    ['odd', 'TIMESTAMP'],
  ].map(([name = '', type = '']) => ({ name, type }));
  const first = {
    at: '2026-02-28 23:00:00.123456+00',
    day: '1969-12-31',
    country: 'Österreich',
    gmv: '-12345678901234567890.05',
    n: '9223372036854775807',
    small: -7,
    rate: 0.1,
    closed: true,
    list: [1, 2],
    odd: 'infinity',
  };
  const nothing = Object.fromEntries(columns.map(({ name }) => [name, null]));

  it('keeps types and values, nothing as nothing, and says where they are from', () => {
    const table = tableFromIPC(
      arrowStream(columns, [first, nothing, { ...first, gmv: '0.50', n: 3, closed: false }], { kpi: 'x' }),
    );
    expect(table.schema.fields.map(({ name, type }) => `${name} ${type}`)).toEqual([
      'at Timestamp<MICROSECOND, UTC>',
      'day Date32<DAY>',
      'country Utf8',
      'gmv Decimal[38e+2]',
      'n Int64',
      'small Int32',
      'rate Float64',
      'closed Bool',
      'list Utf8',
      'odd Utf8',
    ]);
    const of = (name: string) => Array.from({ length: 3 }, (_, i) => table.getChild(name)?.get(i) as unknown);
    const decimal = (value: unknown) => {
      const [low = 0n, high = 0n] = new BigUint64Array((value as Uint32Array).slice().buffer);
      return (BigInt.asIntN(64, high) << 64n) | low;
    };
    const [gmv, none, half] = of('gmv');
    expect([decimal(gmv), none, decimal(half)]).toEqual([-1234567890123456789005n, null, 50n]);
    expect(of('country')).toEqual(['Österreich', null, 'Österreich']);
    expect(of('n')).toEqual([9223372036854775807n, null, 3n]);
    expect(of('small')).toEqual([-7, null, -7]);
    expect(of('rate')).toEqual([0.1, null, 0.1]);
    expect(of('closed')).toEqual([true, null, false]);
    expect(of('list')).toEqual(['[1,2]', null, '[1,2]']);
    expect(of('odd')).toEqual(['infinity', null, 'infinity']);
    const raw = (name: string) => (table.getChild(name)?.data[0]?.values as ArrayLike<unknown> | undefined)?.[0];
    expect([raw('at'), raw('day')]).toEqual([1_772_319_600_123_456n, -1]);
    expect(JSON.parse(table.schema.metadata.get('tributary') ?? '')).toEqual({ kpi: 'x' });
  });

  it('has its columns without any row', () => {
    const table = tableFromIPC(arrowStream(columns, [], {}));
    expect([table.numRows, table.schema.fields.length]).toEqual([0, columns.length]);
  });
});
