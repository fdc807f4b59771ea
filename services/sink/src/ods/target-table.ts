import { createHash } from 'node:crypto';
import {
  type ColumnSchema,
  compareSourcePosition,
  Fault,
  formatLsn,
  keyColumns,
  parseLsn,
  type SourcePosition,
  type TableSchema,
  tableName,
} from '@tributary/core';
import { quoteIdent, quoteTable, type Session } from '@tributary/postgres';
import type { Rewind } from '@tributary/projection';
import { assertAdoptable } from './adopt.ts';
import { ensureSchema } from './ensure-schema.ts';
import type { HistoryShape } from './history-table.ts';
import { HistoryTables } from './history-tables.ts';
import { isMark, live, versionWithMarks, versionWithoutMarks, withMarks, withoutMarks } from './marks.ts';
import type { MergedTable } from './merged-table.ts';
import type { TargetTypes } from './target-types.ts';
import type { Moment } from './versions.ts';

/** A table of the target as it is now, ready to be written. */
export interface TargetTable {
  /** `schema.table` of the source. */
  readonly name: string;
  /** Quoted. */
  readonly target: string;
  readonly schema: TableSchema;
  readonly version: string;
  readonly key: readonly number[];
  /** Quoted column names and their types, in the order of `schema.columns`; behind them the marks of deleted rows, if any. */
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  /** Deleted rows stay, and are marked. */
  readonly marked: boolean;
  readonly oid: number;
  /** A foreign key of the target's owner that is checked ties it to another table, or to itself: what is written first matters. */
  readonly tied: boolean;
  /** Oids of tables that its rows refer to. */
  readonly parents: readonly number[];
  /** Some of its foreign keys, or of those that refer to it, can be checked at the end of a transaction. */
  readonly deferrable: boolean;
  /** It has further unique indexes: a row that is gone may stand in the way of one that comes. */
  readonly unique: boolean;
  /** Its owner made it, and nothing but rows changes here. */
  readonly adopted: boolean;
  /** Rows of another table refer to it. */
  readonly referenced: boolean;
  /** The sink's role may truncate it. */
  readonly truncatable: boolean;
  /** Where the versions of its rows are kept; null = nowhere. */
  readonly history: HistoryShape | null;
  /** Quoted name of the table of keys seen since the snapshot began; null = no snapshot runs. */
  seen: string | null;
}

interface Registered {
  readonly version: string;
  readonly definition: TableSchema;
  readonly seen: string | null;
  readonly adopted: boolean;
}

export interface TargetTablesOptions {
  readonly sink: string;
  readonly source: string;
  readonly types: TargetTypes;
  readonly schemaOf: (schema: string) => string;
  /** Where the source is one shard of several: the tables here are partitions of the merged ones. */
  readonly merged: MergedTable | null;
  /** Tables that are there already are filled as they are. */
  readonly adopts: boolean;
  /** Foreign keys are checked. */
  readonly checksKeys: boolean;
  /** Versions of rows are kept. */
  readonly history: boolean;
  /** Deleted rows stay. */
  readonly marks: boolean;
}

/**
 * The tables of one source in the target: made from batch schemas, altered when those change. What stands in
 * `tributary.tables` is ours; a table of the same name that does not is left alone.
 */
export class TargetTables {
  readonly #options: TargetTablesOptions;
  readonly #tables = new Map<string, TargetTable>();
  readonly #histories: HistoryTables;

  constructor(options: TargetTablesOptions) {
    this.#options = options;
    const { sink, source, schemaOf, types, history: kept } = options;
    this.#histories = new HistoryTables({ sink, source, schemaOf, typeOf: (column) => types.columnType(column), kept });
  }

  forget(): void {
    this.#tables.clear();
  }

