import { historySchema } from '@tributary/config';
import { type ColumnSchema, Fault, keyColumns, type SourcePosition, type TableSchema, tableName } from '@tributary/core';
import { quoteIdent, quoteTable, type Session } from '@tributary/postgres';
import { createHash } from 'node:crypto';
import { ensureSchema } from './ensure-schema.ts';
import { HISTORY_COLUMNS, HISTORY_DEFINITION, type HistoryShape, HistoryTable } from './history-table.ts';
import { unitedType } from './merged-table.ts';
import type { Moment } from './versions.ts';

/** PostgreSQL cuts longer names, which would make two schemas the same. */
const NAME_BYTES = 63;

export interface HistoryTablesOptions {
  readonly sink: string;
  readonly source: string;
  readonly schemaOf: (schema: string) => string;
  readonly typeOf: (column: ColumnSchema) => string;
  /** Is history kept, or only told that it has been? */
  readonly kept: boolean;
}

interface Noted {
  /** Quoted; null = none was made. */
  readonly history: string | null;
  /** Changes were made since that it does not have. */
  readonly behind: boolean;
  readonly there: boolean;
}

/**
 * The tables of versions of one source: made beside the current ones, and given every column that these ever had. What stands
 * in `tributary.tables` is ours. Where history is asked for later than the rows came, or again after a while, it begins with the rows as they
 * are; what happened meanwhile is not known.
 */
export class HistoryTables {
  readonly #options: HistoryTablesOptions;

  constructor(options: HistoryTablesOptions) {
    this.#options = options;
  }

  /**
   * The table of versions of a current table, in step with it.
   * @param table its `rows` as a FROM item, its shape, and whether it has another key than before
   * @param at when this is done: before the first change that is then written
   * @throws Fault `target_conflict`, `config_invalid`
   */
  async ensure(
    session: Session,
    table: { readonly schema: TableSchema; readonly rows: string; readonly rekeyed: boolean },
    at: Moment,
  ): Promise<HistoryShape | null> {
    const { schema, rows, rekeyed } = table;
    const name = tableName(schema);
    const noted = await this.#noted(session, name);
    if (!this.#options.kept) {
      if (noted.history && !noted.behind) await this.#note(session, name, { ...noted, behind: true });
      return null;
    }
    const history = this.#target(schema);
    const made = noted.there && noted.history === history;
    if (!made) await this.#create(session, history, schema);
    await this.#align(session, history, schema);
    const shape = await this.shape(session, schema);
    const writer = new HistoryTable(shape, session);
    // Rows cannot be told apart by the new key before the source has read them again.
    if (rekeyed && made) await writer.endAll(at, 't');
    if (rekeyed || !made) await this.#index(session, history, schema);
    if (!made || noted.behind) {
      if (shape.key.length > 0) await writer.sweep(rows, at);
      else await writer.endAll(at, 's');
      await writer.read({ rows, values: [] }, at);
    }
    if (!made || noted.behind) await this.#note(session, name, { history, behind: false });
    return shape;
  }

  /** Is a table of versions there, and in step? */
  async inStep(session: Session, schema: TableSchema): Promise<boolean> {
    const noted = await this.#noted(session, tableName(schema));
    return this.#options.kept ? noted.there && !noted.behind && noted.history === this.#target(schema) : !noted.history;
  }

  /** Of a table that is in step. */
  async shape(session: Session, schema: TableSchema): Promise<HistoryShape> {
    const history = this.#target(schema);
    const there = await this.#columns(session, history, []);
    const columns = schema.columns.map(({ name }) => ({ name: quoteIdent(name), type: there.get(name)?.type ?? 'text' }));
    return { history, columns, key: keyColumns(schema) };
  }

  async drop(session: Session, name: string): Promise<void> {
    const { history } = await this.#noted(session, name);
    if (history) await session.run(`DROP TABLE IF EXISTS ${history}`);
  }

  /** Lets go of what lies behind a position: {@link HistoryTable.cut}. */
  async cut(session: Session, name: string, { to, begun }: { to: SourcePosition; begun: SourcePosition | null }): Promise<void> {
    const { history, there } = await this.#noted(session, name);
    if (history && there) await new HistoryTable({ history, columns: [], key: [] }, session).cut(to, begun);
  }

  #target({ schema, table }: TableSchema): string {
    const within = historySchema(this.#options.schemaOf(schema));
    if (Buffer.byteLength(within) > NAME_BYTES)
      throw new Fault(
        'config_invalid',
        `"history" of sink ${this.#options.sink}: schema ${within} has a name of more than ${NAME_BYTES} bytes. Give the sink a shorter "schema".`,
      );
    return quoteTable(within, table);
  }

