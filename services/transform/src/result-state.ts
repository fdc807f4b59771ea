import { type Column, type ColumnSchema, keyColumns, Op, type TableSchema, tableName } from '@tributary/core';
import { type Duck, duckIdent, duckLiteral, load, loadCells, Loader, plain } from '@tributary/duckdb';
import type { OutSection } from './output.ts';
import { columnOf } from './pick.ts';
import { readColumns } from './read-columns.ts';
import { keySql, keyText } from './table-state.ts';

const PAGE_ROWS = 4_000;

/** Rows of the result that come of rows of one table of an input. */
export interface Come {
  readonly rows: number;
  /** Columns by name, under the shape they come in. */
  readonly schema: TableSchema;
  readonly columns: readonly Column[];
  /** Per row the key of the row it comes of, and when that was written. */
  readonly from: Column;
  readonly ats: Column;
}

/**
 * One table of the result: what every row of every input makes of it, of which the result shows one a key.
 *
 * T4 Of rows with the same key, from several inputs, the one that was written last counts (then the input that comes
 *    first by name). So a row that moves from shard to shard ends where it is, in whatever order its insert and its delete
 *    are seen: while both are there the newer counts, and a delete takes away only the row of its own shard.
 */
export class ResultState {
  readonly name: string;
  readonly #duck: Duck;
  /** Quoted: `(k, input, ik, ts, c0, …)`. */
  readonly #rows: string;
  readonly #was: string;
  readonly #affected: string;
  #schema: TableSchema;

  constructor(duck: Duck, schema: TableSchema) {
    this.#duck = duck;
    this.#schema = schema;
    this.name = tableName(schema);
    this.#rows = `_out.${duckIdent(this.name)}`;
    this.#was = duckIdent(`was ${this.name}`);
    this.#affected = duckIdent(`affected ${this.name}`);
  }

  get schema(): TableSchema {
    return this.#schema;
  }

  get #keyless(): boolean {
    return keyColumns(this.#schema).length === 0;
  }

