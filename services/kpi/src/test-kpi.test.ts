import { describe, expect, it } from 'vitest';
import { compared } from './test-kpi.ts';

describe('comparing an answer with what was expected', () => {
  it('tells rows apart by their keys, and numbers by their value', () => {
    const rows = [
      { bucket: '2026-11-01T00:00:00+01:00', country: 'DE', gmv: 0.1 + 0.2, text: '7', none: null },
      { bucket: '2026-11-02T00:00:00+01:00', country: 'DE', gmv: '12345678901234567.5', text: 'x', none: null },
    ];
    const keys = ['bucket', 'country'];
    const first = { bucket: '2026-10-31T23:00:00Z', country: 'DE', gmv: 0.3, none: null };
    const second = { bucket: '2026-11-02', gmv: '12345678901234567.5' };
    expect(compared([second, first], rows, keys)).toEqual([]);
    expect(
      compared(
        [
          { ...first, none: 0 },
          { ...second, gmv: '12345678901234567.4' },
        ],
        rows,
        keys,
      ),
    ).toMatchObject([
      { expected: { none: 0 }, actual: { none: null } },
      { expected: { gmv: '12345678901234567.4' }, actual: { gmv: '12345678901234567.5' } },
    ]);
    expect(() => compared([{ country: 'DE', gmv: 0.3 }], rows, keys)).toThrow('stands for 2 rows: name their "bucket"');
    expect(compared([first], rows, keys)).toMatchObject([{ row: { bucket: rows[1]?.bucket }, expected: null }]);
  });

  it('finds rows without keys by all of their columns, each once', () => {
    const rows = [{ n: 1 }, { n: 1 }, { n: 2 }];
    expect(compared([{ n: 2 }, { n: 1 }, { n: 1 }], rows, null)).toEqual([]);
    expect(compared([{ n: 1 }, { n: 1 }, { n: 1 }], rows, null)).toEqual([
      { row: { n: 1 }, expected: { n: 1 }, actual: null },
      { row: { n: 2 }, expected: null, actual: { n: 2 } },
    ]);
  });
});
