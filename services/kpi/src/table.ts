import { type Cell, keyColumns, Op, type Section, type SourcePosition, type TableSchema } from '@tributary/core';
import { type Duck, duckIdent, duckLiteral, isUnchanged, load, loadCells, Loader, plain } from '@tributary/duckdb';
import { oldRows } from '@tributary/projection';
import type { StateColumn } from './columns.ts';
import { PlainRows } from './plain-rows.ts';
import { FROM, type ShownTable, shownTable, TO } from './shown-table.ts';
import { isPlain, type Range, RowTracker, type Staged } from './stage.ts';

/** Rows remembered one by one before they must be written. */
const TRACKED_MAX = 50_000;

export interface TableShape {
  readonly schema: TableSchema;
  readonly version: string;
  /** Keys named since a snapshot began are being noted. */
  readonly seen: boolean;
  /** Rows of a keyless table are being read again. */
  readonly next: boolean;
  readonly complete: boolean;
  readonly held: SourcePosition | null;
  /** Columns that were sent values which their type cannot hold. */
  readonly inexact: ReadonlySet<string>;
}

/**
 * One captured table in the state of an engine: rows as they are, and as they were (K3).
 *
 * Changes are staged in order as they come, and folded by a handful of statements whatever their number: the last change per
 * key first (a key twice in one MERGE or INSERT OR REPLACE goes wrong silently), then delete by key and insert, which is
 * several times cheaper than either of those. Rows that were there before the group are collected in `old`.
 */
export class KpiTable implements ShownTable {
  readonly name: string;
  readonly source: string;
  readonly schema: TableSchema;
  readonly version: string;
  readonly columns: readonly StateColumn[];
  readonly shown: string;
  readonly key: readonly number[];
  /** Quoted names. */
  readonly current: string;
  readonly history: string;
  readonly old: string;
  readonly #seenKeys: string;
  readonly #next: string;
  readonly #stage: string;
  seen: boolean;
  next: boolean;
  complete: boolean;
  held: SourcePosition | null;
  readonly inexact: Set<string>;
  /** It has changes that are not committed. */
  touched = false;
  #tracker: RowTracker | null = null;
  #staged = 0;
  #odd = false;
  /** Staged, and not written to the stage yet. */
  #waiting = new PlainRows();

  constructor(source: string, shape: TableShape) {
    const { name, version, columns, shown, current, history, old } = shownTable(source, shape);
    this.source = source;
    this.schema = shape.schema;
    this.version = version;
    this.name = name;
    this.columns = columns;
    this.shown = shown;
    this.key = keyColumns(shape.schema);
    this.seen = shape.seen;
    this.next = shape.next;
    this.complete = shape.complete;
    this.held = shape.held;
    this.inexact = new Set(shape.inexact);
    this.current = current;
    this.history = history;
    this.old = old;
    const named = (place: string, kind = '') => `${place}.${duckIdent(`${kind}${source}.${name}`)}`;
    this.#seenKeys = named('_seen');
    this.#next = named('_next');
    this.#stage = named('temp', 'stage ');
  }

