import { type Cell, type Column, keyColumns, NULL_MARK, SEPARATOR, type TableSchema, tableName } from '@tributary/core';
import { type Duck, duckIdent, loadCells, Loader, plain } from '@tributary/duckdb';
import { readColumns } from './read-columns.ts';

/** The text by which rows are told apart: the cells of the key. */
export function keyText(cells: readonly Cell[], key: readonly number[]): string {
  return key.map((c) => cells[c] ?? NULL_MARK).join(SEPARATOR);
}

/** The same in SQL, of a row's cells `c0`, `c1`, …: so both are in one order. */
export function keySql(key: readonly number[]): string {
  return key.length === 0 ? `''` : key.map((c) => `coalesce(c${c}, chr(30))`).join(' || chr(31) || ');
}

/** A row as it is now, or that it is gone (null). `at`: when it was written, microseconds since 1970; null = not told. */
export interface NewRow {
  readonly key: string;
  readonly cells: readonly Cell[] | null;
  readonly at: number | null;
}

/** Quoted name of the rows of a table (`INPUT.SCHEMA.TABLE`), `(k, ts, c0, c1, …)`. */
export function keptRows(id: string): string {
  return `_in.${duckIdent(id)}`;
}

/** Digits of the number that stands for a key. */
const SERIAL_DIGITS = 15;
const serialText = (serial: number) => String(serial).padStart(SERIAL_DIGITS, '0');

/**
 * The rows of one table of an input, as text, by key: part of the state of a transform that keeps one. Rows of a table without a key have
 * numbers instead, in the order in which they came; of equal rows any is the one that goes.
 */
export class TableState {
  readonly id: string;
  readonly schema: TableSchema;
  readonly version: string;
  readonly key: readonly number[];
  /** Quoted names of the rows, and of the keys that a snapshot named. */
  readonly rows: string;
  readonly named: string;
  /** A snapshot is on its way: the keys it names are noted. */
  seen: boolean;
  readonly #duck: Duck;
  /** The number that the last row got; null = not known yet. */
  #serial: number | null = null;

  constructor(duck: Duck, shape: { input: string; schema: TableSchema; version: string; seen: boolean }) {
    this.#duck = duck;
    this.id = `${shape.input}.${tableName(shape.schema)}`;
    this.schema = shape.schema;
    this.version = shape.version;
    this.seen = shape.seen;
    this.key = keyColumns(shape.schema);
    this.rows = keptRows(this.id);
    this.named = `_seen.${duckIdent(this.id)}`;
  }

  get keyless(): boolean {
    return this.key.length === 0;
  }

  get cells(): string[] {
    return this.schema.columns.map((_, c) => `c${c}`);
  }

  async create(): Promise<void> {
    const cells = this.cells.map((cell) => `${cell} VARCHAR`).join(', ');
    await this.#duck.run(`CREATE TABLE IF NOT EXISTS ${this.rows} (k VARCHAR, ts BIGINT, ${cells})`);
  }

