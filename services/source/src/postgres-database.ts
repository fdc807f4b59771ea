import type { SourceConfig } from '@tributary/config';
import { keyColumns, type Lsn, parseLsn, type PgType, type TableSchema } from '@tributary/core';
import {
  type CatalogTable,
  quoteIdent,
  quoteLiteral,
  quoteTable,
  readTables,
  ReplicationReader,
  Session,
  tableSchemaOf,
  TypeCatalog,
  Visibility,
} from '@tributary/postgres';
import type {
  Look,
  Publication,
  ReplicateOptions,
  Replication,
  Rows,
  Server,
  Slot,
  SlotHealth,
  SourceDatabase,
  SourceSession,
} from './database.ts';
import type { RelationMessage } from './pgoutput.ts';
import { addTables, dropTable, ensurePublications, publishedTables } from './publications.ts';
import { ensureSlot, inspectServer, look, publicationNames, slotHealth, slotName } from './slot.ts';

/** Our own commits must not wait for somebody else's standby. */
const SETTINGS = { synchronous_commit: 'local' };

/** A real PostgreSQL. */
export class PostgresDatabase implements SourceDatabase {
  readonly #config: Pick<SourceConfig, 'name' | 'postgres'>;

  constructor(config: Pick<SourceConfig, 'name' | 'postgres'>) {
    this.#config = config;
  }

  async open(name: string): Promise<SourceSession> {
    const { name: source, postgres } = this.#config;
    return new PostgresSession(await Session.open(postgres, { name: `${source} ${name}`, settings: SETTINGS }), source);
  }

  replicate(options: ReplicateOptions): Replication {
    const { name, postgres } = this.#config;
    return new ReplicationReader({ ...options, connection: postgres, publications: publicationNames(name) });
  }
}

class PostgresSession implements SourceSession {
  readonly #session: Session;
  readonly #source: string;
  readonly #types = new TypeCatalog();
  #version: number | null = null;

  constructor(session: Session, source: string) {
    this.#session = session;
    this.#source = source;
  }

