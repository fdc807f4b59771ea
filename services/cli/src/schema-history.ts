import {
  type ColumnSchema,
  formatLsn,
  keyColumns,
  type Section,
  type StoredBatch,
  tableName,
  type TableSchema,
} from '@tributary/core';

/** What one version of a table's schema has that the one before had not. Renamed columns are dropped and added ones. */
export type SchemaChange =
  | { readonly change: 'added' | 'dropped'; readonly column: string; readonly type: string }
  | { readonly change: 'retyped'; readonly column: string; readonly from: string; readonly to: string }
  | { readonly change: 'key'; readonly from: readonly string[]; readonly to: readonly string[] }
  | { readonly change: 'identity'; readonly from: string; readonly to: string };

/** A schema as it was from its first row on. */
export interface SchemaVersion {
  readonly version: string;
  /** Of that row. */
  readonly position: { readonly seq: number; readonly lsn: string; readonly ordinal: number };
  /** When it was committed, ISO 8601; of rows that a snapshot read: when the changelog had them. */
  readonly at: string;
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  readonly key: readonly string[];
  readonly identity: TableSchema['identity'];
  /** Empty: it is the first that the changelog holds. */
  readonly changes: readonly SchemaChange[];
}

/** Follows the schemas of the tables of one changelog. Rows are not looked at, except for the place of the first of each version. */
export class SchemaHistory {
  readonly #tables = new Map<string, { schema: TableSchema; versions: SchemaVersion[] }>();

  see(batch: StoredBatch): void {
    for (const section of batch.sections) {
      const name = tableName(section.schema);
      const known = this.#tables.get(name);
      if (known?.versions.at(-1)?.version === section.schemaVersion) continue;
      const version = versionOf(section, batch, known?.schema ?? null);
      this.#tables.set(name, { schema: section.schema, versions: [...(known?.versions ?? []), version] });
    }
  }

  /** By table, in the order of names. */
  tables(): { readonly table: string; readonly versions: readonly SchemaVersion[] }[] {
    return [...this.#tables]
      .map(([table, { versions }]) => ({ table, versions }))
      .toSorted((a, b) => (a.table < b.table ? -1 : 1));
  }
}

function versionOf(section: Section, { seq, header, storedAt }: StoredBatch, before: TableSchema | null): SchemaVersion {
  const { schema, schemaVersion } = section;
  const transaction = header.kind === 'stream' ? header.transactions[section.transaction[0] ?? 0] : undefined;
  const ordinal = transaction ? (section.ordinal[0] ?? 0) : header.position.ordinal;
  return {
    version: schemaVersion,
    position: { seq, lsn: formatLsn(transaction?.lsn ?? header.position.lsn), ordinal },
    at: new Date(transaction ? transaction.committedAt / 1_000 : storedAt).toISOString(),
    columns: schema.columns.map(({ name, sqlType }) => ({ name, type: sqlType })),
    key: keyOf(schema),
    identity: schema.identity,
    changes: before ? schemaChanges(before, schema) : [],
  };
}

/** What must be said to make one schema of a table into another. */
export function schemaChanges(before: TableSchema, after: TableSchema): SchemaChange[] {
  const types = (schema: TableSchema) => new Map(schema.columns.map(({ name, sqlType }) => [name, sqlType]));
  const [old, now] = [types(before), types(after)];
  const changes: SchemaChange[] = [];
  for (const [column, type] of old) if (!now.has(column)) changes.push({ change: 'dropped', column, type });
  for (const [column, to] of now) {
    const from = old.get(column);
    if (from === undefined) changes.push({ change: 'added', column, type: to });
    else if (from !== to) changes.push({ change: 'retyped', column, from, to });
  }
  const [oldKey, newKey] = [keyOf(before), keyOf(after)];
  if (oldKey.join('\x1f') !== newKey.join('\x1f')) changes.push({ change: 'key', from: oldKey, to: newKey });
  if (before.identity !== after.identity) changes.push({ change: 'identity', from: before.identity, to: after.identity });
  return changes;
}

function keyOf(schema: TableSchema): string[] {
  return keyColumns(schema).map((index) => (schema.columns[index] as ColumnSchema).name);
}
