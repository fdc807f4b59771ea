import { Fault } from '@tributary/core';
import { type Duck, TELLING_FUNCTIONS } from '@tributary/duckdb';

interface Node {
  readonly class?: string;
  readonly function_name?: string;
  readonly column_names?: readonly string[];
  readonly query_location?: number;
  readonly [key: string]: unknown;
}

/** An expression whose columns have been found. */
interface Parsed {
  /** With every column in the words that {@link Expressions.parse} was given for it. */
  readonly sql: string;
  /** Names of columns, as `find` was asked for them and knew them. */
  readonly columns: readonly string[];
}

const PREFIX = 'SELECT (';
const IDENTIFIER = /^(?:"(?:[^"]|"")*"|[\p{L}_][\p{L}\p{N}_$]*)/u;

/** What means one thing to PostgreSQL and another to DuckDB, with what to write instead. */
const DIFFERENT: Readonly<Record<string, string>> = {
  regexp_full_match: '~ matches a whole text here: write regexp_matches(text, pattern)',
  not_regexp_full_match: '!~ matches a whole text here: write NOT regexp_matches(text, pattern)',
};

/**
 * Understands SQL expressions over one row: DuckDB parses them, and the tree is walked.
 *
 * Allowed is what gives the same answer whenever it is asked, for the same row: operators, CASE, casts and functions without
 * side effects. A column is a name alone. Refused are sub-queries, aggregates, windows, and functions of the clock, of
 * chance and of the machine: a changelog that is made again would be another one.
 */
export class Expressions {
  readonly #duck: Duck;
  #functions: ReadonlySet<string> | null = null;

  constructor(duck: Duck) {
    this.#duck = duck;
  }

  /**
   * @param find what stands for a column in SQL; null when there is none of that name
   * @throws Fault `config_invalid` that says what is wrong, without saying where the expression stands
   */
  async parse(text: string, find: (name: string) => string | null): Promise<Parsed> {
    const whole = `${PREFIX}${text})`;
    const [row] = await this.#duck.rows<{ tree: string }>('SELECT json_serialize_sql(CAST($1 AS VARCHAR)) AS tree', [whole]);
    const tree = JSON.parse(row?.tree ?? '{}') as { error?: boolean; error_message?: string; statements?: { node: Node }[] };
    if (tree.error || tree.statements?.length !== 1) refuse(tree.error_message ?? 'expected one expression');
    const select = (tree.statements as { node: Node }[])[0]?.node as Node;
    const list = select['select_list'] as readonly Node[] | undefined;
    const plain = list?.length === 1 && (select['from_table'] as Node | undefined)?.['type'] === 'EMPTY';
    if (!plain || select['where_clause'] || select['qualify']) refuse('expected one expression');
    const found: { at: number; name: string; sql: string }[] = [];
    const functions = await this.#allowed();
    walk(list, (node) => {
      const column = this.#inspect(node, functions);
      if (column === null) return;
      const at = node.query_location as number;
      const name = find(column) === null ? column.toLowerCase() : column;
      const sql = find(name);
      if (sql === null) refuse(`there is no column "${column}"`);
      found.push({ at, name, sql: sql as string });
    });
    return { sql: replaced(whole, found), columns: [...new Set(found.map(({ name }) => name))] };
  }

  /** @returns the column that a node names, or null. @throws Fault when the node is not allowed */
  #inspect(node: Node, functions: ReadonlySet<string>): string | null {
    switch (node.class) {
      case 'SUBQUERY':
        return refuse('a sub-query is not allowed: use the step "lookup"');
      case 'WINDOW':
        return refuse('window functions are not allowed: an expression sees one row');
      case 'STAR':
      case 'PARAMETER':
        return refuse('expected an expression over columns');
      case 'FUNCTION': {
        const name = String(node.function_name).toLowerCase();
        const instead = DIFFERENT[name];
        if (instead) refuse(instead);
        if (!functions.has(name)) refuse(`the function ${name} is not known, or not the same for the same row at every time`);
        return null;
      }
      case 'COLUMN_REF': {
        const [name, ...more] = node.column_names ?? [];
        if (name === undefined || more.length > 0) refuse(`"${node.column_names?.join('.')}": a column is a name alone`);
        return name as string;
      }
      default:
        return null;
    }
  }

  async #allowed(): Promise<ReadonlySet<string>> {
    if (this.#functions) return this.#functions;
    const rows = await this.#duck.rows<{ name: string }>(
      `SELECT DISTINCT lower(function_name) AS name FROM duckdb_functions()
        WHERE function_type IN ('scalar', 'macro') AND coalesce(stability, 'CONSISTENT') = 'CONSISTENT'`,
    );
    this.#functions = new Set(rows.map((row) => row.name).filter((name) => !TELLING_FUNCTIONS.has(name)));
    return this.#functions;
  }

  /** DuckDB's type of an expression. @param known types of what may stand in it. @throws Fault `config_invalid` with DuckDB's words */
  async typeOf(sql: string, known: ReadonlyMap<string, string>): Promise<string> {
    const columns = [...known].map(([alias, duck]) => `CAST(NULL AS ${duck}) AS ${alias}`);
    const from = columns.length > 0 ? columns.join(', ') : '1';
    try {
      const [row] = await this.#duck.rows<{ column_type: string }>(`DESCRIBE SELECT ${sql} AS x FROM (SELECT ${from})`);
      return row?.column_type ?? 'VARCHAR';
    } catch (error) {
      return refuse(error instanceof Fault ? error.message.replace(/^DuckDB: \w+ Error: /, '') : String(error));
    }
  }
}

function refuse(message: string): never {
  throw new Fault('config_invalid', message);
}

function walk(value: unknown, see: (node: Node) => void): void {
  if (Array.isArray(value)) for (const one of value) walk(one, see);
  else if (typeof value === 'object' && value !== null) {
    see(value as Node);
    for (const one of Object.values(value)) walk(one, see);
  }
}

/** Column names give way to what stands for them, at the places where the parser saw them: in bytes of UTF-8. */
function replaced(whole: string, found: readonly { at: number; sql: string }[]): string {
  let bytes = Buffer.from(whole, 'utf8');
  for (const { at, sql } of found.toSorted((a, b) => b.at - a.at)) {
    const rest = bytes.subarray(at).toString('utf8');
    const token = IDENTIFIER.exec(rest)?.[0];
    if (token === undefined) refuse('a column of it cannot be found: write the expression in another way');
    bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from(`${sql}${rest.slice((token as string).length)}`, 'utf8')]);
  }
  return bytes.toString('utf8').slice(PREFIX.length - 1);
}