  async #noted(session: Session, name: string): Promise<Noted> {
    const { sink, source } = this.#options;
    const [row] = await session.rows<Noted>(
      `SELECT history, history_behind AS behind, history IS NOT NULL AND to_regclass(history) IS NOT NULL AS there FROM tributary.tables
        WHERE sink = $1 AND source = $2 AND name = $3`,
      [sink, source, name],
    );
    return row ?? { history: null, behind: false, there: false };
  }

  async #note(session: Session, name: string, { history, behind }: Pick<Noted, 'history' | 'behind'>): Promise<void> {
    const { sink, source } = this.#options;
    await session.run(
      'UPDATE tributary.tables SET history = $4, history_behind = $5 WHERE sink = $1 AND source = $2 AND name = $3',
      [sink, source, name, history, behind],
    );
  }

  async #create(session: Session, history: string, schema: TableSchema): Promise<void> {
    const { there } = await session.row<{ there: boolean }>('SELECT to_regclass($1) IS NOT NULL AS there', [history]);
    if (there)
      throw new Fault(
        'target_conflict',
        `table ${history} is already there and sink ${this.#options.sink} did not make it: the history of ${tableName(schema)} would stand there. Move it away (ALTER TABLE ${history} RENAME TO …), or give the sink another "schema".`,
        { table: tableName(schema) },
      );
    await ensureSchema(session, historySchema(this.#options.schemaOf(schema.schema)));
    const columns = schema.columns.map((column) => `${quoteIdent(column.name)} ${this.#options.typeOf(column)}`);
    await session.run(`CREATE TABLE ${history} (${[...columns, ...HISTORY_DEFINITION].join(', ')})`);
  }

  /**
   * Columns only ever come: versions keep what a column held that is gone. A type that changed becomes the narrowest that keeps the text of
   * what was and what will be.
   */
  async #align(session: Session, history: string, schema: TableSchema): Promise<void> {
    const own = schema.columns.find(({ name }) => HISTORY_COLUMNS.some((mark) => mark.name === name));
    if (own)
      throw new Fault(
        'target_conflict',
        `table ${tableName(schema)} has a column ${own.name} of its own, and "history" of sink ${this.#options.sink} gives every version one of that name. Leave the table out of "from", or rename the column in a transform.`,
        { table: tableName(schema) },
      );
    const there = await this.#columns(session, history, schema.columns);
    for (const column of schema.columns) {
      const name = quoteIdent(column.name);
      const type = this.#options.typeOf(column);
      const found = there.get(column.name);
      if (!found) await session.run(`ALTER TABLE ${history} ADD COLUMN ${name} ${type}`);
      else if (found.type !== type && found.type !== found.wanted) {
        const united = unitedType([found.type, type]);
        if (united !== found.type)
          await session.run(`ALTER TABLE ${history} ALTER COLUMN ${name} TYPE ${united} USING ${name}::text::${united}`);
      }
    }
  }

  /** Found by: the open version of a key; the one that ended at a position, and all of a key in their order. */
  async #index(session: Session, history: string, schema: TableSchema): Promise<void> {
    const within = quoteIdent(historySchema(this.#options.schemaOf(schema.schema)));
    const id = createHash('sha256').update(history).digest('hex').slice(0, 16);
    const key = keyColumns(schema).map((c) => quoteIdent((schema.columns[c] as ColumnSchema).name));
    await session.run(`DROP INDEX IF EXISTS ${within}.open_${id}, ${within}.ended_${id}`);
    if (key.length === 0) return;
    await session.run(`CREATE UNIQUE INDEX open_${id} ON ${history} (${key.join(', ')}) WHERE _to_lsn IS NULL`);
    await session.run(`CREATE INDEX ended_${id} ON ${history} (${key.join(', ')}, _to_lsn, _to_ordinal)`);
  }

  /** Types by column; `wanted` is what the type of a column that is asked for is called here. */
  async #columns(
    session: Session,
    history: string,
    asked: readonly ColumnSchema[],
  ): Promise<Map<string, { type: string; wanted: string | null }>> {
    const rows = await session.rows<{ name: string; type: string; wanted: string | null }>(
      `SELECT attname AS name, format_type(atttypid, atttypmod) AS type,
              (SELECT format_type(to_regtype(w.type), NULL) FROM unnest($2::text[], $3::text[]) w(name, type) WHERE w.name = attname) AS wanted
         FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped`,
      [history, asked.map(({ name }) => name), asked.map((column) => this.#options.typeOf(column))],
    );
    return new Map(rows.map(({ name, ...rest }) => [name, rest]));
  }
}
