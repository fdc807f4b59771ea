import type { KpiConfig } from '@tributary/config';
import { describeError, Fault } from '@tributary/core';
import { type Duck, gate } from '@tributary/duckdb';
import type { ShownTable } from './shown-table.ts';
import { parseSelect, replaced, type SqlNode, sqlOfStatement, visit } from './sql-tree.ts';

export interface NamedTable {
  readonly source: string;
  /** `schema.table`. */
  readonly table: string;
}

/** Tables that a KPI of the short form reads. @throws Fault `config_invalid` with file, line and column */
export async function tablesOfQuery(duck: Duck, config: KpiConfig, sources: readonly string[]): Promise<NamedTable[]> {
  const statement = await statementOf(duck, config);
  const found = new Map<string, NamedTable>();
  for (const node of baseTables(statement)) {
    const one = tableNamed(node);
    if (one.source === '') throw wrong(config, 'names a table without its source: write SOURCE.SCHEMA.TABLE, or SOURCE.TABLE');
    if (!sources.includes(one.source))
      throw wrong(config, `there is no source ${one.source}: name tables SOURCE.SCHEMA.TABLE, or SOURCE.TABLE`);
    found.set(`${one.source}.${one.table}`, one);
  }
  if (found.size === 0) throw wrong(config, 'reads no captured table: name them SOURCE.SCHEMA.TABLE, or SOURCE.TABLE');
  return [...found.values()];
}

/**
 * The SELECT of a KPI of the short form, over the state's tables.
 * @param view a SELECT that shows a table
 */
export async function queryOver(
  duck: Duck,
  config: KpiConfig,
  view: (table: NamedTable) => { table: ShownTable; select: string },
): Promise<string> {
  const statement = await statementOf(duck, config);
  const seen = new Map<string, string>();
  const known = new Set<string>();
  const over = replaced(statement, (node) => {
    if (node['type'] !== 'BASE_TABLE' || isCte(node, statement)) return node;
    const { table, select } = view(tableNamed(node));
    const name = `kpi ${table.source}.${table.name}`;
    seen.set(name, select);
    known.add(name.toLowerCase());
    const alias = node['alias'] === '' ? node['table_name'] : node['alias'];
    return { ...node, catalog_name: '', schema_name: '', table_name: name, alias };
  }) as SqlNode;
  const sql = await sqlOfStatement(duck, over);
  try {
    await gate(duck, sql, known);
  } catch (error) {
    throw wrong(config, describeError(error));
  }
  const views = [...seen].map(([name, select]) => `"${name.replaceAll('"', '""')}" AS (${select})`);
  return `WITH ${views.join(', ')} SELECT * FROM (${sql})`;
}

/** The SELECT of a KPI of the short form, as a tree. @throws Fault `config_invalid` with file, line and column */
export async function statementOf(duck: Duck, config: KpiConfig): Promise<SqlNode> {
  const { definition } = config;
  if (definition.kind !== 'query') throw new Fault('config_invalid', `Kpi ${config.name} is not of the short form`);
  try {
    return await parseSelect(duck, definition.sql.trim().replace(/;\s*$/, ''));
  } catch (error) {
    throw wrong(config, describeError(error));
  }
}

function baseTables(statement: SqlNode): SqlNode[] {
  const found: SqlNode[] = [];
  visit(statement, (node) => {
    if (node['type'] === 'BASE_TABLE' && !isCte(node, statement)) found.push(node);
  });
  return found;
}

/** A name without a schema may be a CTE of the statement itself. */
function isCte(node: SqlNode, statement: SqlNode): boolean {
  if (node['schema_name'] !== '') return false;
  let found = false;
  visit(statement, (one) => {
    const map = (one['cte_map'] as { map?: { key: string }[] } | undefined)?.map ?? [];
    if (map.some(({ key }) => key.toLowerCase() === String(node['table_name']).toLowerCase())) found = true;
  });
  return found;
}

/** `source.schema.table`, or `source.table` for the schema public. */
export function tableNamed(node: SqlNode): NamedTable {
  const [catalog, schema, table] = ['catalog_name', 'schema_name', 'table_name'].map((key) => String(node[key] ?? ''));
  return catalog === ''
    ? { source: schema ?? '', table: `public.${table}` }
    : { source: catalog ?? '', table: `${schema}.${table}` };
}

function wrong(config: KpiConfig, what: string): Fault {
  const place = config.places['sql'];
  return new Fault('config_invalid', `${place ? `${place}: ` : ''}Kpi ${config.name}, "sql": ${what}`, { kpi: config.name });
}
