import type { ColumnSchema, TableSchema } from '@tributary/core';
import { sqlState } from './fault.ts';
import type { Session } from './session.ts';
import type { TypeCatalog } from './types.ts';

/** A table that can be captured: an ordinary table, or the root of a partitioned one. */
export interface CatalogTable {
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
  readonly partitioned: boolean;
  readonly identity: TableSchema['identity'];
  /** Columns that the stream carries, in order. */
  readonly columns: readonly CatalogColumn[];
  /** Key column names in order: primary key, else identity index; empty without either. */
  readonly key: readonly string[];
  /** Its foreign keys to other tables. */
  readonly references: readonly CatalogReference[];
  /** PostgreSQL can name the old row of an update or delete in the WAL, on the table and on every partition. */
  readonly identifiable: boolean;
  /** Where the rows are: the table itself, or its leaf partitions. */
  readonly leaves: readonly { readonly oid: number; readonly name: string; readonly file: number; readonly blocks: number }[];
  /** Updated and deleted rows as far as statistics tell, and since when: a crash of the server takes what they knew. */
  readonly churn: string;
}

export interface CatalogReference {
  readonly columns: readonly string[];
  /** `schema.table`. */
  readonly to: string;
  /** In the order of `columns`. */
  readonly toColumns: readonly string[];
}

export interface CatalogColumn {
  readonly name: string;
  /** Its number in the table, which no later column gets again. */
  readonly place: number;
  readonly type: number;
  readonly typmod: number;
  readonly sqlType: string;
  /** Values may be stored out of line, and then updates do not repeat them. */
  readonly toastable: boolean;
}

/** A table without columns has none to tell. */
type CatalogRow = CatalogTable & { readonly columns: CatalogTable['columns'] | null };

const LOCK_NOT_AVAILABLE = '55P03';

/**
 * Longest wait for a lock, well below the server's deadlock_timeout (1 s by default). The statement holds the partitions it
 * has looked at while it waits for the next table; a team's transaction that locks them the other way round must never be
 * the one that is cancelled.
 */
const LOCK_WAIT = '300ms';

/**
 * One statement reads everything, and sets its own patience: others use the session between two statements. Generated
 * columns take part where the server can publish them (18, stored ones). Leaves come with their file node: it changes when a leaf is truncated or rewritten.
 */
const TABLES_SQL = `
SELECT c.oid::int8::float8 AS oid, n.nspname AS schema, c.relname AS table, c.relkind = 'p' AS partitioned,
       CASE c.relreplident WHEN 'd' THEN 'default' WHEN 'i' THEN 'index' WHEN 'f' THEN 'full' ELSE 'nothing' END AS identity,
       (SELECT json_agg(json_build_object('name', a.attname, 'place', a.attnum, 'type', a.atttypid::int8, 'typmod', a.atttypmod,
                 'sqlType', format_type(a.atttypid, a.atttypmod), 'toastable', a.attstorage <> 'p') ORDER BY a.attnum)
          FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           AND (a.attgenerated = '' OR ($2 AND a.attgenerated = 's'))) AS columns,
       coalesce((SELECT json_agg(a.attname ORDER BY k.n)
          FROM (SELECT i.* FROM pg_index i
                 WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident) AND i.indislive
                 ORDER BY i.indisprimary DESC LIMIT 1) i,
               unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY k(attnum, n),
               pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum = k.attnum), '[]') AS key,
       (SELECT bool_and(l.relreplident = 'f'
                  OR (l.relreplident = 'd' AND EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = l.oid AND i.indisprimary))
                  OR (l.relreplident = 'i' AND EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = l.oid AND i.indisreplident)))
          FROM (SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) t(oid) JOIN pg_class l ON l.oid = t.oid
         ) AS identifiable,
       coalesce((SELECT json_agg(json_build_object('to', pn.nspname || '.' || p.relname,
                    'columns', (SELECT json_agg(a.attname ORDER BY k.n) FROM unnest(f.conkey) WITH ORDINALITY k(attnum, n)
                                  JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum),
                    'toColumns', (SELECT json_agg(a.attname ORDER BY k.n) FROM unnest(f.confkey) WITH ORDINALITY k(attnum, n)
                                    JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum)) ORDER BY f.conname)
                   FROM pg_constraint f JOIN pg_class p ON p.oid = f.confrelid JOIN pg_namespace pn ON pn.oid = p.relnamespace
                  WHERE f.conrelid = c.oid AND f.contype = 'f' AND f.confrelid <> c.oid AND f.conparentid = 0), '[]') AS "references",
       coalesce((SELECT json_agg(json_build_object('oid', l.oid::int8, 'name', l.oid::regclass::text, 'file', coalesce(pg_relation_filenode(l.oid), 0)::int8,
                  'blocks', coalesce(pg_relation_size(l.oid), 0) / current_setting('block_size')::int) ORDER BY l.oid)
          FROM pg_class l WHERE l.oid IN (SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf UNION SELECT c.oid)
           AND l.relkind = 'r'), '[]') AS leaves,
       coalesce((SELECT sum(s.n_tup_upd + s.n_tup_del) FROM pg_stat_all_tables s
          WHERE s.relid IN (SELECT relid FROM pg_partition_tree(c.oid) UNION SELECT c.oid)), 0)
         || ' since ' || concat_ws(' ', (SELECT extract(epoch FROM stats_reset) FROM pg_stat_bgwriter),
              (SELECT extract(epoch FROM stats_reset) FROM pg_stat_database WHERE datname = current_database())) AS churn
  FROM (SELECT set_config('lock_timeout', '${LOCK_WAIT}', true)) patience(wait)
       CROSS JOIN pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE patience.wait IS NOT NULL AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'tributary') AND n.nspname NOT LIKE 'pg\\_%'
   AND (n.nspname || '.' || c.relname) = ANY ($1)
 ORDER BY 2, 3`;

