import { plain } from '@tributary/duckdb';
import { joinedSql } from './read-columns.ts';
import type { SqlType } from './sql-types.ts';

/** Where a column's values are, outside of SQL: a column of the input table, or what an earlier stage computed. */
export type Ref = { readonly input: number } | { readonly slot: number };

interface Loaded {
  readonly ref: Ref;
  readonly alias: string;
  readonly type: SqlType;
}

/** A column of a table that is looked up in, where its rows are kept as text, and the expression that must be equal to it. */
interface JoinKey {
  readonly cell: string;
  readonly type: SqlType;
  readonly sql: string;
}

type Layer =
  | { readonly step: number; readonly kind: 'column'; readonly alias: string; readonly sql: string }
  | { readonly step: number; readonly kind: 'where'; readonly sql: string }
  | {
      readonly step: number;
      readonly kind: 'join';
      /** Quoted. */
      readonly rows: string;
      readonly on: readonly JoinKey[];
      readonly columns: readonly string[];
    };

/** A column that a stage gives out. */
export interface Given {
  readonly slot: number;
  /** SQL: PostgreSQL's text of it. */
  readonly text: string;
}

/** How a column comes in: one string, split there (`bare`: without marks, so that no cell need be looked at for one), or a list where values hold the separator. */
export type LoadKind = 'bare' | 'text' | 'list';

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

  /**
   * Keys of kept rows that look up one of the keys in a relation.
   * @param kept quoted name of the rows of the input, kept as text
   * @param rows quoted name of the table that is looked up in
   * @param keys relation with the key cells of that table; only what is loaded from the input itself can be asked
   */
  referring(kept: string, { rows, keys }: { rows: string; keys: string }): string[] {
    const cells = this.loads.map(({ ref, alias, type }) => `${type.read(`c${'input' in ref ? ref.input : -1}`)} AS ${alias}`);
    const base = `(SELECT ${['k AS __r', ...cells].join(', ')} FROM ${kept})`;
    return this.#layers.flatMap((layer, i) =>
      layer.kind === 'join' && layer.rows === rows
        ? [`SELECT p.__r AS k FROM ${this.#above(base, i)} p JOIN ${keys} l ON ${condition(layer.on)}`]
        : [],
    );
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
      kind === 'list' ? `unnest($c${c}) AS c${c}` : `unnest(string_split($c${c}, chr(31))) AS c${c}`,
    );
    const numbers = `unnest(range(CAST($${ROWS} AS BIGINT))) AS __r`;
    const reads = this.loads.map(
      ({ alias, type }, c) => `${type.read(kinds[c] === 'bare' ? `c${c}` : plain(`c${c}`))} AS ${alias}`,
    );
    return this.#above(`(SELECT ${['__r', ...reads].join(', ')} FROM (SELECT ${[numbers, ...cells].join(', ')}))`, layers);
  }

  #above(base: string, layers: number): string {
    return this.#layers.slice(0, layers).reduce((rows, layer) => {
      if (layer.kind === 'column') return `(SELECT *, ${layer.sql} AS ${layer.alias} FROM ${rows})`;
      if (layer.kind === 'where') return `(SELECT * FROM ${rows} WHERE ${layer.sql})`;
      return `(SELECT p.*, ${layer.columns.join(', ')} FROM ${rows} p LEFT JOIN ${layer.rows} l ON ${condition(layer.on)})`;
    }, base);
  }
}

function condition(on: readonly JoinKey[]): string {
  return on.map(({ cell, type, sql }) => `${type.read(`l.${cell}`)} = (${sql})`).join(' AND ');
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
    this.#loads.set(key, { ref, alias, type });
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

  /** @param rows quoted name of the other table's rows, as text. @returns an alias for each of its columns that are asked for */
  join(
    step: number,
    { rows, on, columns }: { rows: string; on: readonly JoinKey[]; columns: readonly { cell: string; type: SqlType }[] },
  ): string[] {
    const aliases = columns.map(({ type }) => {
      const alias = `__v${this.#next++}`;
      this.types.set(alias, type.duck);
      return alias;
    });
    const list = columns.map(({ cell, type }, i) => `${type.read(`l.${cell}`)} AS ${aliases[i]}`);
    this.#layers.push({ step, kind: 'join', rows, on, columns: list });
    return aliases;
  }

  /** @param filters false: every row passes */
  finish(given: readonly Given[], { filters = true } = {}): SqlStage {
    const layers = this.#layers.filter((layer) => filters || layer.kind !== 'where');
    return new SqlStage([...this.#loads.values()], layers, given);
  }
}
