import { ArrayColumn, JoinedColumn } from '@tributary/changelog';
import type { Cell, Column } from '@tributary/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { columnOf, concat, Gathering, pick, unknownColumn } from './pick.ts';

const cell: fc.Arbitrary<Cell> = fc.oneof(
  fc.constantFrom('', 'a', 'öß', null, undefined),
  fc.string({ maxLength: 3, unit: 'binary' }),
);
const column: fc.Arbitrary<Column> = fc.array(cell, { minLength: 1, maxLength: 12 }).map(columnOf);
const oneOf = (columns: readonly Column[], rising: boolean) =>
  fc
    .array(
      fc
        .nat({ max: columns.length - 1 })
        .chain((c) => fc.record({ c: fc.constant(c), row: fc.nat({ max: (columns[c] as Column).values().length - 1 }) })),
      { maxLength: 20 },
    )
    .map((all) =>
      rising
        ? all
            .toSorted((a, b) => a.c - b.c || a.row - b.row)
            .filter((one, i, list) => i === 0 || list[i - 1]?.c !== one.c || list[i - 1]?.row !== one.row)
        : all,
    );

describe('cells put together', () => {
  it('are those asked for, in whatever order, joined or not', () => {
    const any = fc
      .array(column, { minLength: 1, maxLength: 3 })
      .chain((columns) =>
        fc.boolean().chain((rising) => fc.record({ columns: fc.constant(columns), chosen: oneOf(columns, rising) })),
      );
    fc.assert(
      fc.property(any, ({ columns, chosen }) => {
        const gathering = new Gathering(
          chosen.map(({ c }) => c),
          chosen.map(({ row }) => row),
        );
        expect([...gathering.of(columns).values()]).toEqual(chosen.map(({ c, row }) => columns[c]?.values()[row]));
      }),
      { numRuns: 500 },
    );
  });

  it('stay joined where rows rise, also of several columns in turns', () => {
    const [a, b] = [new JoinedColumn('1\x1f2\x1f3', 3), unknownColumn(3)];
    const turns = new Gathering([0, 1, 0, 1], [0, 0, 2, 2]).of([a, b]);
    expect(turns).toBeInstanceOf(JoinedColumn);
    expect(turns.values()).toEqual(['1', undefined, '3', undefined]);
    expect(pick(new ArrayColumn(['x', 'y\x1f']), [1]).values()).toEqual(['y\x1f']);
  });

  it('stand one after the other, empty columns left out', () => {
    expect(concat([columnOf(['a']), columnOf([]), columnOf(['', null])], [1, 0, 2]).values()).toEqual(['a', '', null]);
    expect(unknownColumn(0).values()).toEqual([]);
  });
});