  /** Is nothing to be made or altered for this shape, here or in its history? */
  async has(session: Session, name: string, version: string): Promise<boolean> {
    if (this.#tables.get(name)?.version === version) return true;
    const registered = await this.#registered(session, name);
    if (registered?.version !== this.#versionOf(version)) return false;
    return this.#histories.inStep(session, registered.definition);
  }

  /** The target of a section, in exactly its shape. @param at when it is given that shape @throws Fault `target_conflict` */
  async ensure(
    { session, side }: { readonly session: Session; readonly side: Session },
    { schema, version }: { schema: TableSchema; version: string },
    at: Moment,
  ): Promise<TargetTable> {
    const name = tableName(schema);
    const known = this.#tables.get(name);
    if (known?.version === version) return known;
    const { types, merged, marks } = this.#options;
    assertUnmarked(schema, this.#options);
    const shape = { schema: marks ? withMarks(schema) : schema, version: this.#versionOf(version) };
    // Before anything is made: types are shared too.
    if (merged && !(await this.has(session, name, version))) await merged.lock(session);
    await types.ensure(session, side, shape.schema);
    const registered = await this.#registered(session, name);
    const place = { schema: this.#options.schemaOf(shape.schema.schema), table: shape.schema.table };
    const adopts = registered ? registered.adopted : this.#options.adopts && (await isThere(session, this.target(shape.schema)));
    if (registered && !marks && hasMarks(registered.definition))
      await session.run(`DELETE FROM ${this.target(schema)} WHERE NOT (${live()})`);
    if (adopts) await this.#adopt(session, shape);
    else if (!registered) await this.#create(session, shape, place);
    else if (registered.version !== shape.version) await this.#alter(session, registered.definition, shape);
    await this.#register(session, name, { ...shape, adopted: adopts });
    // Made anew: what an earlier one had noted does not count for this one.
    if (!registered) await this.#noteSeen(session, name, null);
    const rest = { seen: registered?.seen ?? null, adopted: adopts };
    const described = await this.#describe(session, name, { schema, version, ...rest });
    if (adopts && registered?.version !== shape.version) await this.#beginAdopted(session, described, !registered);
    const rekeyed = registered !== null && isRekeyed(registered.definition, schema);
    const rows = marks ? `(SELECT * FROM ${described.target} WHERE ${live()})` : described.target;
    const history = await this.#histories.ensure(session, { schema, rows, rekeyed }, at);
    const table = { ...described, history };
    this.#tables.set(name, table);
    return table;
  }

  async #adopt(session: Session, { schema }: { schema: TableSchema }): Promise<void> {
    await assertAdoptable(session, { schema, target: this.target(schema) }, (column) => this.#options.types.columnType(column));
  }

  /** Rows that are there and that the source does not name until its snapshot ends go then; those it names keep what else they hold. */
  async #beginAdopted(session: Session, table: TargetTable, first: boolean): Promise<void> {
    const { filled } = await session.row<{ filled: boolean }>(`SELECT EXISTS (SELECT 1 FROM ${table.target}) AS filled`);
    if (!filled) return;
    if (table.key.length > 0) await this.beginSeen(session, table);
    else if (first) await session.run(`DELETE FROM ${table.target}`);
  }

  /** A table that was made before, whatever shape it has; null when it was not. */
  async find(session: Session, name: string): Promise<TargetTable | null> {
    const known = this.#tables.get(name);
    if (known) return known;
    const registered = await this.#registered(session, name);
    if (!registered) return null;
    const { definition, seen, adopted } = registered;
    const schema = withoutMarks(definition);
    const version = versionWithoutMarks(registered.version);
    await this.#options.types.ensure(session, session, schema);
    const described = await this.#describe(session, name, { schema, version, seen, adopted });
    // What is to be done about its history and its marks is for `ensure`.
    if (registered.version !== this.#versionOf(version) || !(await this.#histories.inStep(session, schema))) return described;
    const table = this.#options.history ? { ...described, history: await this.#histories.shape(session, schema) } : described;
    this.#tables.set(name, table);
    return table;
  }

  /** Forgets a table, and the versions of its rows. */
  async remove(session: Session, name: string): Promise<void> {
    const { sink, source } = this.#options;
    const table = await this.find(session, name);
    // Rows of an adopted one are told from those of the source when it is read again.
    if (table && !table.adopted) await session.run(`DROP TABLE IF EXISTS ${table.target}`);
    if (table?.seen) await session.run(`DROP TABLE IF EXISTS ${table.seen}`);
    await this.#histories.drop(session, name);
    await session.run('DELETE FROM tributary.tables WHERE sink = $1 AND source = $2 AND name = $3', [sink, source, name]);
  }

  /** Names of everything of this source, by any part. */
  async names(session: Session): Promise<string[]> {
    const { sink, source } = this.#options;
    const rows = await session.rows<{ name: string }>(
      'SELECT name FROM tributary.tables WHERE sink = $1 AND source = $2 ORDER BY name',
      [sink, source],
    );
    return rows.map((row) => row.name);
  }

  /** Tables that hold everything up to a position, since a rewind that kept them. */
  async held(session: Session): Promise<Map<string, SourcePosition>> {
    const { sink, source } = this.#options;
    const rows = await session.rows<{ name: string; lsn: string; ordinal: string }>(
      `SELECT name, held_lsn::text AS lsn, held_ordinal AS ordinal FROM tributary.tables
        WHERE sink = $1 AND source = $2 AND held_lsn IS NOT NULL`,
      [sink, source],
    );
    return new Map(rows.map(({ name, lsn, ordinal }) => [name, { lsn: parseLsn(lsn), ordinal: Number(ordinal) }]));
  }

  /** Notes that a table holds everything up to a position. */
  async hold(session: Session, name: string, until: SourcePosition): Promise<void> {
    const { sink, source } = this.#options;
    await session.run(
      'UPDATE tributary.tables SET held_lsn = $4, held_ordinal = $5 WHERE sink = $1 AND source = $2 AND name = $3',
      [sink, source, name, formatLsn(until.lsn), until.ordinal],
    );
  }

  /**
   * Notes which tables stay as they are until the position passes `until` again. A table that an earlier rewind kept and
   * whose place lies further ahead keeps that place. Keys noted for snapshots that will begin again are let go of.
   */
  async rewind(
    session: Session,
    { names, to, until, kept, begun, foreign }: Omit<Rewind, 'watermark'> & { readonly names: readonly string[] },
  ): Promise<void> {
    const { sink, source } = this.#options;
    const before = await this.held(session);
    for (const name of names) {
      const ahead = before.get(name);
      if (ahead && !foreign && compareSourcePosition(ahead, until) > 0) continue;
      const at = kept.has(name) ? until : null;
      const table = !at && (foreign || begun.has(name)) ? await this.find(session, name) : null;
      if (table) await this.endSeen(session, table);
      if (!at) await this.#histories.cut(session, name, { to, begun: foreign ? to : (begun.get(name) ?? null) });
      await session.run(
        'UPDATE tributary.tables SET held_lsn = $4, held_ordinal = $5 WHERE sink = $1 AND source = $2 AND name = $3',
        [sink, source, name, at && formatLsn(at.lsn), at && at.ordinal],
      );
    }
  }

  target(schema: TableSchema): string {
    return quoteTable(this.#options.schemaOf(schema.schema), schema.table);
  }

  /** Begins to note keys that a snapshot, or the stream beside it, names. */
  async beginSeen(session: Session, table: TargetTable): Promise<void> {
    const { sink, source } = this.#options;
    if (table.seen) await session.run(`DROP TABLE IF EXISTS ${table.seen}`);
    table.seen = quoteTable('tributary', seenName(`${sink}/${source}/${table.name}`));
    const columns = table.key.map((c) => `${table.columns[c]?.name} ${table.columns[c]?.type}`);
    const names = table.key.map((c) => table.columns[c]?.name);
    await session.run(
      `DROP TABLE IF EXISTS ${table.seen}; CREATE TABLE ${table.seen} (${columns.join(', ')}, PRIMARY KEY (${names.join(', ')}))`,
    );
    await this.#noteSeen(session, table.name, table.seen);
  }

  async endSeen(session: Session, table: TargetTable): Promise<void> {
    if (table.seen) await session.run(`DROP TABLE IF EXISTS ${table.seen}`);
    table.seen = null;
    await this.#noteSeen(session, table.name, null);
  }

  async #noteSeen(session: Session, name: string, seen: string | null): Promise<void> {
    const { sink, source } = this.#options;
    await session.run('UPDATE tributary.tables SET seen = $4 WHERE sink = $1 AND source = $2 AND name = $3', [
      sink,
      source,
      name,
      seen,
    ]);
  }

  /** What is known of a table of ours; null also when somebody dropped it: it is then made anew with its next row. */
  async #registered(session: Session, name: string): Promise<Registered | null> {
    const { sink, source } = this.#options;
    const [row] = await session.rows<Registered>(
      `SELECT version, definition, seen, adopted FROM tributary.tables
        WHERE sink = $1 AND source = $2 AND name = $3 AND to_regclass(target) IS NOT NULL`,
      [sink, source, name],
    );
    return row ?? null;
  }

  async #register(
    session: Session,
    name: string,
    { schema, version, adopted = false }: { schema: TableSchema; version: string; adopted?: boolean },
  ): Promise<void> {
    const { sink, source, merged } = this.#options;
    await session.run(
      `INSERT INTO tributary.tables (sink, source, name, target, version, definition, merged, adopted) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
       ON CONFLICT (sink, source, name) DO UPDATE SET version = excluded.version, definition = excluded.definition, adopted = excluded.adopted`,
      [sink, source, name, this.target(schema), version, JSON.stringify(schema), merged?.target(schema) ?? null, adopted],
    );
  }

  async #create(
    session: Session,
    shape: { schema: TableSchema; version: string },
    place: { schema: string; table: string },
  ): Promise<void> {
    const { schema } = shape;
    const target = quoteTable(place.schema, place.table);
    const existing = await session.rows<{ name: string; type: string }>(
      `SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type FROM pg_attribute a
        WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`,
      [target],
    );
    if (existing.length > 0) {
      const wanted = schema.columns.map((column) => `${column.name} ${this.#options.types.columnType(column)}`);
      const found = existing.map((column) => `${column.name} ${column.type}`);
      const shapes =
        wanted.join() === found.join() ? '' : ` with another shape (there: ${found.join(', ')}; needed: ${wanted.join(', ')})`;
      throw new Fault(
        'target_conflict',
        `table ${target} is already there${shapes}, and Tributary did not make it. Move it away (ALTER TABLE ${target} RENAME TO …), give sink ${this.#options.sink} another "schema", or "existing: adopt", which makes its rows those of the source.`,
        { table: tableName(schema) },
      );
    }
    const key = keyColumns(schema).map((c) => quoteIdent((schema.columns[c] as ColumnSchema).name));
    const { merged } = this.#options;
    await ensureSchema(session, place.schema);
    if (merged) {
      if (merged.target(schema) === target)
        throw new Fault(
          'config_invalid',
          `"merge" of sink ${this.#options.sink}: ${target} is also where a shard's own partition stands. Name another "into"`,
        );
      await merged.ensureSchema(session, schema);
      await this.#register(session, tableName(schema), shape);
      await merged.align(session, schema, []);
      await merged.createPartition(session, target, schema);
      if (key.length > 0) await session.run(`ALTER TABLE ${target} ADD PRIMARY KEY (${key.join(', ')})`);
      return;
    }
    const columns = schema.columns.map((column) => `${quoteIdent(column.name)} ${this.#options.types.columnType(column)}`);
    if (key.length > 0) columns.push(`PRIMARY KEY (${key.join(', ')})`);
    await session.run(`CREATE TABLE ${target} (${columns.join(', ')})`);
  }

  /** The source reads a table again after its shape changed, so values of new columns need no care here. */
  async #alter(session: Session, from: TableSchema, shape: { schema: TableSchema; version: string }): Promise<void> {
    const { schema: to } = shape;
    const target = this.target(to);
    const { merged } = this.#options;
    const steps: string[] = [];
    const before = new Map(from.columns.map((column) => [column.name, column]));
    const after = new Map(to.columns.map((column) => [column.name, column]));
    const keyChanged = isRekeyed(from, to);
    if (keyChanged) {
      // The rows cannot be told apart by the new key before the source has read them again.
      await session.run(`TRUNCATE ${target}`);
      await session.run(
        `DO $$ DECLARE name text; BEGIN SELECT conname INTO name FROM pg_constraint WHERE conrelid = '${target.replaceAll("'", "''")}'::regclass AND contype = 'p';
         IF name IS NOT NULL THEN EXECUTE format('ALTER TABLE ${target.replaceAll("'", "''").replaceAll('%', '%%')} DROP CONSTRAINT %I', name); END IF; END $$`,
      );
    }
    if (merged) {
      // Columns are those of all shards: what this one no longer says is forgotten here, and made or removed there.
      const gone = from.columns.filter(({ name }) => typeOf(before.get(name)) !== typeOf(after.get(name)));
      if (keyChanged) {
        for (const { name, key } of from.columns)
          if (key > 0 && !keyOf(to).includes(name))
            await session.run(`ALTER TABLE ${target} ALTER COLUMN ${quoteIdent(name)} DROP NOT NULL`);
      } else if (gone.length > 0) {
        await session.run(`UPDATE ${target} SET ${gone.map(({ name }) => `${quoteIdent(name)} = NULL`).join(', ')}`);
      }
      await this.#register(session, tableName(to), shape);
      await merged.align(
        session,
        to,
        gone.filter(({ name }) => !after.has(name)).map(({ name }) => name),
      );
      if (keyChanged && keyOf(to).length > 0)
        await session.run(`ALTER TABLE ${target} ADD PRIMARY KEY (${keyOf(to).map(quoteIdent).join(', ')})`);
      return;
    }
    for (const column of from.columns) if (!after.has(column.name)) steps.push(`DROP COLUMN ${quoteIdent(column.name)}`);
    for (const column of to.columns) {
      const name = quoteIdent(column.name);
      const type = this.#options.types.columnType(column);
      const old = before.get(column.name);
      if (!old) steps.push(`ADD COLUMN ${name} ${type}`);
      else if (typeOf(old) !== typeOf(column)) steps.push(`DROP COLUMN ${name}`, `ADD COLUMN ${name} ${type}`);
      else if (keyChanged && old.key > 0 && column.key === 0) steps.push(`ALTER COLUMN ${name} DROP NOT NULL`);
    }
    if (keyChanged && keyOf(to).length > 0) steps.push(`ADD PRIMARY KEY (${keyOf(to).map(quoteIdent).join(', ')})`);
    for (const step of steps) await session.run(`ALTER TABLE ${target} ${step}`);
  }

  #versionOf(version: string): string {
    return this.#options.marks ? versionWithMarks(version) : version;
  }