  server(): Promise<Server> {
    return inspectServer(this.#session);
  }

  async ensurePublications(): Promise<void> {
    return ensurePublications(this.#session, this.#source, await this.#serverVersion());
  }

  async ensureSlot(): Promise<Slot> {
    return ensureSlot(this.#session, this.#source, await this.#serverVersion());
  }

  slotHealth(): Promise<SlotHealth | null> {
    return slotHealth(this.#session, slotName(this.#source));
  }

  look(): Promise<Look> {
    return look(this.#session, slotName(this.#source));
  }

  async visibility(): Promise<Visibility> {
    const { snapshot } = await this.#session.row<{ snapshot: string }>('SELECT pg_current_snapshot()::text AS snapshot');
    return new Visibility(snapshot);
  }

  async nextXid(): Promise<bigint> {
    const { xid } = await this.#session.row<{ xid: string }>('SELECT pg_current_xact_id()::text AS xid');
    return BigInt(xid);
  }

  async emit(content: string): Promise<void> {
    await this.#session.prepared('emit', `SELECT pg_logical_emit_message(true, 'tributary', $1)`, [content]);
  }

  async tables(wanted: (name: string) => boolean): Promise<CatalogTable[]> {
    return readTables(this.#session, wanted, await this.#serverVersion());
  }

  schemaOf(table: CatalogTable): Promise<TableSchema> {
    return tableSchemaOf(this.#session, this.#types, table);
  }

  async typeNamed(name: string): Promise<PgType | null> {
    const { oid } = await this.#session.row<{ oid: number | null }>(
      `SELECT coalesce(to_regtype($1)::oid, (SELECT min(to_regtype(quote_ident(nspname) || '.' || $1)::oid) FROM pg_namespace
                WHERE position('.' in $1) = 0 AND nspname NOT LIKE 'pg\\_%'))::int8::float8 AS oid`,
      [name],
    );
    if (oid === null) return null;
    await this.#types.load(this.#session, [oid]);
    return this.#types.tree(oid);
  }

  /** The message tells names and types, the catalog what it still knows of them. */
  async historicSchema(relation: RelationMessage, table: CatalogTable | undefined): Promise<TableSchema> {
    const oids = relation.columns.map((column) => column.type);
    await this.#types.load(this.#session, oids);
    const names = await this.#session.rows<{ name: string }>(
      'SELECT format_type(t.oid, t.mod) AS name FROM unnest($1::oid[], $2::int[]) WITH ORDINALITY t(oid, mod, n) ORDER BY t.n',
      [oids, relation.columns.map((column) => column.typmod)],
    );
    const flagged = relation.identity === 'f' ? [] : relation.columns.filter((column) => column.key).map((column) => column.name);
    const all = new Set(relation.columns.map((column) => column.name));
    const present = table?.key.every((column) => all.has(column)) ? table.key : [];
    const key =
      present.length > 0 && (flagged.length === 0 || present.every((column) => flagged.includes(column))) ? present : flagged;
    return {
      schema: relation.schema,
      table: relation.table,
      identity: ({ d: 'default', i: 'index', f: 'full' } as const)[relation.identity] ?? 'nothing',
      columns: relation.columns.map((column, i) => {
        const sqlType = names[i]?.name ?? '???';
        return {
          name: column.name,
          type: this.#types.tree(column.type),
          typmod: column.typmod,
          sqlType: sqlType === '???' || sqlType === '-' ? 'text' : sqlType,
          key: key.indexOf(column.name) + 1,
        };
      }),
    };
  }

  published(): Promise<Record<Publication, Set<number>>> {
    return publishedTables(this.#session, this.#source);
  }

  publish(publication: Publication, tables: readonly CatalogTable[]): Promise<void> {
    return addTables(this.#session, this.#publicationName(publication), tables);
  }

  unpublish(publication: Publication, table: CatalogTable): Promise<void> {
    return dropTable(this.#session, this.#publicationName(publication), table);
  }

  async contentOf({ schema, table }: CatalogTable): Promise<string> {
    const { content } = await this.#session.row<{ content: string }>(
      `SELECT count(*) || ':' || coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) AS content FROM ${quoteTable(schema, table)} t`,
    );
    return content;
  }

  async begin(table?: CatalogTable): Promise<Visibility> {
    // LOCK takes no snapshot: the first statement behind it does.
    const lock = table ? `; LOCK TABLE ${onlyName(table)} IN ACCESS SHARE MODE` : '';
    await this.#session.run(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY${lock}`);
    return this.visibility();
  }

  async end(): Promise<void> {
    // Nothing was written, so COMMIT is the same as ROLLBACK, which is also what it does to a failed transaction.
    await this.#session.run('COMMIT');
  }

  copy(table: CatalogTable, schema: TableSchema, rows: Rows): AsyncGenerator<Buffer, number, undefined> {
    const columns = schema.columns.map((column) => quoteIdent(column.name)).join(', ');
    const from = rows.kind === 'range' ? `ONLY ${rows.leaf}` : onlyName(table);
    return this.#session.copyOut(`COPY (SELECT ${columns} FROM ${from}${condition(schema, rows)}) TO STDOUT (FORMAT csv)`);
  }

  async walPosition(): Promise<Lsn> {
    const { lsn } = await this.#session.row<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');
    return parseLsn(lsn);
  }

  close(): Promise<void> {
    return this.#session.close();
  }

  #publicationName(publication: Publication): string {
    const [all, append] = publicationNames(this.#source);
    return publication === 'all' ? all : append;
  }

  async #serverVersion(): Promise<number> {
    this.#version ??= (
      await this.#session.row<{ version: number }>(`SELECT current_setting('server_version_num')::int AS version`)
    ).version;
    return this.#version;
  }
}

/** Without tables that inherit from it, which are captured by themselves; partitions belong to it. */
function onlyName({ schema, table, partitioned }: CatalogTable): string {
  return `${partitioned ? '' : 'ONLY '}${quoteTable(schema, table)}`;
}

function condition(schema: TableSchema, rows: Rows): string {
  switch (rows.kind) {
    case 'all':
      return '';
    case 'where':
      return ` WHERE ${rows.where}`;
    case 'range':
      return ` WHERE ctid >= '(${rows.start},0)'${rows.end === null ? '' : ` AND ctid < '(${rows.end},0)'`}`;
    case 'keys': {
      const key = keyColumns(schema).map((index) => schema.columns[index] as TableSchema['columns'][number]);
      const values = rows.keys.map(
        (cells) => `(${cells.map((cell, i) => `${quoteLiteral(cell)}::${key[i]?.sqlType}`).join(', ')})`,
      );
      return ` WHERE (${key.map((column) => quoteIdent(column.name)).join(', ')}) IN (VALUES ${values.join(', ')})`;
    }
  }
}
