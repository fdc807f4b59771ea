import { duckIdent, plain } from '@tributary/duckdb';
import { joinedSql } from './read-columns.ts';
import type { SqlType } from './sql-types.ts';

/** Where a column's values are, outside of SQL: a column of the input table, or what an earlier stage computed. */
export type Ref = { readonly input: number } | { readonly slot: number };

interface Loaded {
  readonly ref: Ref;
  readonly alias: string;
  readonly read: string;
}

type Layer =
  | { readonly step: number; readonly kind: 'column'; readonly alias: string; readonly sql: string }
  | { readonly step: number; readonly kind: 'where'; readonly sql: string }
  | {
      readonly step: number;
      readonly kind: 'join';
      readonly table: string;
      readonly on: string;
      readonly columns: readonly string[];
    };

/** A column that a stage gives out. */
export interface Given {
  readonly slot: number;
  /** SQL: PostgreSQL's text of it. */
  readonly text: string;
}

/** How a column comes in: one string, split there, or a list where values hold the separator. */
export type LoadKind = 'text' | 'list';

/** Names of values in a statement of {@link SqlStage.statement}. */
export const ROWS = 'n';

/**
 * Steps that one statement does for all rows of a section at once. Columns come in as text, `$c0`, `$c1`, …, the number of
 * rows as `$n`; out come, in one row, the numbers of the rows that are left, and every given column as one string of
 * values joined by 0x1F with NULL as a lone 0x1E, and how many NULLs it has.
 */
export class SqlStage {
  readonly loads: readonly Loaded[];
  readonly given: readonly Given[];
  readonly filters: boolean;
  readonly #layers: readonly Layer[];

  constructor(loads: readonly Loaded[], layers: readonly Layer[], given: readonly Given[]) {
    this.loads = loads;
    this.given = given;
    this.#layers = layers;
    this.filters = layers.some((layer) => layer.kind === 'where');
  }

  /** @param lists give columns out as lists of values instead: for values that hold a separator or a marker */
  statement(kinds: readonly LoadKind[], lists: boolean): string {
    const rows = this.#rows(kinds, this.#layers.length);
    const order = this.#layers.some((layer) => layer.kind === 'join') ? ' ORDER BY __r' : '';
    const columns = this.given.flatMap(({ text }) => (lists ? [`list(${text}${order})`, '0'] : joinedSql(text, order)));
    const left = this.filters ? `string_agg(CAST(__r AS VARCHAR), ','${order})` : 'NULL';
    return `SELECT ${[left, ...columns].join(', ')} FROM ${rows}`;
  }

  /** Statements that do ever more of the work, each with the step whose work comes last in it: to find the one that fails. */
  probes(kinds: readonly LoadKind[]): { readonly step: number; readonly sql: string }[] {
    const probes = this.#layers.map((layer, i) => {
      const rows = this.#rows(kinds, i + 1);
      return { step: layer.step, sql: `SELECT count(${layer.kind === 'column' ? layer.alias : '*'}) FROM ${rows}` };
    });
    const last = this.#layers.at(-1)?.step ?? 0;
    return [...probes, { step: last, sql: this.statement(kinds, true) }];
  }

  #rows(kinds: readonly LoadKind[], layers: number): string {
    const cells = kinds.map((kind, c) =>
      kind === 'text' ? `unnest(string_split($c${c}, chr(31))) AS c${c}` : `unnest($c${c}) AS c${c}`,
    );
    const numbers = `unnest(range(CAST($${ROWS} AS BIGINT))) AS __r`;
    const reads = this.loads.map(({ alias, read }) => `${read} AS ${alias}`);
    const base = `(SELECT ${['__r', ...reads].join(', ')} FROM (SELECT ${[numbers, ...cells].join(', ')}))`;
    return this.#layers.slice(0, layers).reduce((rows, layer) => {
      if (layer.kind === 'column') return `(SELECT *, ${layer.sql} AS ${layer.alias} FROM ${rows})`;
      if (layer.kind === 'where') return `(SELECT * FROM ${rows} WHERE ${layer.sql})`;
      return `(SELECT p.*, ${layer.columns.join(', ')} FROM ${rows} p LEFT JOIN ${layer.table} l ON ${layer.on})`;
    }, base);
  }
}

/** Puts a {@link SqlStage} together. Aliases are its own; `find` gives them to expressions. */
export class StageDraft {
  readonly #loads = new Map<string, Loaded>();
  readonly #layers: Layer[] = [];
  /** DuckDB's types of all aliases so far. */
  readonly types = new Map<string, string>();
  #next = 0;

  get empty(): boolean {
    return this.#layers.length === 0;
  }

  /** The alias of a column from outside, as a value of its type. */
  load(ref: Ref, type: SqlType): string {
    const key = 'input' in ref ? `i${ref.input}` : `s${ref.slot}`;
    const known = this.#loads.get(key);
    if (known) return known.alias;
    const alias = `__${key}`;
    this.#loads.set(key, { ref, alias, read: type.read(plain(`c${this.#loads.size}`)) });
    this.types.set(alias, type.duck);
    return alias;
  }

  column(step: number, sql: string, duck: string): string {
    const alias = `__v${this.#next++}`;
    this.#layers.push({ step, kind: 'column', alias, sql });
    this.types.set(alias, duck);
    return alias;
  }

  where(step: number, sql: string): void {
    this.#layers.push({ step, kind: 'where', sql });
  }

  /** @returns an alias for each column of the other table */
  join(
    step: number,
    { table, on, columns }: { table: string; on: string; columns: readonly { name: string; type: SqlType }[] },
  ): string[] {
    const aliases = columns.map(({ type }) => {
      const alias = `__v${this.#next++}`;
      this.types.set(alias, type.duck);
      return alias;
    });
    const list = columns.map(({ name, type }, i) => `${type.read(`l.${duckIdent(name)}`)} AS ${aliases[i]}`);
    this.#layers.push({ step, kind: 'join', table, on, columns: list });
    return aliases;
  }

  /** @param filters false: every row passes */
  finish(given: readonly Given[], { filters = true } = {}): SqlStage {
    const layers = this.#layers.filter((layer) => filters || layer.kind !== 'where');
    return new SqlStage([...this.#loads.values()], layers, given);
  }
}