  async #describe(
    session: Session,
    name: string,
    shape: { schema: TableSchema; version: string; seen: string | null; adopted: boolean },
  ): Promise<TargetTable> {
    const target = this.target(shape.schema);
    const key = keyColumns(shape.schema);
    const ties = await session.row<Ties>(TIES_SQL, [
      target,
      key.map((c) => (shape.schema.columns[c] as ColumnSchema).name).toSorted(),
      this.#options.checksKeys,
    ]);
    const there = this.#options.merged ? await columnTypes(session, target) : null;
    const { marks: marked } = this.#options;
    const columns = (marked ? withMarks(shape.schema) : shape.schema).columns.map((column) => ({
      name: quoteIdent(column.name),
      // Where shards differ about it the merged table's type is another.
      type: there?.get(column.name) ?? this.#options.types.columnType(column),
    }));
    return { name, target, ...shape, key, columns, marked, ...ties, history: null };
  }
}

type Ties = Pick<TargetTable, 'oid' | 'tied' | 'parents' | 'deferrable' | 'unique' | 'referenced' | 'truncatable'>;

/** Asked once a shape and session: a foreign key that its owner makes later is met when it first refuses a row, and then the sink starts anew. */
const TIES_SQL = `
WITH keys AS (SELECT * FROM pg_constraint WHERE contype = 'f' AND (conrelid = $1::regclass OR confrelid = $1::regclass))
SELECT $1::regclass::oid::int8::float8 AS oid, $3::bool AND EXISTS (SELECT 1 FROM keys) AS tied,
       coalesce((SELECT json_agg(DISTINCT confrelid::int8) FROM keys WHERE conrelid = $1::regclass AND conrelid <> confrelid), '[]') AS parents,
       $3::bool AND EXISTS (SELECT 1 FROM keys WHERE condeferrable) AS deferrable,
       EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = $1::regclass AND i.indisunique AND i.indimmediate AND NOT i.indisprimary
          AND ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) k(n) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n ORDER BY 1) <> $2::text[]) AS unique,
       EXISTS (SELECT 1 FROM keys WHERE confrelid = $1::regclass AND conrelid <> confrelid) AS referenced,
       has_table_privilege($1::regclass, 'TRUNCATE') AS truncatable`;