  /** Takes over the rows of the same table in another shape; keys may be others then. */
  async reshape(from: TableSchema): Promise<void> {
    const list = this.schema.columns.map(({ name }, c) => {
      const before = from.columns.findIndex((column) => column.name === name);
      return before === -1 ? `CAST(NULL AS VARCHAR) AS c${c}` : `c${before} AS c${c}`;
    });
    const key = this.keyless ? `lpad(CAST(row_number() OVER (ORDER BY k) AS VARCHAR), ${SERIAL_DIGITS}, '0')` : keySql(this.key);
    await this.#duck.run(
      `CREATE OR REPLACE TABLE ${this.rows} AS SELECT ${key} AS k, ts, ${this.cells.join(', ')} FROM (SELECT ts, ${list.join(', ')} FROM ${this.rows})`,
    );
  }

  /** Rows by key, of those keys that are there. */
  async find(keys: readonly string[]): Promise<Map<string, Cell[]>> {
    const loader = new Loader([loadCells(keys)]);
    await this.#duck.run(
      `CREATE OR REPLACE TEMP TABLE asked AS SELECT ${plain('c0')} AS k FROM (${loader.select})`,
      loader.values,
    );
    const from = `(SELECT r.* FROM ${this.rows} r JOIN (SELECT DISTINCT k FROM asked) USING (k))`;
    const { rows, columns } = await readColumns(this.#duck, { from, order: 'k', texts: ['k', ...this.cells] });
    return rowsBy(rows, columns);
  }

  /** Numbers for rows that come, of a table without a key. */
  async serials(count: number): Promise<string[]> {
    if (this.#serial === null) {
      const [found] = await this.#duck.rows<{ last: string | null }>(`SELECT max(k) AS last FROM ${this.rows}`);
      this.#serial = Number(found?.last ?? 0);
    }
    const first = this.#serial + 1;
    this.#serial += count;
    return Array.from({ length: count }, (_, i) => serialText(first + i));
  }

  /** Numbers of rows with these cells, one for each that is asked for; of those that are not there, none. */
  async equals(rows: readonly (readonly Cell[])[]): Promise<string[]> {
    if (rows.length === 0) return [];
    const cells = this.cells.join(', ');
    const loader = new Loader(this.cells.map((_, c) => loadCells(rows.map((row) => row[c] ?? null))));
    await this.#duck.run(
      `CREATE OR REPLACE TEMP TABLE asked AS SELECT *, row_number() OVER (PARTITION BY ${cells}) AS nth
         FROM (SELECT ${this.cells.map((cell) => `${plain(cell)} AS ${cell}`).join(', ')} FROM (${loader.select}))`,
      loader.values,
    );
    const same = this.cells.map((cell) => `a.${cell} IS NOT DISTINCT FROM r.${cell}`).join(' AND ');
    const found = await this.#duck.rows<{ k: string }>(
      `SELECT r.k FROM (SELECT k, ${cells}, row_number() OVER (PARTITION BY ${cells} ORDER BY k) AS nth FROM ${this.rows}) r
         JOIN asked a ON a.nth = r.nth AND ${same}`,
    );
    return found.map(({ k }) => k);
  }

  /** Brings the new rows into the temporary table `fresh (k, ts, c0, …)` and all keys into `touched (k)`. */
  async load(changes: readonly NewRow[]): Promise<void> {
    const rows = changes.filter((row) => row.cells !== null);
    const keys = new Loader([loadCells(changes.map(({ key }) => key))]);
    await this.#duck.run(`CREATE OR REPLACE TEMP TABLE touched AS SELECT ${plain('c0')} AS k FROM (${keys.select})`, keys.values);
    await this.#fresh(rows);
  }

  async #fresh(rows: readonly NewRow[]): Promise<void> {
    const cells = this.cells.map((cell) => `${cell} VARCHAR`).join(', ');
    await this.#duck.run(`CREATE OR REPLACE TEMP TABLE fresh (k VARCHAR, ts BIGINT, ${cells})`);
    if (rows.length === 0) return;
    const loader = new Loader([
      loadCells(rows.map(({ key }) => key)),
      loadCells(rows.map(({ at }) => (at === null ? null : String(at)))),
      ...this.schema.columns.map((_, c) => loadCells(rows.map((row) => row.cells?.[c] ?? null))),
    ]);
    const list = this.cells.map((_, c) => plain(`c${c + 2}`)).join(', ');
    // What does not say when it was written keeps the time that is known.
    await this.#duck.run(
      `INSERT INTO fresh SELECT f.k, coalesce(f.ts, r.ts, 0), ${this.cells.map((cell) => `f.${cell}`).join(', ')}
         FROM (SELECT k, ts, ${this.cells.join(', ')} FROM (SELECT ${plain('c0')} AS k, CAST(${plain('c1')} AS BIGINT) AS ts, ${list} FROM (${loader.select})) AS f(k, ts, ${this.cells.join(', ')})) f
         LEFT JOIN ${this.rows} r ON r.k = f.k`,
      loader.values,
    );
  }

  /** What stands in `touched` and `fresh` takes the place of the rows with these keys. */
  async store(): Promise<void> {
    await this.#duck.run(`DELETE FROM ${this.rows} r USING touched t WHERE r.k = t.k`);
    await this.#duck.run(`INSERT INTO ${this.rows} SELECT * FROM fresh`);
    if (this.seen) await this.#duck.run(`INSERT INTO ${this.named} SELECT k FROM fresh`);
  }

  /** Key cells of the rows in `touched` and `fresh`, as they were and will be, go into the temporary table `looked`. */
  async look(): Promise<void> {
    const cells = this.key.map((c) => `c${c}`).join(', ');
    await this.#duck.run(
      `CREATE OR REPLACE TEMP TABLE looked AS SELECT ${cells} FROM ${this.rows} r JOIN touched USING (k) UNION SELECT ${cells} FROM fresh`,
    );
  }

  /** Notes rows that a snapshot named without telling them. */
  async note(keys: readonly string[]): Promise<void> {
    if (!this.seen || keys.length === 0) return;
    const loader = new Loader([loadCells(keys)]);
    await this.#duck.run(`INSERT INTO ${this.named} SELECT ${plain('c0')} FROM (${loader.select})`, loader.values);
  }

  async beginSeen(): Promise<void> {
    await this.#duck.run(`CREATE OR REPLACE TABLE ${this.named} (k VARCHAR)`);
    this.seen = true;
  }

  async endSeen(): Promise<void> {
    await this.#duck.run(`DROP TABLE IF EXISTS ${this.named}`);
    this.seen = false;
  }

  /** `touched` becomes the keys of rows that meet a condition over `r`; `fresh` what stands there of them, or nothing. */
  async choose(condition: string, { gone }: { gone: boolean }): Promise<void> {
    await this.#duck.run(`CREATE OR REPLACE TEMP TABLE touched AS SELECT r.k FROM ${this.rows} r WHERE ${condition}`);
    const limit = gone ? 'WHERE false' : '';
    await this.#duck.run(
      `CREATE OR REPLACE TEMP TABLE fresh AS SELECT r.k, r.ts, ${this.cells.map((cell) => `r.${cell}`).join(', ')} FROM ${this.rows} r JOIN touched USING (k) ${limit}`,
    );
  }

  /** The rows in `fresh`, in pages. */
  async *fresh(pageRows: number): AsyncGenerator<{ rows: number; keys: Column; ats: Column; columns: Column[] }> {
    await this.#duck.run('CREATE OR REPLACE TEMP TABLE page AS SELECT row_number() OVER () AS n, * FROM fresh');
    for (let from = 0; ; from += pageRows) {
      const page = `(SELECT * FROM page WHERE n > ${from} AND n <= ${from + pageRows})`;
      const texts = ['k', 'CAST(ts AS VARCHAR)', ...this.cells];
      const { rows, columns } = await readColumns(this.#duck, { from: page, order: 'n', texts });
      if (rows === 0) return;
      const [keys, ats, ...cells] = columns as [Column, Column, ...Column[]];
      yield { rows, keys, ats, columns: cells };
      if (rows < pageRows) return;
    }
  }
}

function rowsBy(rows: number, [keys, ...columns]: readonly Column[]): Map<string, Cell[]> {
  const texts = keys?.values() ?? [];
  const cells = columns.map((column) => column.values());
  return new Map(Array.from({ length: rows }, (_, row) => [texts[row] as string, cells.map((column) => column[row])]));
}