  get #cells(): string[] {
    return this.#schema.columns.map((_, c) => `c${c}`);
  }

  async create(): Promise<void> {
    const cells = this.#cells.map((cell) => `${cell} VARCHAR`).join(', ');
    await this.#duck.run(`CREATE TABLE IF NOT EXISTS ${this.#rows} (k VARCHAR, input VARCHAR, ik VARCHAR, ts BIGINT, ${cells})`);
  }

  async empty(): Promise<boolean> {
    const [found] = await this.#duck.rows<{ empty: boolean }>(`SELECT NOT EXISTS (FROM ${this.#rows}) AS empty`);
    return found?.empty === true;
  }

  /** Takes on columns that it has not got yet, and types that are others now. @returns whether rows look different */
  async widen(schema: TableSchema): Promise<boolean> {
    const before = this.#schema;
    const merged = mergedColumns(before.columns, schema.columns);
    if (JSON.stringify(merged) === JSON.stringify(before.columns)) return false;
    this.#schema = { ...before, columns: merged };
    const list = merged.map((column, c) => {
      const old = before.columns.findIndex(({ name }) => name === column.name);
      return old === -1 ? `CAST(NULL AS VARCHAR) AS c${c}` : `c${old} AS c${c}`;
    });
    await this.#duck.run(
      `CREATE OR REPLACE TABLE ${this.#rows} AS SELECT k, input, ik, ts, ${list.join(', ')} FROM ${this.#rows}`,
    );
    return true;
  }

  /** From here on it is noted what the result was. */
  async begin(): Promise<void> {
    await this.#duck.run(`CREATE OR REPLACE TEMP TABLE ${this.#affected} (k VARCHAR)`);
    const cells = this.#cells.map((cell) => `${cell} VARCHAR`).join(', ');
    await this.#duck.run(`CREATE OR REPLACE TEMP TABLE ${this.#was} (k VARCHAR, ${cells})`);
  }

  /** Takes away what came of the rows of an input whose keys stand in the temporary table `touched`. */
  async take(input: string): Promise<void> {
    const id = duckLiteral(input);
    await this.#note(`SELECT DISTINCT o.k FROM ${this.#rows} o JOIN touched t ON o.ik = t.k WHERE o.input = ${id}`);
    await this.#duck.run(`DELETE FROM ${this.#rows} o USING touched t WHERE o.input = ${id} AND o.ik = t.k`);
  }

  /** Adds what comes of rows of an input. */
  async add(input: string, come: Come): Promise<void> {
    if (come.rows === 0) return;
    const cells = this.#cells.map((cell) => `${cell} VARCHAR`).join(', ');
    await this.#duck.run(`CREATE OR REPLACE TEMP TABLE come (k VARCHAR, ik VARCHAR, ts BIGINT, ${cells})`);
    await this.#load(input, come);
    await this.#note('SELECT DISTINCT k FROM come');
    await this.#duck.run(
      `INSERT INTO ${this.#rows} SELECT k, ${duckLiteral(input)}, ik, ts, ${this.#cells.join(', ')} FROM come`,
    );
  }

  /** Keeps what the result says of some keys, unless that is noted already. */
  async #note(keys: string): Promise<void> {
    await this.#duck.run(
      `CREATE OR REPLACE TEMP TABLE ks AS SELECT k FROM (${keys}) WHERE k NOT IN (SELECT k FROM ${this.#affected})`,
    );
    await this.#duck.run(`INSERT INTO ${this.#was} ${this.#winners('ks')}`);
    await this.#duck.run(`INSERT INTO ${this.#affected} SELECT k FROM ks`);
  }

  async #load(input: string, { schema, columns, from, ats, rows }: Come): Promise<void> {
    const key = keyColumns(this.#schema).map((c) => this.#schema.columns[c]?.name as string);
    const own = new Map(schema.columns.map(({ name }, c) => [name, columns[c] as Column]));
    // Without a key every row counts: it is told apart by what it comes of.
    const keys = this.#keyless
      ? [Array.from({ length: rows }, () => input), from.values()]
      : key.map((name) => own.get(name)?.values() ?? []);
    const texts = Array.from({ length: rows }, (_, row) =>
      keyText(
        keys.map((cells) => cells[row]),
        [...keys.keys()],
      ),
    );
    const present = this.#schema.columns.flatMap(({ name }, c) =>
      own.has(name) ? [{ c, column: own.get(name) as Column }] : [],
    );
    const loader = new Loader([loadCells(texts), load(from), load(ats), ...present.map(({ column }) => load(column))]);
    const names = ['k', 'ik', 'ts', ...present.map(({ c }) => `c${c}`)];
    const values = [plain('c0'), plain('c1'), `CAST(${plain('c2')} AS BIGINT)`, ...present.map((_, i) => plain(`c${i + 3}`))];
    await this.#duck.run(
      `INSERT INTO come (${names.join(', ')}) SELECT ${values.join(', ')} FROM (${loader.select})`,
      loader.values,
    );
  }

  /** T4, for the keys in a relation. */
  #winners(keys: string | null): string {
    const join = keys === null ? '' : `JOIN ${keys} USING (k)`;
    return `SELECT k, ${this.#cells.map((cell) => `o.${cell}`).join(', ')} FROM ${this.#rows} o ${join}
      QUALIFY row_number() OVER (PARTITION BY k ORDER BY o.ts DESC, o.input, o.ik DESC) = 1`;
  }

  /** What is another in the result than at {@link begin}, by key, in pages: rows that are new, changed, or gone (their key alone). */
  async *changes(): AsyncGenerator<{ readonly rows: number; readonly section: Pick<OutSection, 'schema' | 'ops' | 'columns'> }> {
    const key = new Set(keyColumns(this.#schema));
    await (this.#keyless ? this.#differing() : this.#differingByKey(key));
    for await (const { rows, columns } of this.#pages()) {
      const [ops, ...values] = columns as [Column, ...Column[]];
      const codes = ops.values().map((op) => (op as string).charCodeAt(0));
      const gone = codes.includes(Op.deleted);
      const told =
        gone && !this.#keyless ? values.map((column, c) => (key.has(c) ? column : unknownWhere(column, codes))) : values;
      yield { rows, section: { schema: this.#schema, ops: codes, columns: told } };
    }
  }

  async #differingByKey(key: ReadonlySet<number>): Promise<void> {
    const same = this.#cells.map((cell) => `n.${cell} IS NOT DISTINCT FROM w.${cell}`).join(' AND ');
    // What a row that is gone was is not told beyond its key.
    const cells = this.#cells.map(
      (cell, c) => `CASE WHEN n.k IS NULL THEN ${key.has(c) ? `w.${cell}` : 'NULL'} ELSE n.${cell} END AS ${cell}`,
    );
    await this.#duck.run(
      `CREATE OR REPLACE TEMP TABLE page AS SELECT row_number() OVER (ORDER BY k) AS n, * FROM (
         SELECT coalesce(n.k, w.k) AS k, CASE WHEN n.k IS NULL THEN 'd' WHEN w.k IS NULL THEN 'c' ELSE 'u' END AS op, ${cells.join(', ')}
           FROM (${this.#winners(this.#affected)}) n FULL JOIN ${this.#was} w ON n.k = w.k
          WHERE NOT (n.k IS NOT NULL AND w.k IS NOT NULL AND ${same}))`,
    );
  }

  /** Without a key: rows of which there are fewer now are gone, as a whole; those of which there are more are new. */
  async #differing(): Promise<void> {
    const cells = this.#cells.join(', ');
    const now = `SELECT ${cells} FROM (${this.#winners(this.#affected)})`;
    const was = `SELECT ${cells} FROM ${this.#was}`;
    await this.#duck.run(
      `CREATE OR REPLACE TEMP TABLE page AS SELECT row_number() OVER (ORDER BY op DESC, ${cells}) AS n, * FROM (
         SELECT 'd' AS op, * FROM (${was} EXCEPT ALL ${now}) UNION ALL SELECT 'c' AS op, * FROM (${now} EXCEPT ALL ${was}))`,
    );
  }

  /** The whole result in pages, by key; or by some of its columns, put together as a key is. */
  async *all(
    by: readonly number[] | null = null,
  ): AsyncGenerator<{ readonly rows: number; readonly section: Pick<OutSection, 'schema' | 'ops' | 'columns'> }> {
    await this.#duck.run(
      `CREATE OR REPLACE TEMP TABLE page AS SELECT row_number() OVER (ORDER BY ${by ? keySql(by) : 'k'}) AS n, 'r' AS op, * FROM (${this.#winners(null)})`,
    );
    for await (const { rows, columns } of this.#pages()) {
      yield {
        rows,
        section: { schema: this.#schema, ops: Array.from({ length: rows }, () => Op.read), columns: columns.slice(1) },
      };
    }
  }

  async *#pages(): AsyncGenerator<{ rows: number; columns: Column[] }> {
    for (let from = 0; ; from += PAGE_ROWS) {
      const page = `(SELECT * FROM page WHERE n > ${from} AND n <= ${from + PAGE_ROWS})`;
      const { rows, columns } = await readColumns(this.#duck, { from: page, order: 'n', texts: ['op', ...this.#cells] });
      if (rows > 0) yield { rows, columns };
      if (rows < PAGE_ROWS) return;
    }
  }
}

/** Columns of both, those of the first first; a type that differs is the second's. */
function mergedColumns(before: readonly ColumnSchema[], now: readonly ColumnSchema[]): ColumnSchema[] {
  const own = before.map((column) => now.find(({ name }) => name === column.name) ?? column);
  return [...own, ...now.filter(({ name }) => !before.some((column) => column.name === name))];
}

function unknownWhere(column: Column, ops: readonly number[]): Column {
  return columnOf(column.values().map((cell, row) => (ops[row] === Op.deleted ? undefined : cell)));
}
