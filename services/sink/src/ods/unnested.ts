import { type Cell, NULL_MARK, SEPARATOR } from '@tributary/core';

/**
 * Rows as a FROM item `u (c<index>, …)` of texts, and its parameters. They travel column by column, a column as one text that PostgreSQL
 * takes apart (`string_to_array`): a driver's array costs a quarter of a microsecond a value.
 * @param present indices of the columns that are wanted
 */
export function unnested(
  rows: readonly (readonly Cell[])[],
  present: readonly number[],
): { readonly from: string; readonly values: unknown[] } {
  const values: unknown[] = [];
  const items: string[] = [];
  for (const [i, c] of present.entries()) {
    const text = joined(rows, c);
    items.push(text === null ? `$${i + 1}::text[]` : `string_to_array($${i + 1}, E'\\x1f', E'\\x1e')`);
    values.push(text ?? rows.map((row) => row[c] ?? null));
  }
  return { from: `unnest(${items.join(', ')}) u(${present.map((c) => `c${c}`).join(', ')})`, values };
}

/** A column of some rows as one text; null where a value holds a mark, or where the text would mean no value at all. */
function joined(rows: readonly (readonly Cell[])[], c: number): string | null {
  const texts: string[] = [];
  for (const row of rows) {
    const cell = row[c] ?? null;
    if (cell === NULL_MARK || cell?.includes(SEPARATOR)) return null;
    texts.push(cell ?? NULL_MARK);
  }
  return texts.join(SEPARATOR) || null;
}

/** Which cells a row has: rows of one pattern are written by one statement. */
export function pattern(cells: readonly Cell[]): string {
  return cells.includes(undefined) ? cells.map((cell) => (cell === undefined ? 0 : 1)).join('') : '';
}

export function groupBy<Value>(values: readonly Value[], keyOf: (value: Value) => string): Map<string, Value[]> {
  const groups = new Map<string, Value[]>();
  for (const value of values) {
    const key = keyOf(value);
    const known = groups.get(key);
    if (known) known.push(value);
    else groups.set(key, [value]);
  }
  return groups;
}
