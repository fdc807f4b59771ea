import { type Cell, type Column, Op, type OpCode, type Section } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { RowTracker } from './stage.ts';

type Change = readonly [op: OpCode, cells: readonly Cell[], old?: readonly Cell[]];

function section(...changes: readonly Change[]): Section {
  const columns = (rows: readonly (readonly Cell[])[]) =>
    [0, 1].map((c) => ({ values: () => rows.map((row) => row[c]) }) as unknown as Column);
  const olds = changes.flatMap(([, , old], row) => (old ? [{ row, old }] : []));
  return {
    rows: changes.length,
    ops: Uint8Array.from(changes, ([op]) => op),
    columns: columns(changes.map(([, cells]) => cells)),
    old: { row: Uint32Array.from(olds, ({ row }) => row), columns: columns(olds.map(({ old }) => old)) },
  } as unknown as Section;
}

describe('rows that leave out cells', () => {
  it('have them from the row that stood under the first key, however often it moved, and whatever changed before', () => {
    const tracker = new RowTracker([0]);
    const told = (...changes: Change[]) => [...tracker.follow(section(...changes), null)];
    expect(told([Op.updated, ['1', undefined]])).toEqual([{ op: 'w', cells: ['1', undefined], base: null }]);
    expect(told([Op.updated, ['2', undefined], ['1', undefined]]).at(-1)).toEqual({
      op: 'w',
      cells: ['2', undefined],
      base: ['1'],
    });
    expect(told([Op.updated, ['3', undefined], ['2', undefined]]).at(-1)).toEqual({
      op: 'w',
      cells: ['3', undefined],
      base: ['1'],
    });
    expect(told([Op.updated, ['3', 'known']], [Op.updated, ['4', undefined], ['3', undefined]]).at(-1)?.cells).toEqual([
      '4',
      'known',
    ]);
  });
});
