import { ArrayColumn, JoinedColumn } from '@tributary/changelog';
import { type Cell, type Column, NULL_MARK, SEPARATOR, UNCHANGED_MARK } from '@tributary/core';

/** Cells of a column by their rows, in that order. Joined columns stay joined. */
export function pick(column: Column, rows: ArrayLike<number>): Column {
  return new Gathering(new Uint8Array(rows.length), rows).of([column]);
}

/** Rows that follow one another in one column. */
interface Stretch {
  readonly column: number;
  readonly first: number;
  readonly rows: number;
}

/**
 * Puts columns together of others: the i-th cell comes from row `rows[i]` of the `from[i]`-th of them. Joined columns are cut and joined in
 * stretches, and no string is made of a cell, as long as the rows of each rise; they mostly do.
 */
export class Gathering {
  readonly #from: ArrayLike<number>;
  readonly #rows: ArrayLike<number>;
  /** Null when the rows of some column do not rise. */
  readonly #stretches: readonly Stretch[] | null;

  constructor(from: ArrayLike<number>, rows: ArrayLike<number>) {
    this.#from = from;
    this.#rows = rows;
    this.#stretches = stretchesOf(from, rows);
  }

  of(columns: readonly Column[]): Column {
    const texts = columns.map((column) => column.joined());
    if (this.#stretches && !texts.includes(null))
      return new JoinedColumn(cut(texts as string[], this.#stretches), this.#rows.length);
    const cells = columns.map((column) => column.values());
    return columnOf(Array.from(this.#from, (c, i) => cells[c]?.[this.#rows[i] as number]));
  }
}

function stretchesOf(from: ArrayLike<number>, rows: ArrayLike<number>): Stretch[] | null {
  const stretches: Stretch[] = [];
  const next: number[] = [];
  for (let i = 0; i < rows.length; ) {
    const column = from[i] as number;
    const first = rows[i] as number;
    if (first < (next[column] ?? 0)) return null;
    let row = first;
    do {
      row++;
      i++;
    } while (i < rows.length && from[i] === column && rows[i] === row);
    next[column] = row;
    stretches.push({ column, first, rows: row - first });
  }
  return stretches;
}

function cut(texts: readonly string[], stretches: readonly Stretch[]): string {
  const pieces: string[] = [];
  // Per column the next row, and where it begins.
  const next = texts.map(() => 0);
  const begins = texts.map(() => 0);
  for (const { column, first, rows } of stretches) {
    const text = texts[column] as string;
    let at = begins[column] as number;
    for (let row = next[column] as number; row < first; row++) at = text.indexOf(SEPARATOR, at) + 1;
    const begin = at;
    for (let row = 0; row < rows; row++) {
      const end = text.indexOf(SEPARATOR, at);
      at = (end === -1 ? text.length : end) + 1;
    }
    pieces.push(text.slice(begin, at - 1));
    next[column] = first + rows;
    begins[column] = at;
  }
  return pieces.join(SEPARATOR);
}

/** A column of cells that nothing is known of. */
export function unknownColumn(rows: number): Column {
  if (rows === 0) return new JoinedColumn('', 0);
  return new JoinedColumn(`${UNCHANGED_MARK}${SEPARATOR}`.repeat(rows - 1) + UNCHANGED_MARK, rows);
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
