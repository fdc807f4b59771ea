import { type ColumnSchema, Fault, type TableSchema, tableName } from '@tributary/core';
import { quoteIdent, quoteLiteral, quoteTable, type Session } from '@tributary/postgres';
import { ensureSchema } from './ensure-schema.ts';
import type { TargetTypes } from './target-types.ts';

/** Several sources of one sink write shapes of the same tables: one after the other. */
const MERGE_LOCK = 7_215_005;

export interface MergeOptions {
  readonly sink: string;
  /** The source: its name is the value of the shard column. */
  readonly shard: string;
  /** Name of the shard column. */
  readonly column: string;
  readonly types: TargetTypes;
  /** Schema of the merged table of a source's schema. */
  readonly schemaOf: (schema: string) => string;
}

/** Types of which an unbounded form keeps every value's text. */
const UNBOUNDED = /^(numeric|character varying|bit varying|time|timestamp)\b/;
const INTEGERS = ['smallint', 'integer', 'bigint'];

/**
 * One table that holds the rows of all shards, told apart by the shard column. It is partitioned by that column, and each source
 * writes its own partition and nothing else: whatever happens to a source (deletes, sweeps, truncations, snapshots, a replay from
 * the start, a restore) cannot touch another one's rows, so a row that moves between shards ends where it is, in whatever order
 * the two databases are seen.
 */
export class MergedTable {
  readonly #options: MergeOptions;

  constructor(options: MergeOptions) {
    this.#options = options;
  }

  /** Quoted. */
  target(schema: Pick<TableSchema, 'schema' | 'table'>): string {
    return quoteTable(this.#options.schemaOf(schema.schema), schema.table);
  }

  async ensureSchema(session: Session, schema: TableSchema): Promise<void> {
    await ensureSchema(session, this.#options.schemaOf(schema.schema));
  }

  /** Until the transaction ends. */
  async lock(session: Session): Promise<void> {
    await session.run('SELECT pg_advisory_xact_lock($1, hashtext($2))', [MERGE_LOCK, this.#options.sink]);
  }

  /** The partition of this shard, empty. Call {@link align} before. */
  async createPartition(session: Session, partition: string, schema: TableSchema): Promise<void> {
    const { column, shard } = this.#options;
    const merged = this.target(schema);
    await session.run(`CREATE TABLE ${partition} (LIKE ${merged} INCLUDING DEFAULTS)`);
    await session.run(`ALTER TABLE ${partition} ALTER COLUMN ${quoteIdent(column)} SET DEFAULT ${quoteLiteral(shard)}`);
    await session.run(`ALTER TABLE ${merged} ATTACH PARTITION ${partition} FOR VALUES IN (${quoteLiteral(shard)})`);
  }

  /**
   * Makes the merged table, or gives it the shape that all shards need together. Shards change their shapes at different times: a
   * column stays as long as one of them has it, and where they differ about its type it is the narrowest that keeps the text of
   * all their values.
   * @param dropped columns that this shard no longer has
   */
  async align(session: Session, schema: TableSchema, dropped: readonly string[]): Promise<void> {
    const { column, sink } = this.#options;
    const merged = this.target(schema);
    const wanted = await this.#wanted(session, schema);
    if (wanted.has(column)) {
      throw new Fault(
        'target_conflict',
        `table ${tableName(schema)} has a column ${column} of its own: give "merge" of sink ${sink} another "shard"`,
        {
          table: tableName(schema),
        },
      );
    }
    const { there } = await session.row<{ there: boolean }>('SELECT to_regclass($1) IS NOT NULL AS there', [merged]);
    // What a shard that is being read anew had added is still there.
    const stays = there ? Object.entries(await this.#made(session, merged)).filter(([name]) => !dropped.includes(name)) : [];
    if (there) await this.#alter(session, merged, { wanted, dropped });
    else await this.#create(session, merged, wanted);
    await session.run(
      `INSERT INTO tributary.merged (sink, target, columns) VALUES ($1, $2, $3)
       ON CONFLICT (sink, target) DO UPDATE SET columns = excluded.columns`,
      [sink, merged, JSON.stringify(Object.fromEntries(there ? [...stays, ...wanted] : wanted))],
    );
  }

  async #alter(
    session: Session,
    merged: string,
    { wanted, dropped }: { wanted: ReadonlyMap<string, string>; dropped: readonly string[] },
  ): Promise<void> {
    const made = await this.#made(session, merged);
    for (const [name, type] of wanted) {
      const quoted = quoteIdent(name);
      if (made[name] === undefined) await session.run(`ALTER TABLE ${merged} ADD COLUMN ${quoted} ${type}`);
      else if (made[name] !== type)
        await session.run(`ALTER TABLE ${merged} ALTER COLUMN ${quoted} TYPE ${type} USING ${quoted}::text::${type}`);
    }
    for (const name of dropped)
      if (!wanted.has(name) && made[name] !== undefined)
        await session.run(`ALTER TABLE ${merged} DROP COLUMN ${quoteIdent(name)}`);
  }

  async #create(session: Session, merged: string, wanted: ReadonlyMap<string, string>): Promise<void> {
    const { column } = this.#options;
    const columns = [...wanted].map(([name, type]) => `${quoteIdent(name)} ${type}`);
    await session.run(
      `CREATE TABLE ${merged} (${columns.join(', ')}, ${quoteIdent(column)} text NOT NULL) PARTITION BY LIST (${quoteIdent(column)})`,
    );
  }

  /** The types that its columns were given, by name. @throws Fault `target_conflict` when it is not this sink's */
  async #made(session: Session, merged: string): Promise<Readonly<Record<string, string>>> {
    const { sink } = this.#options;
    const [ours] = await session.rows<{ columns: Record<string, string> }>(
      'SELECT columns FROM tributary.merged WHERE sink = $1 AND target = $2',
      [sink, merged],
    );
    if (ours) return ours.columns;
    throw new Fault(
      'target_conflict',
      `table ${merged} is already there and sink ${sink} did not make it. Move it away (ALTER TABLE ${merged} RENAME TO …), or give "merge" another "into".`,
      { table: merged },
    );
  }

  /** Columns and types by what all shards have said of the table. */
  async #wanted(session: Session, schema: TableSchema): Promise<Map<string, string>> {
    const rows = await session.rows<{ definition: TableSchema }>(
      'SELECT definition FROM tributary.tables WHERE sink = $1 AND merged = $2 ORDER BY source <> $3, source',
      [this.#options.sink, this.target(schema), this.#options.shard],
    );
    const columns = new Map<string, ColumnSchema[]>();
    for (const { definition } of rows)
      for (const column of definition.columns) columns.set(column.name, [...(columns.get(column.name) ?? []), column]);
    return new Map([...columns].map(([name, all]) => [name, this.#united(all)]));
  }

  #united(columns: readonly ColumnSchema[]): string {
    return unitedType(columns.map((column) => this.#options.types.columnType(column)));
  }
}

/** The narrowest type that keeps the text of all values of these. */
export function unitedType(all: readonly string[]): string {
  const types = [...new Set(all)];
  const [first = 'text', ...others] = types;
  if (others.length === 0) return first;
  if (types.every((type) => INTEGERS.includes(type)))
    return types.reduce((wide, type) => (INTEGERS.indexOf(type) > INTEGERS.indexOf(wide) ? type : wide));
  const unbounded = new Set(types.map((type) => type.replace(/\(.*?\)/, '')));
  return unbounded.size === 1 && UNBOUNDED.test(first) ? ([...unbounded][0] as string) : 'text';
}