const NAMES_SQL = `
SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'tributary') AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1`;

/** Catalogs that a table's shape, key, identity or partitions can change in, and what tells one's rows from another's. */
const WATCHED = [
  ['pg_class', 'oid::int8', `oid >= 16384 AND relkind IN ('r', 'p') AND relpersistence = 'p'`],
  ['pg_namespace', 'oid::int8', 'true'],
  ['pg_attribute', 'attrelid::int8 * 2048 + attnum', 'attrelid >= 16384 AND attnum > 0'],
  ['pg_index', 'indexrelid::int8', 'indrelid >= 16384'],
  ['pg_inherits', 'inhrelid::int8', 'true'],
  ['pg_type', 'oid::int8', 'oid >= 16384'],
  ['pg_publication', 'oid::int8', 'true'],
  ['pg_publication_rel', 'oid::int8', 'true'],
] as const;

/**
 * An SQL expression (text): as long as it stays the same, {@link readTables} would find the same tables in the same shape, and
 * publications have the same members; sizes and statistics do not count. It may change without any of that.
 *
 * Every change of a catalog is a new version of a row, and a version carries the transaction that wrote it. Plain reads of
 * catalogs: unlike the functions that know partitions, they lock nobody's table. About 0.3 µs a column of the database.
 */
export const CATALOG_FINGERPRINT = WATCHED.map(
  ([catalog, row, rows]) =>
    `(SELECT count(*) || ':' || coalesce(bit_xor(hashint8extended(xmin::text::int8, ${row})), 0) FROM pg_catalog.${catalog} WHERE ${rows})`,
).join(` || ' ' || `);

/**
 * Tables of this database that `wanted` chooses, by `schema.table`. Costs one cheap statement for names and one for the
 * chosen ones. Where a table is locked it lets go of everything and looks again, for as long as the lock is held.
 */
export async function readTables(session: Session, wanted: (name: string) => boolean, version: number): Promise<CatalogTable[]> {
  const names = (await session.rows<{ name: string }>(NAMES_SQL)).map((row) => row.name).filter(wanted);
  if (names.length === 0) return [];
  const tables = await readUnlocked(session, [names, version >= 180_000]);
  // A table without any column cannot carry a row that anyone could tell from another.
  return tables.filter((table) => table.columns !== null && table.columns.length > 0);
}

async function readUnlocked(session: Session, values: readonly unknown[]): Promise<CatalogRow[]> {
  for (;;) {
    try {
      return await session.rows<CatalogRow>(TABLES_SQL, values);
    } catch (error) {
      if (sqlState(error) !== LOCK_NOT_AVAILABLE) throw error;
    }
  }
}

/** The table as batches describe it. Loads types that are not known yet. */
export async function tableSchemaOf(session: Session, types: TypeCatalog, table: CatalogTable): Promise<TableSchema> {
  await types.load(
    session,
    table.columns.map((column) => column.type),
  );
  return {
    schema: table.schema,
    table: table.table,
    identity: table.identity,
    columns: table.columns.map(
      (column): ColumnSchema => ({
        name: column.name,
        type: types.tree(column.type),
        typmod: column.typmod,
        sqlType: column.sqlType,
        key: table.key.indexOf(column.name) + 1,
      }),
    ),
  };
}
