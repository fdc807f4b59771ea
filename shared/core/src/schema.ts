/** One PostgreSQL type with everything a projection needs to recreate or cast it: a tree, self-contained. */
export interface PgType {
  readonly oid: number;
  /** Namespace, e.g. `pg_catalog`. */
  readonly schema: string;
  /** `pg_type.typname`, e.g. `int8`, `_text`, `mpaa_rating`. */
  readonly name: string;
  readonly kind: 'base' | 'enum' | 'domain' | 'array' | 'composite' | 'range' | 'multirange';
  /** Array: element. Domain: base type. Range and multirange: subtype (multirange: its range). */
  readonly of?: PgType;
  /** Domain: typmod of the base type; -1 = none. */
  readonly typmod?: number;
  /** Enum labels in order. */
  readonly labels?: readonly string[];
  /** Composite fields in order. */
  readonly fields?: readonly { readonly name: string; readonly type: PgType; readonly typmod: number }[];
}

export interface ColumnSchema {
  readonly name: string;
  readonly type: PgType;
  /** PostgreSQL's type modifier (numeric precision, varchar length, …); -1 = none. */
  readonly typmod: number;
  /** `format_type(oid, typmod)`, e.g. `numeric(12,2)`; schema-qualified for types outside pg_catalog. */
  readonly sqlType: string;
  /** 1-based place in the key, 0 = not part of it. */
  readonly key: number;
}

/**
 * Shape of a captured table at one moment of its changelog.
 * `key` columns are the primary key, or the replica identity index where there is no primary key.
 * A table without any key column is keyless: its history is exact, updates and deletes name whole rows
 * (identity `full`) or are not captured (`nothing`).
 */
export interface TableSchema {
  readonly schema: string;
  readonly table: string;
  /** What the WAL tells of old rows. */
  readonly identity: 'default' | 'index' | 'full' | 'nothing';
  readonly columns: readonly ColumnSchema[];
}

/** `schema.table`, the name used in config, section headers and status. */
export function tableName(schema: Pick<TableSchema, 'schema' | 'table'>): string {
  return `${schema.schema}.${schema.table}`;
}

/** Indices into `columns` of the key, in key order; empty when the table has none. */
export function keyColumns(schema: TableSchema): number[] {
  return schema.columns
    .map((column, index) => ({ key: column.key, index }))
    .filter((entry) => entry.key > 0)
    .sort((a, b) => a.key - b.key)
    .map((entry) => entry.index);
}
