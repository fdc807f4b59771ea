import { Fault } from '@tributary/core';
import type { Duck } from './database.ts';

/** Table functions that read nothing but their arguments. */
const HARMLESS_FUNCTIONS = new Set(['unnest', 'range', 'generate_series', 'generate_subscripts']);
/** Scalar functions that tell of the machine instead of the data. */
export const TELLING_FUNCTIONS = new Set([
  'getenv',
  'current_setting',
  'getvariable',
  'current_database',
  'current_query',
  'nextval',
  'currval',
  'write_log',
  'read_text',
  'read_blob',
  'duckdb_settings',
  'set_config',
]);

interface Node {
  readonly [key: string]: unknown;
}

/** A table that a query reads. */
export interface ReadTable {
  /** Empty where the query names the table alone. */
  readonly schema: string;
  readonly name: string;
  /** Names of columns, lower-case, that the query may mean, and others that it cannot; null: all there are. */
  readonly columns: ReadonlySet<string> | null;
}

/**
 * Lets through one SELECT over known tables and nothing else: DuckDB parses the text, and the tree is walked.
 * What is not a known table, a CTE of the query itself or a harmless function is refused, so neither files nor
 * settings nor other tables can be reached.
 * @param known lower-case `schema.table` and `table` names that may be read
 * @returns the known tables that it reads, each once
 * @throws Fault `query_refused`
 */
export async function gate(duck: Duck, sql: string, known: ReadonlySet<string>): Promise<readonly ReadTable[]> {
  const [row] = await duck.rows<{ tree: string }>('SELECT json_serialize_sql(CAST($1 AS VARCHAR)) AS tree', [sql]);
  const tree = JSON.parse(row?.tree ?? '{}') as { error?: boolean; error_message?: string; statements?: Node[] };
  if (tree.error) throw new Fault('query_refused', `not a query that can be run: ${wordsOf(tree.error_message)}`);
  if (tree.statements?.length !== 1) throw new Fault('query_refused', 'one SELECT at a time, please');
  const ctes = await commonNames(duck, tree);
  const columns = columnsMeant(tree);
  const found = new Map<string, ReadTable>();
  visit(tree, (node) => {
    const table = inspect(node, known, ctes);
    if (table !== null) found.set(`${table.schema}.${table.name}`, { ...table, columns });
  });
  return [...found.values()];
}

function wordsOf(message = 'only SELECT'): string {
  return message.startsWith('Only SELECT') ? 'only SELECT is allowed' : message;
}

/**
 * Names of the query's CTEs. A name means a CTE only in a part of the query, and is looked for elsewhere too: so one that means
 * something of DuckDB's there (a view of its catalog, a file) is refused.
 */
async function commonNames(duck: Duck, tree: object): Promise<ReadonlySet<string>> {
  const names = new Set<string>();
  visit(tree, (node) => {
    const map = (node['cte_map'] as { map?: { key: string }[] } | undefined)?.map ?? [];
    for (const { key } of map) names.add(key.toLowerCase());
  });
  if (names.size === 0) return names;
  const views = await duck.rows<{ name: string }>('SELECT lower(view_name) AS name FROM duckdb_views() WHERE internal');
  const taken = new Set(views.map(({ name }) => name));
  for (const name of names)
    if (taken.has(name) || !/^[\p{L}\p{N}_$ -]+$/u.test(name))
      throw new Fault('query_refused', 'a name in WITH is one that is taken, or is not made of letters, digits and _');
  return names;
}

/** @returns the known table that this node is, if it is one */
function inspect(
  node: Node,
  known: ReadonlySet<string>,
  ctes: ReadonlySet<string>,
): { readonly schema: string; readonly name: string } | null {
  const text = (key: string) => String(node[key] ?? '').toLowerCase();
  if (node['type'] === 'TABLE_FUNCTION') {
    const called = String((node['function'] as Node | undefined)?.['function_name'] ?? '').toLowerCase();
    if (!HARMLESS_FUNCTIONS.has(called)) throw new Fault('query_refused', `the table function ${called} is not allowed`);
  }
  if (node['type'] === 'SHOW_REF') throw new Fault('query_refused', 'DESCRIBE, SHOW and SUMMARIZE are not allowed, only SELECT');
  if (node['class'] === 'FUNCTION' && TELLING_FUNCTIONS.has(text('function_name')))
    throw new Fault('query_refused', `the function ${text('function_name')} is not allowed`);
  if (node['type'] !== 'BASE_TABLE') return null;
  const [catalog, schema, name] = ['catalog_name', 'schema_name', 'table_name'].map(text) as [string, string, string];
  if (catalog === '' && schema === '' && ctes.has(name)) return null;
  if (catalog === '' && known.has(schema === '' ? name : `${schema}.${name}`)) return { schema, name };
  const called = [catalog, schema, name].filter((part) => part !== '');
  const list = [...known].filter((one) => one.includes('.')).toSorted();
  const tables = `Tables: ${list.slice(0, 30).join(', ')}${list.length > 30 ? ', …' : ''}`;
  const plain = called.every((part) => /^[\p{L}\p{N}_]+$/u.test(part));
  throw new Fault('query_refused', `there is no table ${plain ? called.join('.') : 'of that name'}. ${tables}`);
}

/**
 * Every name of a column in a query; null where it may mean columns that it does not name: by `*`, by place, by the whole row,
 * or by what two tables have in common. Of expressions without a FROM: an object with an `alias` beside them names a relation.
 */
export function columnsMeant(tree: object): ReadonlySet<string> | null {
  const named = new Set<string>();
  const relations = new Set<string>();
  let all = false;
  visit(tree, (node) => {
    const texts = (key: string) => ((node[key] as string[] | undefined) ?? []).map((one) => one.toLowerCase());
    if (node['class'] === undefined)
      for (const key of ['alias', 'table_name']) if (typeof node[key] === 'string') relations.add(node[key].toLowerCase());
    if (node['class'] === 'COLUMN_REF') for (const one of texts('column_names')) named.add(one);
    if (node['type'] === 'JOIN') for (const one of texts('using_columns')) named.add(one);
    const renamed = node['type'] === 'BASE_TABLE' && texts('column_name_alias').length > 0;
    const unnamed = node['class'] === 'STAR' || node['class'] === 'POSITIONAL_REFERENCE' || node['ref_type'] === 'NATURAL';
    if (renamed || unnamed || node['type'] === 'PIVOT') all = true;
  });
  // The name of a relation alone is its whole row; before a column's it is no more than a name too many.
  visit(tree, (node) => {
    const [only, ...more] = node['class'] === 'COLUMN_REF' ? (node['column_names'] as string[]) : [];
    if (only !== undefined && more.length === 0 && relations.has(only.toLowerCase())) all = true;
  });
  return all ? null : named;
}

function visit(value: unknown, see: (node: Node) => void): void {
  if (Array.isArray(value)) {
    for (const one of value) visit(one, see);
  } else if (typeof value === 'object' && value !== null) {
    see(value as Node);
    for (const one of Object.values(value)) visit(one, see);
  }
}
