import { ArrayColumn, JoinedColumn } from '@tributary/changelog';
import { type Cell, type Column, NULL_MARK, SEPARATOR, UNCHANGED_MARK } from '@tributary/core';

/** Cells of a column by their rows, in that order. Joined columns stay joined: their cells are not looked at. */
export function pick(column: Column, rows: ArrayLike<number>): Column {
  const joined = column.joined();
  if (joined === null) {
    const cells = column.values();
    return columnOf(Array.from(rows, (row) => cells[row]));
  }
  const cells = joined.split(SEPARATOR);
  const picked: string[] = [];
  for (let i = 0; i < rows.length; i++) picked.push(cells[rows[i] as number] as string);
  return new JoinedColumn(picked.join(SEPARATOR), rows.length);
}

/** Columns of the same table one after the other. */
export function concat(columns: readonly Column[], rows: readonly number[]): Column {
  if (columns.length === 1) return columns[0] as Column;
  const total = rows.reduce((sum, count) => sum + count, 0);
  const joined = columns.flatMap((column, i) => (rows[i] === 0 ? [] : [column.joined()]));
  if (joined.every((text) => text !== null)) return new JoinedColumn(joined.join(SEPARATOR), total);
  return columnOf(columns.flatMap((column) => column.values()));
}

const hasMarker = (value: string) => [SEPARATOR, NULL_MARK, UNCHANGED_MARK].some((mark) => value.includes(mark));

/** A column of cells, joined where no value holds a character that would be taken for a marker. */
export function columnOf(cells: readonly Cell[]): Column {
  const joined = cells.map((cell) => (cell === null ? NULL_MARK : cell === undefined ? UNCHANGED_MARK : cell)).join(SEPARATOR);
  if (cells.some((cell) => typeof cell === 'string' && hasMarker(cell))) {
    return new ArrayColumn(cells.map((cell) => (cell === undefined ? 0 : cell)));
  }
  return new JoinedColumn(joined, cells.length);
}
