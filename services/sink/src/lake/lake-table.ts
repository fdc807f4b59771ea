import {
  type Cell,
  compareSourcePosition,
  formatLsn,
  keyColumns,
  Op,
  type Section,
  type SourcePosition,
  type StoredBatch,
  type TableSchema,
  tableName,
} from '@tributary/core';
import {
  type Duck,
  duckIdent,
  duckLiteral,
  isUnchanged,
  load,
  loadCells,
  Loader,
  plain,
  typedColumn,
  type TypedColumn,
} from '@tributary/duckdb';
import { NetChanges, oldRows } from '@tributary/projection';

/** From so many new rows on they go straight into the table. */
const FRESH_ROWS = 64;
/** A section of at least so many rows goes into history by itself. */
const RECORD_ROWS = 256;
/** Folded rows are written when so many have come together. */
const FOLD_ROWS_MAX = 50_000;

interface HistoryRecord {
  readonly op: string;
  /** LSN, ordinal, xid, committedAt (µs), seq. */
  readonly place: readonly (string | number)[];
  readonly before: string;
  readonly cells: readonly Cell[];
}

/** What is kept of every change beside its values. */
const HISTORY = [
  ['_op', 'VARCHAR'],
  ['_lsn', 'VARCHAR'],
  ['_ordinal', 'BIGINT'],
  ['_xid', 'BIGINT'],
  ['_committed_at', 'TIMESTAMPTZ'],
  ['_seq', 'BIGINT'],
  ['_unchanged', 'VARCHAR'],
  ['_before', 'VARCHAR'],
] as const;
const HISTORY_NAMES = HISTORY.map(([name]) => name).join(', ');

/**
 * One table of the lake's state, inside the open transaction: every row of the compacted changelog as PostgreSQL's own
 * text, and the part of its history that is not in Parquet yet. Changes are folded to the last one per key and written
 * on `flush`.
 */
export class LakeTable {
  readonly name: string;
  readonly schema: TableSchema;
  readonly version: string;
  readonly columns: readonly TypedColumn[];
  readonly key: readonly number[];
  /** Quoted names of the state tables. */
  readonly current: string;
  readonly history: string;
  /** Keys named since a snapshot began; there while `seen`. */
  readonly named: string;
  readonly #duck: Duck;
  readonly #net: NetChanges;
  #added: Cell[][] = [];
  #records: HistoryRecord[] = [];
  /** Keys named since a snapshot began are being noted. */
  seen: boolean;

  constructor(duck: Duck, source: string, shape: { schema: TableSchema; version: string; seen: boolean }) {
    this.#duck = duck;
    this.schema = shape.schema;
    this.version = shape.version;
    this.seen = shape.seen;
    this.name = tableName(shape.schema);
    this.columns = shape.schema.columns.map(typedColumn);
    this.key = keyColumns(shape.schema);
    const state = (schema: string) => `${schema}.${duckIdent(`${source}.${this.name}`)}`;
    this.current = state('_current');
    this.history = state('_history');
    this.named = state('_seen');
    this.#net = new NetChanges(this.key);
  }

