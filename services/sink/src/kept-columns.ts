import type { CatalogTable } from '@tributary/postgres';

/** Columns that only projections have, because the source's contract keeps them, by table: nothing to compare them with. */
export type KeptColumns = Readonly<Record<string, readonly string[]>>;

/** The table with the columns that both sides have. */
export function withoutKept(table: CatalogTable, kept: KeptColumns = {}): CatalogTable {
  const names = kept[`${table.schema}.${table.table}`] ?? [];
  return { ...table, columns: table.columns.filter(({ name }) => !names.includes(name)) };
}
