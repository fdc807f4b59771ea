import { Fault } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';

/** A node of the tree that DuckDB's parser makes. */
export interface SqlNode {
  readonly [key: string]: unknown;
}

export interface Expression {
  readonly sql: string;
  readonly node: SqlNode;
}

/** Parses one SELECT. @throws Fault `config_invalid` in DuckDB's words, with the fact `offset` where it names one */
export async function parseSelect(duck: Duck, sql: string): Promise<SqlNode> {
  const [row] = await duck.rows<{ tree: string }>('SELECT json_serialize_sql(CAST($1 AS VARCHAR)) AS tree', [sql]);
  const tree = parseTree(row?.tree ?? '{}') as { error?: boolean; error_message?: string; statements?: SqlNode[] };
  if (tree.error) throw new Fault('config_invalid', tree.error_message ?? 'only SELECT is allowed');
  if (tree.statements?.length !== 1) throw new Fault('config_invalid', 'expected one SELECT');
  return tree.statements[0] as SqlNode;
}

/** Parses one expression. @throws Fault `config_invalid` */
export async function parseExpression(duck: Duck, sql: string): Promise<Expression> {
  const statement = await parseSelect(duck, `SELECT (${sql}\n)`);
  const node = statement['node'] as { select_list?: SqlNode[]; from_table?: { type?: string } };
  const [only, ...others] = node.select_list ?? [];
  if (!only || others.length > 0 || node.from_table?.type !== 'EMPTY')
    throw new Fault('config_invalid', 'expected one expression');
  return { sql, node: only };
}

/** SQL of a node of a tree. */
export async function sqlOf(duck: Duck, node: SqlNode): Promise<string> {
  const statement = await parseSelect(duck, 'SELECT 1');
  const select = { ...statement, node: { ...(statement['node'] as SqlNode), select_list: [{ ...node, alias: '' }] } };
  const sql = await sqlOfStatement(duck, select);
  return sql.replace(/^SELECT /, '');
}

export async function sqlOfStatement(duck: Duck, statement: SqlNode): Promise<string> {
  const tree = treeText({ error: false, statements: [statement] });
  const [row] = await duck.rows<{ sql: string }>('SELECT json_deserialize_sql(CAST($1 AS JSON)) AS sql', [tree]);
  return row?.sql ?? '';
}

/** Whole numbers that JavaScript would round (literals, and places that mean "none") travel as marked text. */
const WHOLE = /"(?:[^"\\]|\\.)*"|-?\d{16,}/g;
const MARKED = /"\\u0001(-?\d+)"/g;

function parseTree(text: string): unknown {
  return JSON.parse(text.replaceAll(WHOLE, (token) => (token.startsWith('"') ? token : `"\\u0001${token}"`)));
}

function treeText(tree: object): string {
  return JSON.stringify(tree).replaceAll(MARKED, '$1');
}

export function visit(value: unknown, see: (node: SqlNode) => void): void {
  if (Array.isArray(value)) {
    for (const one of value) visit(one, see);
  } else if (typeof value === 'object' && value !== null) {
    see(value as SqlNode);
    for (const one of Object.values(value)) visit(one, see);
  }
}

/** The same tree with some nodes replaced. */
export function replaced(value: unknown, replace: (node: SqlNode) => SqlNode): unknown {
  if (Array.isArray(value)) return value.map((one) => replaced(one, replace));
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(replace(value as SqlNode)).map(([key, one]) => [key, replaced(one, replace)] as const);
  return Object.fromEntries(entries);
}