async function isThere(session: Session, target: string): Promise<boolean> {
  return (await session.row<{ there: boolean }>('SELECT to_regclass($1) IS NOT NULL AS there', [target])).there;
}

async function columnTypes(session: Session, target: string): Promise<Map<string, string>> {
  const rows = await session.rows<{ name: string; type: string }>(
    `SELECT attname AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute
      WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped`,
    [target],
  );
  return new Map(rows.map(({ name, type }) => [name, type]));
}

/** One name for every table of every source, however long or alike their names are. */
export function seenName(table: string): string {
  return `seen_${createHash('sha256').update(table).digest('hex').slice(0, 40)}`;
}

function hasMarks(schema: TableSchema): boolean {
  return schema.columns.some(({ name }) => isMark(name));
}

/** @throws Fault `target_conflict` where a table of the source has a column that marks deleted rows */
function assertUnmarked(schema: TableSchema, { marks, sink }: Pick<TargetTablesOptions, 'marks' | 'sink'>): void {
  const own = marks && schema.columns.find(({ name }) => isMark(name));
  if (!own) return;
  throw new Fault(
    'target_conflict',
    `table ${tableName(schema)} has a column ${own.name} of its own, and "softDelete" of sink ${sink} marks deleted rows with one of that name. Leave the table out of "from", or rename the column in a transform.`,
    { table: tableName(schema) },
  );
}

function keyOf(schema: TableSchema): string[] {
  return keyColumns(schema).map((c) => (schema.columns[c] as ColumnSchema).name);
}

/** Must the rows be read again before they can be told apart? */
function isRekeyed(from: TableSchema, to: TableSchema): boolean {
  const typeIn = (schema: TableSchema, name: string) => typeOf(schema.columns.find((column) => column.name === name));
  return keyOf(from).join() !== keyOf(to).join() || keyOf(to).some((name) => typeIn(from, name) !== typeIn(to, name));
}

function typeOf(column: ColumnSchema | undefined): string {
  return column ? `${column.sqlType} ${column.type.kind}` : '';
}
