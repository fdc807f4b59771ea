import type { Cell, Column } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { copyJoined, copyRows } from './copy-text.ts';

function column(cells: readonly Cell[]): Column {
  const marks = cells.map((cell) => (cell === null ? '\x1e' : cell === undefined ? '\x1d' : cell));
  return { joined: () => marks.join('\x1f'), values: () => cells, hasUnchanged: () => cells.includes(undefined) };
}

describe('COPY text', () => {
  it('is the same from joined columns as from rows, whatever the values hold', () => {
    const columns = [
      ['1', '', null, 'tab\there'],
      ['back\\slash', 'line\nend', 'return\r', '\\N'],
      [null, 'ümläut €', '𝄞', ''],
    ];
    const rows = [0, 1, 2, 3].map((row) => columns.map((cells) => cells[row]));
    expect(copyJoined(columns.map(column), 4)?.toString()).toBe(copyRows(rows));
    expect(copyRows(rows)).toContain('tab\\there\t\\\\N\t\n');
  });

  it('refuses what it cannot say: unchanged cells, and columns that came as arrays', () => {
    expect(copyJoined([column(['1']), column([undefined])], 1)).toBeNull();
    expect(copyJoined([{ ...column(['1']), joined: () => null }], 1)).toBeNull();
  });
});