  /** More than can be staged without a transaction has gathered. */
  get full(): boolean {
    return (this.#tracker?.size ?? 0) > TRACKED_MAX;
  }

  async create(duck: Duck): Promise<void> {
    const columns = this.#columnList();
    await duck.run(`CREATE TABLE ${this.current} (${columns}, ${FROM} BIGINT)`);
    await duck.run(`CREATE TABLE ${this.history} (${columns}, ${FROM} BIGINT, ${TO} BIGINT)`);
  }

  async drop(duck: Duck): Promise<void> {
    for (const one of [this.current, this.history, this.#seenKeys, this.#next, this.old, this.#stage])
      await duck.run(`DROP TABLE IF EXISTS ${one}`);
  }

  /** Before the first change of a group: nothing is old yet. */
  async open(duck: Duck): Promise<void> {
    if (this.touched) return;
    this.touched = true;
    await duck.run(`CREATE OR REPLACE TEMP TABLE ${this.old.slice('temp.'.length)} AS SELECT * FROM ${this.current} LIMIT 0`);
    await this.#emptyStage(duck);
  }

  /** Forgets what is staged; `old` keeps its rows until the next group opens. */
  close(): void {
    this.touched = false;
    this.#tracker = null;
    this.#staged = 0;
    this.#waiting = new PlainRows();
  }

  /** Must what is staged be folded before this section is? Its changes need rows that were staged without a look at them. */
  needsFold(section: Section): boolean {
    return this.key.length > 0 && this.#tracker === null && this.#staged > 0 && !isPlain(section, this.key);
  }

  /** Takes the changes of one message, or a range of them. Truncations are the caller's: what came before is to be folded first. */
  async stage(duck: Duck, section: Section, { tick, range }: { tick: number; range: Range | null }): Promise<void> {
    await this.open(duck);
    if (this.key.length === 0) return this.#stageKeyless(duck, section, { tick, range });
    if (!range && this.#tracker === null && isPlain(section, this.key)) return this.#stagePlain(duck, section, tick);
    await this.#flush(duck);
    this.#tracker ??= new RowTracker(this.key);
    const rows = [...this.#tracker.follow(section, range)];
    if (rows.length > 0) await this.#stageRows(duck, rows, tick);
  }

  /** Writes what is staged to the current rows and to history. Inside a transaction. @param before tick of the source before the group */
  async fold(duck: Duck, before: number, keepHistory: boolean): Promise<void> {
    await this.#flush(duck);
    this.#tracker = null;
    if (this.#staged === 0) return;
    this.#staged = 0;
    await this.#noteInexact(duck);
    if (this.key.length === 0)
      await duck.run(`INSERT INTO ${this.next ? this.#next : this.current} SELECT ${this.#cells()}, tick FROM ${this.#stage}`);
    else await this.#foldKeyed(duck, before, keepHistory);
    await this.#emptyStage(duck);
  }

  /** Every row goes, at once. Inside a transaction. */
  async empty(duck: Duck, { before, tick, keepHistory }: { before: number; tick: number; keepHistory: boolean }): Promise<void> {
    await this.open(duck);
    await this.#retire(duck, `SELECT *, ${tick} AS ${TO} FROM ${this.current}`, { before, keepHistory });
    await duck.run(`DELETE FROM ${this.current}`);
  }

  /** A snapshot begins. Rows stay as they are until its end, also when it begins by emptying the table: nobody sees half of one. */
  async begin(duck: Duck): Promise<void> {
    if (this.key.length === 0) {
      await duck.run(`CREATE OR REPLACE TABLE ${this.#next} AS SELECT * FROM ${this.current} LIMIT 0`);
      this.next = true;
      return;
    }
    const [some] = await duck.rows<{ some: boolean }>(`SELECT EXISTS (FROM ${this.current}) AS some`);
    if (!some?.some) return;
    const keys = this.key.map((c) => `${this.#ident(c)} ${this.columns[c]?.stored}`).join(', ');
    await duck.run(`CREATE OR REPLACE TABLE ${this.#seenKeys} (${keys})`);
    this.seen = true;
  }

  /** A snapshot is over: what nothing named since it began goes. */
  async end(duck: Duck, how: { before: number; tick: number; keepHistory: boolean }): Promise<void> {
    if (this.next) {
      await this.empty(duck, how);
      await duck.run(`INSERT INTO ${this.current} SELECT * FROM ${this.#next}`);
      await duck.run(`DROP TABLE ${this.#next}`);
      this.next = false;
    }
    if (this.seen) {
      await this.open(duck);
      const unseen = `FROM ${this.current} t WHERE NOT EXISTS (SELECT 1 FROM ${this.#seenKeys} s WHERE ${this.#same('s', 't')})`;
      await this.#retire(duck, `SELECT t.*, ${how.tick} AS ${TO} ${unseen}`, how);
      await duck.run(`DELETE ${unseen}`);
      await duck.run(`DROP TABLE ${this.#seenKeys}`);
      this.seen = false;
    }
    this.complete = true;
  }

  /** Gives up the memory of a snapshot that is running. */
  async forgetSnapshot(duck: Duck): Promise<void> {
    for (const one of [this.#seenKeys, this.#next]) await duck.run(`DROP TABLE IF EXISTS ${one}`);
    this.seen = false;
    this.next = false;
  }

  /**
   * Gives the table another shape. Made anew: DuckDB refuses at commit to alter a table that the same transaction wrote to.
   * Values of a column with another type are read again by the source.
   */
  async reshape(duck: Duck, from: KpiTable): Promise<void> {
    const before = new Map(from.columns.map((column) => [column.name, column]));
    const list = this.columns
      .map((column) => {
        const known = before.get(column.name);
        if (!known) return `NULL::${column.stored} AS ${column.ident}`;
        return known.stored === column.stored
          ? column.ident
          : `TRY_CAST(${column.ident}::VARCHAR AS ${column.stored}) AS ${column.ident}`;
      })
      .join(', ');
    await duck.run(`CREATE OR REPLACE TABLE ${this.current} AS SELECT ${list}, ${FROM} FROM ${this.current}`);
    await duck.run(`CREATE OR REPLACE TABLE ${this.history} AS SELECT ${list}, ${FROM}, ${TO} FROM ${this.history}`);
    if (this.next) await duck.run(`CREATE OR REPLACE TABLE ${this.#next} AS SELECT ${list}, ${FROM} FROM ${this.#next}`);
  }

  /** History starts anew: every row counts as there since for ever. */
  async forgetHistory(duck: Duck): Promise<void> {
    await duck.run(`CREATE OR REPLACE TABLE ${this.current} AS SELECT * REPLACE (0::BIGINT AS ${FROM}) FROM ${this.current}`);
    await duck.run(`CREATE OR REPLACE TABLE ${this.history} AS SELECT * FROM ${this.history} LIMIT 0`);
  }

  async trimHistory(duck: Duck, floor: number): Promise<void> {
    await duck.run(`DELETE FROM ${this.history} WHERE ${TO} <= ${floor}`);
  }

  /** Fills the table with the rows of a Parquet file of exact text. */
  async load(duck: Duck, path: string, tick: number): Promise<void> {
    const cells = this.columns.map((column) => column.store(`p.${column.ident}`)).join(', ');
    await duck.run(`INSERT INTO ${this.current} SELECT ${cells}, ${tick} FROM read_parquet(${duckLiteral(path)}) p`);
    for (const { name, ident, inexact } of this.columns) {
      if (!inexact) continue;
      const [some] = await duck.rows<{ some: boolean }>(
        `SELECT EXISTS (FROM read_parquet(${duckLiteral(path)}) p WHERE ${inexact(`p.${ident}`)}) AS some`,
      );
      if (some?.some) this.inexact.add(name);
    }
  }

  /** Gathers what many small messages bring: a statement for each of them would be all that an engine does. */
  async #stagePlain(duck: Duck, section: Section, tick: number): Promise<void> {
    if (section.rows === 0) return;
    const loaded = section.columns.map(load);
    if (!this.#waiting.fits(loaded)) await this.#flush(duck);
    this.#waiting.add(section, loaded, tick);
    this.#staged += section.rows;
    if (this.#waiting.full) await this.#flush(duck);
  }

  async #flush(duck: Duck): Promise<void> {
    const { rows, columns, more } = this.#waiting;
    if (rows === 0) return;
    this.#waiting = new PlainRows();
    const loader = new Loader(columns, more, { from: this.#staged - rows, rows });
    await this.#insertStage(duck, loader, { op: 'op', tick: 'tick::BIGINT', base: null });
  }

  async #stageRows(duck: Duck, rows: readonly Staged[], tick: number): Promise<void> {
    const based = rows.some((row) => row.base !== null);
    const bases = based ? this.key.map((_, k) => loadCells(rows.map((row) => (row.base ? row.base[k] : null)))) : [];
    const columns = [...this.columns.map((_, c) => loadCells(rows.map((row) => row.cells[c]))), ...bases];
    const loader = new Loader(columns, { op: rows.map((row) => row.op).join('') }, { from: this.#staged, rows: rows.length });
    this.#odd = true;
    await this.#insertStage(duck, loader, { op: 'op', tick, base: based ? this.columns.length : null });
    this.#staged += rows.length;
  }

  /**
   * @param tick or SQL of it
   * @param base index of the first loaded column that holds the key of a base row
   */
  async #insertStage(
    duck: Duck,
    loader: Loader,
    { op, tick, base }: { op: string; tick: number | string; base: number | null },
  ): Promise<void> {
    const cells = this.columns.map((column, c) => column.store(plain(`c${c}`)));
    const bases = this.key.map((c, k) =>
      base === null ? 'NULL' : (this.columns[c] as StateColumn).store(plain(`c${base + k}`)),
    );
    const open = this.#odd
      ? `concat_ws('', ${this.columns.map((_, c) => `CASE WHEN ${isUnchanged(`c${c}`)} THEN ',${c},' END`).join(', ')})`
      : 'NULL';
    const inexact = this.columns.flatMap(({ name, inexact: bad }, c) =>
      bad ? [`CASE WHEN ${bad(plain(`c${c}`))} THEN ${duckLiteral(name)} END`] : [],
    );
    const bad = inexact.length > 0 ? `nullif(concat_ws(chr(31), ${inexact.join(', ')}), '')` : 'NULL';
    await duck.run(
      `INSERT INTO ${this.#stage} SELECT ${[...cells, ...bases].join(', ')}, n, ${tick}, ${op}, ${open}, ${bad} FROM (${loader.select})`,
      loader.values,
    );
  }

  async #emptyStage(duck: Duck): Promise<void> {
    const bases = this.key.map((c, k) => `b${k} ${this.columns[c]?.stored}`);
    const cells = this.columns.map((column, c) => `c${c} ${column.stored}`);
    const all = [...cells, ...bases, 'n BIGINT', 'tick BIGINT', 'op VARCHAR', 'open VARCHAR', 'bad VARCHAR'];
    await duck.run(`CREATE OR REPLACE TEMP TABLE ${this.#stage.slice('temp.'.length)} (${all.join(', ')})`);
    this.#odd = false;
  }

  async #noteInexact(duck: Duck): Promise<void> {
    if (!this.columns.some((column) => column.inexact)) return;
    const rows = await duck.rows<{ bad: string }>(`SELECT DISTINCT bad FROM ${this.#stage} WHERE bad IS NOT NULL`);
    for (const { bad } of rows) for (const name of bad.split('\x1f')) this.inexact.add(name);
  }

  async #foldKeyed(duck: Duck, before: number, keepHistory: boolean): Promise<void> {
    if (this.#odd) await this.#resolve(duck);
    const key = this.key.map((c) => `c${c}`).join(', ');
    await duck.run(
      `CREATE OR REPLACE TEMP TABLE _keys AS SELECT ${key}, max(n) AS n, min(tick) AS tick, count(*) AS versions FROM ${this.#stage} GROUP BY ${key}`,
    );
    const [count] = await duck.rows<{ all: number; keys: number }>(
      `SELECT coalesce(sum(versions), 0)::BIGINT AS "all", count(*) AS keys FROM _keys`,
    );
    const repeated = count?.all !== count?.keys;
    const sameKey = this.key.map((c) => `t.${this.#ident(c)} = k.c${c}`).join(' AND ');
    await this.#retire(duck, `SELECT t.*, k.tick AS ${TO} FROM ${this.current} t JOIN _keys k ON ${sameKey}`, {
      before,
      keepHistory,
    });
    await duck.run(`DELETE FROM ${this.current} t USING _keys k WHERE ${sameKey}`);
    if (repeated && keepHistory) await this.#keepVersions(duck, key);
    const last = repeated ? `JOIN _keys k ON s.n = k.n WHERE` : 'WHERE';
    await duck.run(`INSERT INTO ${this.current} SELECT ${this.#cells('s.')}, s.tick FROM ${this.#stage} s ${last} s.op <> 'd'`);
    if (!this.seen) return;
    await duck.run(`INSERT INTO ${this.#seenKeys} SELECT ${key} FROM _keys`);
  }

  /** Versions that came and went within the group. */
  async #keepVersions(duck: Duck, key: string): Promise<void> {
    const again = `SELECT s.* FROM ${this.#stage} s JOIN _keys k ON ${this.key.map((c) => `s.c${c} = k.c${c}`).join(' AND ')} WHERE k.versions > 1`;
    const versions = `SELECT *, lead(tick) OVER (PARTITION BY ${key} ORDER BY n) AS until FROM (${again})`;
    await duck.run(
      `INSERT INTO ${this.history} SELECT ${this.#cells()}, tick, until FROM (${versions}) WHERE op <> 'd' AND until > tick`,
    );
  }

  /** Cells that the stream left open come from the current row; what fills a row that is not there goes. */
  async #resolve(duck: Duck): Promise<void> {
    if (!this.#odd) return;
    const base = this.key.map((c, k) => `t.${this.#ident(c)} = coalesce(s.b${k}, s.c${c})`).join(' AND ');
    const cells = this.columns.map(
      (column, c) => `CASE WHEN contains(s.open, ',${c},') THEN t.${column.ident} ELSE s.c${c} END AS c${c}`,
    );
    const there = `t.${this.#ident(this.key[0] as number)} IS NOT NULL`;
    await duck.run(
      `CREATE OR REPLACE TEMP TABLE ${this.#stage.slice('temp.'.length)} AS SELECT s.* REPLACE (${cells.join(', ')}, NULL AS open)
       FROM ${this.#stage} s LEFT JOIN ${this.current} t ON ${base} AND (s.open <> '' OR s.op = 'k') WHERE s.op <> 'k' OR ${there}`,
    );
  }

  /** Rows that end: to history, and to `old` those that were there before the group. */
  async #retire(duck: Duck, select: string, { before, keepHistory }: { before: number; keepHistory: boolean }): Promise<void> {
    await duck.run(`CREATE OR REPLACE TEMP TABLE _gone AS ${select}`);
    await duck.run(`INSERT INTO ${this.old} SELECT * EXCLUDE (${TO}) FROM _gone WHERE ${FROM} <= ${before}`);
    if (keepHistory) await duck.run(`INSERT INTO ${this.history} SELECT * FROM _gone WHERE ${TO} > ${FROM}`);
  }

  /** Rows without a key are appended together; one that goes is looked for, and removed once. */
  async #stageKeyless(duck: Duck, section: Section, { tick, range }: { tick: number; range: Range | null }): Promise<void> {
    const columns = section.columns.map((column) => column.values());
    const old = oldRows(section);
    const rows: Staged[] = [];
    for (let row = range?.from ?? 0; row < (range?.to ?? section.rows); row++) {
      const op = section.ops[row];
      const before = old.get(row);
      const cells: Cell[] = columns.map((column) => column[row]);
      if (op === Op.deleted) this.removals.push({ cells, tick });
      else if (before) this.removals.push({ cells: before, tick });
      if (op !== Op.deleted)
        rows.push({ op: 'w', cells: cells.map((cell, c) => (cell === undefined ? (before?.[c] ?? null) : cell)), base: null });
    }
    if (rows.length > 0) await this.#stageRows(duck, rows, tick);
  }

  /** Rows of a keyless table that are to go, after everything staged so far was written. */
  readonly removals: { readonly cells: readonly Cell[]; readonly tick: number }[] = [];

  /** Inside a transaction, behind {@link fold}. */
  async remove(duck: Duck, how: { before: number; keepHistory: boolean }): Promise<void> {
    for (const { cells, tick } of this.removals.splice(0)) {
      const loader = new Loader(cells.map((cell) => loadCells([cell])));
      const same = this.columns
        .map((column, c) => `t.${column.ident} IS NOT DISTINCT FROM ${column.store(plain(`g.c${c}`))}`)
        .join(' AND ');
      await duck.run(
        `CREATE OR REPLACE TEMP TABLE _one AS SELECT min(t.rowid) AS row FROM ${this.current} t, (${loader.select}) g WHERE ${same}`,
        loader.values,
      );
      await this.#retire(duck, `SELECT t.*, ${tick} AS ${TO} FROM ${this.current} t WHERE t.rowid = (SELECT row FROM _one)`, how);
      await duck.run(`DELETE FROM ${this.current} WHERE rowid = (SELECT row FROM _one)`);
    }
  }

  #columnList(): string {
    return this.columns.map((column) => `${column.ident} ${column.stored}`).join(', ');
  }

  #cells(of = ''): string {
    return this.columns.map((_, c) => `${of}c${c}`).join(', ');
  }

  #same(a: string, b: string): string {
    return this.key.map((c) => `${a}.${this.#ident(c)} = ${b}.${this.#ident(c)}`).join(' AND ');
  }

  #ident(c: number): string {
    return (this.columns[c] as StateColumn).ident;
  }
}
