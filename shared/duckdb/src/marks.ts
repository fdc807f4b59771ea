import { type DuckDBValue, listValue } from '@duckdb/node-api';
import { type Cell, type Column, NULL_MARK, SEPARATOR, UNCHANGED_MARK } from '@tributary/core';

/** Put in front of a value that could be taken for a marker. */
const ESCAPE = '\x1c';

/** A column on its way into DuckDB: one string split there, or a list where values hold the separator. */
export type Loaded = { readonly text: string } | { readonly list: string[] };

/**
 * Hands a column over without touching its cells where that is safe. NULL and unchanged travel as lone marker
 * characters; a value that looks like one, or begins with the escape, is escaped.
 */
export function load(column: Column): Loaded {
  const joined = column.joined();
  if (joined !== null && !joined.includes(ESCAPE)) return { text: joined };
  return loadCells(column.values());
}

export function loadCells(cells: readonly Cell[]): Loaded {
  const list = cells.map(mark);
  const joined = list.join(SEPARATOR);
  let separators = 0;
  for (let at = joined.indexOf(SEPARATOR); at !== -1; at = joined.indexOf(SEPARATOR, at + 1)) separators++;
  return separators === list.length - 1 ? { text: joined } : { list };
}

function mark(cell: Cell): string {
  if (cell === null) return NULL_MARK;
  if (cell === undefined) return UNCHANGED_MARK;
  return cell === NULL_MARK || cell === UNCHANGED_MARK || cell.startsWith(ESCAPE) ? ESCAPE + cell : cell;
}

/** Does a joined column hold a mark, or something escaped? Without one its cells are what they say. */
export function hasMarks(text: string): boolean {
  return [NULL_MARK, UNCHANGED_MARK, ESCAPE].some((mark) => text.includes(mark));
}

/** SQL: the value behind a loaded cell; unchanged reads as NULL. */
export function plain(column: string): string {
  return `CASE WHEN ${column} IN (chr(30), chr(29)) THEN NULL WHEN ${column}[1] = chr(28) THEN ${column}[2:] ELSE ${column} END`;
}

export function isUnchanged(column: string): string {
  return `${column} = chr(29)`;
}

/** Builds the SELECT that turns loaded columns into rows `c0, c1, …`, with further columns in front by name. */
export class Loader {
  readonly select: string;
  readonly values: Record<string, DuckDBValue>;

  /**
   * @param more `op` and `flag`: one character a row; `before`: joined by 0x1F; others joined by commas
   * @param numbered adds a column `n` that counts rows from there
   */
  constructor(
    columns: readonly Loaded[],
    more: Readonly<Record<string, string>> = {},
    numbered: { readonly from: number; readonly rows: number } | null = null,
  ) {
    const separators: Readonly<Record<string, string>> = { op: `''`, flag: `''`, before: 'chr(31)' };
    const extra = Object.keys(more).map((name) => `unnest(string_split($${name}, ${separators[name] ?? `','`})) AS ${name}`);
    const cells = columns.map((column, c) =>
      'text' in column ? `unnest(string_split($c${c}, chr(31))) AS c${c}` : `unnest($c${c}) AS c${c}`,
    );
    const n = numbered ? [`unnest(range(${numbered.from}, ${numbered.from + numbered.rows})) AS n`] : [];
    this.select = `SELECT ${[...n, ...extra, ...cells].join(', ')}`;
    this.values = { ...more };
    columns.forEach((column, c) => {
      this.values[`c${c}`] = 'text' in column ? column.text : listValue(column.list);
    });
  }
}
