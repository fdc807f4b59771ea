import { Fault } from '@tributary/core';
import type { Duck } from './database.ts';

/** Table functions that read nothing but their arguments. */
const HARMLESS_FUNCTIONS = new Set(['unnest', 'range', 'generate_series', 'generate_subscripts']);
/** Scalar functions that tell of the machine instead of the data. */
export const TELLING_FUNCTIONS = new Set([
  'getenv',
  'current_setting',
  'getvariable',
  'read_text',
  'read_blob',
  'duckdb_settings',
  'set_config',
]);

interface Node {
  readonly [key: string]: unknown;
}

/**
 * Lets through one SELECT over known tables and nothing else: DuckDB parses the text, and the tree is walked.
 * What is not a known table, a CTE of the query itself or a harmless function is refused, so neither files nor
 * settings nor other tables can be reached.
 * @param known lower-case `schema.table` and `table` names that may be read
 * @throws Fault `query_refused`
 */
export async function gate(duck: Duck, sql: string, known: ReadonlySet<string>): Promise<void> {
  const [row] = await duck.rows<{ tree: string }>('SELECT json_serialize_sql(CAST($1 AS VARCHAR)) AS tree', [sql]);
  const tree = JSON.parse(row?.tree ?? '{}') as { error?: boolean; error_message?: string; statements?: Node[] };
  if (tree.error)
    throw new Fault('query_refused', `not a query that can be run: ${tree.error_message ?? 'only SELECT is allowed'}`);
  if (tree.statements?.length !== 1) throw new Fault('query_refused', 'one SELECT at a time, please');
  const ctes = new Set<string>();
  visit(tree, (node) => {
    const map = (node['cte_map'] as { map?: { key: string }[] } | undefined)?.map ?? [];
    for (const { key } of map) ctes.add(key.toLowerCase());
  });
  visit(tree, (node) => inspect(node, known, ctes));
}

function inspect(node: Node, known: ReadonlySet<string>, ctes: ReadonlySet<string>): void {
  const name = (key: string) => String(node[key] ?? '').toLowerCase();
  if (node['type'] === 'BASE_TABLE') {
    const table = name('schema_name') ? `${name('schema_name')}.${name('table_name')}` : name('table_name');
    if (name('catalog_name') || !(known.has(table) || ctes.has(table))) {
      const list = [...known].filter((one) => one.includes('.')).toSorted();
      throw new Fault(
        'query_refused',
        `there is no table ${table}. Tables: ${list.slice(0, 30).join(', ')}${list.length > 30 ? ', …' : ''}`,
      );
    }
  }
  if (node['type'] === 'TABLE_FUNCTION') {
    const called = String((node['function'] as Node | undefined)?.['function_name'] ?? '').toLowerCase();
    if (!HARMLESS_FUNCTIONS.has(called)) throw new Fault('query_refused', `the table function ${called} is not allowed`);
  }
  if (node['class'] === 'FUNCTION' && TELLING_FUNCTIONS.has(name('function_name'))) {
    throw new Fault('query_refused', `the function ${name('function_name')} is not allowed`);
  }
}

function visit(value: unknown, see: (node: Node) => void): void {
  if (Array.isArray(value)) {
    for (const one of value) visit(one, see);
  } else if (typeof value === 'object' && value !== null) {
    see(value as Node);
    for (const one of Object.values(value)) visit(one, see);
  }
}
