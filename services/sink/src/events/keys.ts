import { type Cell, keyColumns, type TableSchema, tableName } from '@tributary/core';
import type { RowChange } from './row-changes.ts';

/** What must be known of a shape to name its rows. */
export interface KeyShape {
  readonly table: string;
  /** Indices of the key's columns, in key order; empty: rows have no name. */
  readonly columns: readonly number[];
}

export function keyShape(schema: TableSchema): KeyShape {
  return { table: tableName(schema), columns: keyColumns(schema) };
}

/** The key's columns as the row had them before; null when it has the same key as before, or none. */
export function movedFrom({ columns }: KeyShape, { op, before, after }: RowChange): readonly Cell[] | null {
  if (op !== 'update' || !before || !after) return null;
  const moved = columns.some((c) => before[c] !== undefined && before[c] !== after[c]);
  return moved ? before : null;
}

/** `schema.table:["1","x"]`: the same for all changes of a row. Rows without a key share one name: their table's order is kept as a whole. */
export function keyText({ table, columns }: KeyShape, cells: readonly Cell[]): string {
  return `${table}:${JSON.stringify(columns.map((c) => cells[c] ?? null))}`;
}

/** Names of all rows that a change speaks of; none: of the whole table. */
export function keysOf(shape: KeyShape, change: RowChange): string[] {
  const now = change.after ?? change.before;
  if (change.op === 'truncate' || !now) return [];
  const from = movedFrom(shape, change);
  return from ? [keyText(shape, from), keyText(shape, now)] : [keyText(shape, now)];
}
