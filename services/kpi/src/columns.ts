import type { ColumnSchema, TableSchema } from '@tributary/core';
import { duckIdent, typedColumn } from '@tributary/duckdb';

/** How a column of a captured table is kept. */
export interface StateColumn {
  readonly name: string;
  /** Quoted. */
  readonly ident: string;
  readonly stored: string;
  /** SQL over PostgreSQL's text (of a loaded cell: behind its marks): the stored value. */
  readonly store: (text: string) => string;
  /** SQL over the quoted column: the value that KPIs see. */
  readonly shown: string;
  /** SQL over the same: it is what its type cannot hold; null = its type holds everything. */
  readonly inexact: ((text: string) => string) | null;
}

/** numeric without a precision: as many digits as DuckDB has, ten of them behind the point. What does not fit is reported. */
const NUMERIC = { type: 'DECIMAL(38,10)', scale: 10 };

/**
 * Columns are typed, because joins and sums over text would cost ten times as much. A key must tell rows apart whatever its
 * values are, so key columns of types that cannot hold every value stay text, and are typed where they are shown.
 */
export function stateColumns(schema: TableSchema): StateColumn[] {
  return schema.columns.map((column) => {
    const { name } = column;
    const ident = duckIdent(name);
    const { type, lossy } = typeOf(column);
    const isText = type === 'VARCHAR';
    const typed = (text: string) =>
      isText ? text : type === 'BLOB' ? `unhex(substr(${text}, 3))` : `TRY_CAST(${text} AS ${type})`;
    const asText = column.key > 0 && (lossy || type === 'FLOAT' || type === 'DOUBLE');
    const scale =
      type === NUMERIC.type ? (text: string) => ` OR length(split_part(${text}, '.', 2)) > ${NUMERIC.scale}` : () => '';
    return {
      name,
      ident,
      stored: asText ? 'VARCHAR' : type,
      store: (text) => (asText ? text : typed(text)),
      shown: asText ? `${typed(ident)} AS ${ident}` : ident,
      inexact: lossy ? (text) => `(${text} IS NOT NULL AND (${typed(text)} IS NULL${scale(text)}))` : null,
    };
  });
}

function typeOf(column: ColumnSchema): { readonly type: string; readonly lossy: boolean } {
  const { type, lossy } = typedColumn(column);
  const pg = column.type.kind === 'domain' ? (column.type.of ?? column.type) : column.type;
  return type === 'VARCHAR' && pg.schema === 'pg_catalog' && pg.name === 'numeric'
    ? { type: NUMERIC.type, lossy: true }
    : { type, lossy };
}