  async create(): Promise<void> {
    const columns = this.columns.map((column) => `${duckIdent(column.name)} VARCHAR`).join(', ');
    await this.#duck.run(`CREATE TABLE IF NOT EXISTS ${this.current} (${columns})`);
    await this.#duck.run(
      `CREATE TABLE IF NOT EXISTS ${this.history} (${HISTORY.map(([name, type]) => `${name} ${type}`).join(', ')}, ${columns})`,
    );
  }

  /**
   * Gives both state tables this shape; values are text, so only names matter. Road not taken: ALTER TABLE, which DuckDB refuses
   * at commit when the same transaction updated or deleted rows before (1.3 and later).
   */
  async reshape(from: TableSchema): Promise<void> {
    const before = new Set(from.columns.map((column) => column.name));
    const columns = this.schema.columns
      .map(({ name }) => (before.has(name) ? duckIdent(name) : `NULL::VARCHAR AS ${duckIdent(name)}`))
      .join(', ');
    await this.#duck.run(`CREATE OR REPLACE TABLE ${this.current} AS SELECT ${columns} FROM ${this.current}`);
    await this.#duck.run(`CREATE OR REPLACE TABLE ${this.history} AS SELECT ${HISTORY_NAMES}, ${columns} FROM ${this.history}`);
  }

  /** @param recorded up to here the lake has the history already: it is left out; null = nothing is */
  async write(section: Section, batch: StoredBatch, recorded: SourcePosition | null): Promise<void> {
    await this.#record(section, batch, recorded ? rowsUpTo(recorded, section, batch) : 0);
    const fresh = section.rows >= FRESH_ROWS && this.#net.size === 0 && this.#added.length === 0 && !this.seen;
    if (fresh && section.csv === null && section.ops.every((op) => op === Op.created)) return this.#insertSection(section);
    const columns = section.columns.map((column) => column.values());
    const { ops } = section;
    const old = oldRows(section);
    for (let row = 0; row < section.rows; row++) {
      const cells = columns.map((column) => column[row]);
      if (ops[row] === Op.truncated) await this.empty();
      else if (this.key.length === 0) await this.#keyless(ops[row], cells, old.get(row));
      else if (ops[row] === Op.deleted) this.#net.delete(cells);
      else if (ops[row] === Op.kept) this.#net.fill(cells);
      else if (ops[row] === Op.updated) await this.#update(old.get(row), cells);
      else this.#net.put(cells);
    }
    if (this.#net.size > FOLD_ROWS_MAX || this.#records.length > FOLD_ROWS_MAX || this.#added.length > FOLD_ROWS_MAX)
      await this.flush();
  }

  async empty(): Promise<void> {
    this.#net.take();
    this.#added = [];
    await this.#duck.run(`DELETE FROM ${this.current}`);
  }

  async flush(): Promise<void> {
    await this.#flushRecords();
    if (this.#added.length > 0) {
      const rows = this.#added;
      this.#added = [];
      const loader = new Loader(this.columns.map((_, c) => loadCells(rows.map((row) => row[c]))));
      await this.#duck.run(`INSERT INTO ${this.current} SELECT ${this.#plainCells()} FROM (${loader.select})`, loader.values);
    }
    if (this.#net.size > 0) await this.#fold();
  }

  async beginSeen(): Promise<void> {
    await this.flush();
    const columns = this.key.map((c) => `${this.#ident(c)} VARCHAR`).join(', ');
    await this.#duck.run(`CREATE OR REPLACE TABLE ${this.named} (${columns})`);
    this.seen = true;
  }

  /** @param sweep remove rows that nothing has named since the snapshot began */
  async endSeen(sweep: boolean): Promise<void> {
    await this.flush();
    if (!this.seen) return;
    if (sweep) {
      await this.#duck.run(
        `DELETE FROM ${this.current} t WHERE NOT EXISTS (SELECT 1 FROM ${this.named} s WHERE ${this.#sameKey('s', 't')})`,
      );
    }
    await this.#duck.run(`DROP TABLE ${this.named}`);
    this.seen = false;
  }

  async drop(): Promise<void> {
    for (const table of [this.current, this.history, this.named]) await this.#duck.run(`DROP TABLE IF EXISTS ${table}`);
  }

  async #update(old: Cell[] | undefined, cells: Cell[]): Promise<void> {
    const complete = old ? cells.map((cell, c) => (cell === undefined && !this.key.includes(c) ? old[c] : cell)) : cells;
    const moved = old !== undefined && this.#net.keyOf(old) !== this.#net.keyOf(cells);
    if (!moved) this.#net.put(complete);
    else if (!this.#net.move(old, complete)) {
      // The rest of the row is only in the table.
      await this.flush();
      const stored = await this.#find(old);
      this.#net.delete(old);
      this.#net.put(complete.map((cell, c) => (cell === undefined ? stored?.[c] : cell)));
    }
  }

  async #find(key: readonly Cell[]): Promise<Cell[] | null> {
    const where = this.key.map((c, i) => `${this.#ident(c)} = $${i + 1}`).join(' AND ');
    const names = this.columns.map((column, c) => `${duckIdent(column.name)} AS c${c}`).join(', ');
    const [row] = await this.#duck.rows<Record<string, string | null>>(
      `SELECT ${names} FROM ${this.current} WHERE ${where}`,
      this.key.map((c) => key[c] as string),
    );
    return row ? this.columns.map((_, c) => row[`c${c}`] ?? null) : null;
  }

  async #keyless(op: number | undefined, cells: Cell[], old: Cell[] | undefined): Promise<void> {
    if (op === Op.deleted || (op === Op.updated && old)) {
      await this.flush();
      const gone = op === Op.deleted ? cells : (old as Cell[]);
      const where = this.columns
        .map((column, c) => `${duckIdent(column.name)} IS NOT DISTINCT FROM $${c + 1}::VARCHAR`)
        .join(' AND ');
      await this.#duck.run(
        `DELETE FROM ${this.current} WHERE rowid = (SELECT min(rowid) FROM ${this.current} WHERE ${where})`,
        gone.map((cell) => cell ?? null),
      );
    }
    if (op !== Op.deleted) this.#added.push(cells.map((cell, c) => (cell === undefined ? (old?.[c] ?? null) : cell)));
  }

  async #insertSection(section: Section): Promise<void> {
    const loader = new Loader(section.columns.map(load));
    await this.#duck.run(`INSERT INTO ${this.current} SELECT ${this.#plainCells()} FROM (${loader.select})`, loader.values);
  }

  /** Everything folded since the last flush, by a handful of statements whatever its size. */
  async #fold(): Promise<void> {
    const { deleted, rows } = this.#net.take();
    const gone = deleted.map((key) => {
      const cells: Cell[] = this.columns.map(() => null);
      const parts = this.key.length === 1 ? [key] : key.split('\x1f');
      for (const [i, c] of this.key.entries()) cells[c] = parts[i] ?? null;
      return cells;
    });
    const all = [...gone, ...rows.map((net) => net.row as Cell[])];
    const flags = [...gone.map(() => 'd'), ...rows.map((net) => (net.fill ? 'k' : 'w'))];
    const loader = new Loader(
      this.columns.map((_, c) => loadCells(all.map((row) => row[c]))),
      { flag: flags.join('') },
    );
    const fold = await this.#temporary('fold', ['flag']);
    await this.#duck.run(`INSERT INTO ${fold} ${loader.select}`, loader.values);
    const keys = this.key.map((c) => `t.${this.#ident(c)} = ${plain(`f.c${c}`)}`).join(' AND ');
    const gap = rows.some((net) => (net.row as Cell[]).includes(undefined));
    const whole = gap
      ? await this.#filledIn(fold, keys)
      : `SELECT ${this.columns.map((_, c) => plain(`c${c}`)).join(', ')} FROM ${fold} WHERE flag <> 'd'`;
    await this.#duck.run(`DELETE FROM ${this.current} t USING ${fold} f WHERE ${keys}`);
    await this.#duck.run(`INSERT INTO ${this.current} ${whole}`);
    if (!this.seen) return;
    const named = this.key.map((c) => plain(`c${c}`)).join(', ');
    await this.#duck.run(`INSERT INTO ${this.named} SELECT ${named} FROM ${fold} WHERE flag <> 'd'`);
  }

  /** What is to stand in the table, with unchanged cells as they stand in it now. @returns the query for it */
  async #filledIn(fold: string, keys: string): Promise<string> {
    const filled = await this.#temporary('filled', []);
    const cells = this.columns.map(
      (column, c) => `CASE WHEN ${isUnchanged(`f.c${c}`)} THEN t.${duckIdent(column.name)} ELSE ${plain(`f.c${c}`)} END`,
    );
    const there = `t.${this.#ident(this.key[0] as number)} IS NOT NULL`;
    await this.#duck.run(
      `INSERT INTO ${filled} SELECT ${cells.join(', ')} FROM ${fold} f LEFT JOIN ${this.current} t ON ${keys}
        WHERE f.flag = 'w' OR (f.flag <> 'd' AND ${there})`,
    );
    return `FROM ${filled}`;
  }

  /**
   * An empty table, shared by all tables with as many columns: every table that a transaction writes to holds 32 KiB a column until
   * its end, which DuckDB cannot spill (1.5), also one that is replaced or dropped meanwhile.
   */
  async #temporary(name: string, more: readonly string[]): Promise<string> {
    const table = `temp.${name}_${this.columns.length}`;
    const columns = [...more, ...this.columns.map((_, c) => `c${c}`)].map((column) => `${column} VARCHAR`).join(', ');
    await this.#duck.run(`CREATE TEMP TABLE IF NOT EXISTS ${table} (${columns})`);
    await this.#duck.run(`DELETE FROM ${table}`);
    return table;
  }

  /** Fills the table with the rows of a Parquet file of exact text, and the keys named so far with those of another. */
  async load(exact: string, seen: string | null): Promise<void> {
    const columns = (indices: readonly number[]) => indices.map((c) => this.#ident(c)).join(', ');
    const all = columns(this.columns.map((_, c) => c));
    await this.#duck.run(`INSERT INTO ${this.current} (${all}) SELECT ${all} FROM read_parquet(${duckLiteral(exact)})`);
    if (seen === null) return;
    await this.beginSeen();
    const key = columns(this.key);
    await this.#duck.run(`INSERT INTO ${this.named} (${key}) SELECT ${key} FROM read_parquet(${duckLiteral(seen)})`);
  }

  /** Appends the section from a row on to history as it is: a large one at once, small ones together on `flush`. */
  async #record(section: Section, batch: StoredBatch, from: number): Promise<void> {
    if (from === section.rows) return;
    const { header } = batch;
    const transactions =
      header.transactions.length > 0 ? header.transactions : [{ lsn: header.position.lsn, xid: 0, committedAt: 0 }];
    const befores = this.#befores(section);
    if (from > 0 || section.rows < RECORD_ROWS) {
      const columns = section.columns.map((column) => column.values());
      for (let row = from; row < section.rows; row++) {
        const transaction = transactions[section.transaction[row] as number] ?? { lsn: 0n, xid: 0, committedAt: 0 };
        this.#records.push({
          op: String.fromCharCode(section.ops[row] as number),
          place: [
            formatLsn(transaction.lsn),
            section.ordinal[row] as number,
            transaction.xid,
            transaction.committedAt,
            batch.seq,
          ],
          before: befores?.[row] ?? '',
          cells: columns.map((column) => column[row]),
        });
      }
      return;
    }
    await this.#flushRecords();
    const of = <T>(pick: (transaction: (typeof transactions)[number]) => T) =>
      Array.from(section.transaction, (t) => pick(transactions[t] as (typeof transactions)[number]));
    await this.#insertHistory(
      new Loader(section.columns.map(load), {
        op: String.fromCharCode(...section.ops),
        lsn: of((t) => formatLsn(t.lsn)).join(','),
        ordinal: section.ordinal.join(','),
        xid: of((t) => t.xid).join(','),
        committed: of((t) => t.committedAt).join(','),
        seq: Array.from(section.ops, () => batch.seq).join(','),
        before: (befores ?? Array.from(section.ops, () => '')).join('\x1f'),
      }),
    );
  }

  async #flushRecords(): Promise<void> {
    const records = this.#records;
    if (records.length === 0) return;
    this.#records = [];
    const place = (i: number) => records.map((record) => record.place[i]).join(',');
    await this.#insertHistory(
      new Loader(
        this.columns.map((_, c) => loadCells(records.map((record) => record.cells[c]))),
        {
          op: records.map((record) => record.op).join(''),
          lsn: place(0),
          ordinal: place(1),
          xid: place(2),
          committed: place(3),
          seq: place(4),
          before: records.map((record) => record.before).join('\x1f'),
        },
      ),
    );
  }

  async #insertHistory(loader: Loader): Promise<void> {
    const unchanged = this.columns.map(
      (column, c) => `CASE WHEN ${isUnchanged(`c${c}`)} AND op IN ('u', 'k') THEN ${duckLiteral(column.name)} END`,
    );
    await this.#duck.run(
      `INSERT INTO ${this.history} SELECT op, lsn, ordinal::BIGINT, nullif(xid::BIGINT, 0), CASE WHEN committed <> '0' THEN make_timestamptz(committed::BIGINT) END,
         seq::BIGINT, nullif(concat_ws(',', ${unchanged.join(', ')}), ''), nullif(before, ''), ${this.#plainCells()} FROM (${loader.select})`,
      loader.values,
    );
  }

  /** Old rows as JSON, one a row. */
  #befores(section: Section): string[] | null {
    const old = oldRows(section);
    if (old.size === 0) return null;
    return Array.from({ length: section.rows }, (_, row) => {
      const cells = old.get(row);
      if (!cells) return '';
      const known = cells.map((cell, c) => [this.columns[c]?.name, cell] as const).filter(([, cell]) => cell !== undefined);
      return JSON.stringify(Object.fromEntries(known));
    });
  }

  #plainCells(): string {
    return this.columns.map((_, c) => plain(`c${c}`)).join(', ');
  }

  #sameKey(a: string, b: string): string {
    return this.key.map((c) => `${a}.${this.#ident(c)} = ${b}.${this.#ident(c)}`).join(' AND ');
  }

  #ident(c: number): string {
    return duckIdent(this.schema.columns[c]?.name ?? '');
  }
}

/** How many rows of a section, which stand in order, lie at or before a position. */
function rowsUpTo(recorded: SourcePosition, section: Section, { header }: StoredBatch): number {
  if (compareSourcePosition(header.position, recorded) <= 0) return section.rows;
  if (header.kind === 'read') return 0;
  let row = 0;
  for (; row < section.rows; row++) {
    const lsn = header.transactions[section.transaction[row] as number]?.lsn ?? header.position.lsn;
    if (compareSourcePosition({ lsn, ordinal: section.ordinal[row] as number }, recorded) > 0) break;
  }
  return row;
}
