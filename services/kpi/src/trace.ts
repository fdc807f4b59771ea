import type { SqlNode } from './sql-tree.ts';
import { meant, merged, NOWHERE, type Origin, type Relation, type Scope, unresolved } from './origin.ts';

/** Columns of an answer, in order. */
export interface Traced {
  readonly columns: readonly { readonly name: string; readonly origin: Origin }[];
  /** Why there may be others; null: there are none. */
  readonly opaque: string | null;
  /** What decides which rows there are: conditions, joins, groups, limits. */
  readonly rows: Origin;
}

type Tables = (node: SqlNode) => Relation;
type Common = ReadonlyMap<string, () => Traced>;

/** What the FROM clause of one SELECT is gathered into. */
interface From {
  readonly relations: Relation[];
  readonly rows: Origin[];
  readonly scope: Scope;
  readonly common: Common;
  /** Columns that a join compares by name: a * names them once. */
  readonly shared: Set<string>;
}

/** Names that stand for something else than a column: parameters of a lambda. */
type Bound = ReadonlySet<string>;

/**
 * Follows columns through the tree of a SELECT, as far as DuckDB's parser says what they are. What is not followed is said: nothing is guessed.
 * @param tableOf a captured table, by the node that names it
 */
export function traceQuery(node: SqlNode, tableOf: Tables): Traced {
  return new Tracer(tableOf).query(node, new Map(), null);
}

/** Columns that an expression is made from. */
export function traceExpression(node: unknown, scope: Scope): Origin {
  const none: Tables = () => ({ name: '', columns: [], opaque: 'a table in an expression' });
  return new Tracer(none).expression(node, scope, new Map(), new Set());
}

class Tracer {
  readonly #tableOf: Tables;

  constructor(tableOf: Tables) {
    this.#tableOf = tableOf;
  }

  query(node: SqlNode, around: Common, outer: Scope | null): Traced {
    const common = this.#common(node, around, outer);
    if (node['type'] === 'SELECT_NODE') return this.#select(node, common, outer);
    if (node['type'] === 'SET_OPERATION_NODE') return this.#together(node, common, outer);
    const opaque = `a ${String(node['type']).replace('_NODE', '').replaceAll('_', ' ').toLowerCase()} is not followed`;
    return { columns: [], opaque, rows: unresolved(opaque) };
  }

  /** Queries that WITH names, each followed when it is first read. */
  #common(node: SqlNode, around: Common, outer: Scope | null): Common {
    const map = (node['cte_map'] as { map?: { key: string; value: SqlNode }[] } | undefined)?.map ?? [];
    const common = new Map(around);
    for (const { key, value } of map) {
      const before = new Map(common);
      let traced: Traced | null = null;
      common.set(key.toLowerCase(), () => {
        const query = (value['query'] as { node: SqlNode }).node;
        return (traced ??= renamed(this.query(query, before, outer), value['aliases']));
      });
    }
    return common;
  }

  #select(node: SqlNode, common: Common, outer: Scope | null): Traced {
    const rows: Origin[] = [];
    const items = (node['select_list'] as SqlNode[] | undefined) ?? [];
    const busy = new Set<string>();
    const relations: Relation[] = [];
    const shared = new Set<string>();
    const scope: Scope = {
      relations,
      outer,
      // Names of the same list, which may be made from each other.
      named: (name) => {
        const item = items.find((one) => String(one['alias'] ?? '').toLowerCase() === name);
        if (!item || busy.has(name)) return null;
        busy.add(name);
        const origin = this.expression(item, scope, common, new Set());
        busy.delete(name);
        return origin;
      },
    };
    this.#from(node['from_table'] as SqlNode, { relations, rows, scope, common, shared });
    const modifiers = (node['modifiers'] as SqlNode[] | undefined) ?? [];
    const limited = modifiers.some(({ type }) => type !== 'ORDER_MODIFIER');
    const deciding = ['where_clause', 'group_expressions', 'having', 'qualify'].map((key) => node[key]);
    rows.push(this.expression([...deciding, ...(limited ? modifiers : [])], scope, common, new Set()));
    const columns: { name: string; origin: Origin }[] = [];
    let opaque: string | null = null;
    for (const item of items) {
      if (item['class'] === 'STAR') {
        const star = this.#star(item, { scope, common, shared });
        columns.push(...star.columns);
        opaque ??= star.opaque;
      } else columns.push({ name: nameOf(item), origin: this.expression(item, scope, common, new Set()) });
    }
    if (modifiers.some(distinct)) rows.push(...columns.map(({ origin }) => origin));
    if (node['aggregate_handling'] === 'FORCE_AGGREGATES')
      rows.push(unresolved('GROUP BY ALL does not say which columns it groups by'));
    return { columns, opaque, rows: merged(rows) };
  }

  #together(node: SqlNode, common: Common, outer: Scope | null): Traced {
    const sides = (node['children'] as SqlNode[] | undefined) ?? [node['left'] as SqlNode, node['right'] as SqlNode];
    const [first, ...others] = sides.map((side) => this.query(side, common, outer)) as [Traced, ...Traced[]];
    const all = [first, ...others];
    const opaque = all.find((one) => one.opaque !== null)?.opaque ?? null;
    const kind = String(node['setop_type']);
    const united = all.flatMap((one) => one.columns);
    const columns =
      kind === 'UNION_BY_NAME'
        ? [...new Map(united.map(({ name }) => [name.toLowerCase(), name]))].map(([lower, name]) => ({
            name,
            origin: merged(united.filter((one) => one.name.toLowerCase() === lower).map(({ origin }) => origin)),
          }))
        : first.columns.map(({ name, origin }, i) => ({
            name,
            origin: kind === 'UNION' ? merged(all.map((one) => one.columns[i]?.origin ?? NOWHERE)) : origin,
          }));
    const modifiers = (node['modifiers'] as SqlNode[] | undefined) ?? [];
    const scope: Scope = { relations: [{ name: '', columns, opaque }], named: () => null, outer };
    const rows = all.map((one) => one.rows);
    if (modifiers.some(({ type }) => type !== 'ORDER_MODIFIER')) rows.push(this.expression(modifiers, scope, common, new Set()));
    // Rows are compared whole.
    if (node['setop_all'] !== true || !kind.startsWith('UNION') || modifiers.some(distinct))
      rows.push(...united.map(({ origin }) => origin));
    return { columns, opaque, rows: merged(rows) };
  }

  #from(node: SqlNode, into: From): void {
    const { relations, rows, scope, common, shared } = into;
    const name = String(node['alias'] || node['table_name'] || '');
    const push = ({ columns, opaque }: Pick<Traced, 'columns' | 'opaque'>) => {
      relations.push({ name, ...renamed({ columns, opaque, rows: NOWHERE }, node['column_name_alias']) });
    };
    if (node['type'] === 'EMPTY') return;
    if (node['type'] === 'BASE_TABLE') {
      const known = node['schema_name'] === '' ? common.get(String(node['table_name']).toLowerCase()) : undefined;
      const traced = known?.();
      if (traced) rows.push(traced.rows);
      return push(traced ?? this.#tableOf(node));
    }
    if (node['type'] === 'SUBQUERY') {
      const traced = this.query((node['subquery'] as { node: SqlNode }).node, common, scope);
      rows.push(traced.rows);
      return push(traced);
    }
    if (node['type'] === 'JOIN') {
      this.#from(node['left'] as SqlNode, into);
      const left = relations.length;
      this.#from(node['right'] as SqlNode, into);
      for (const one of (node['using_columns'] as string[] | undefined) ?? []) {
        rows.push(meant([one], scope));
        shared.add(one.toLowerCase());
      }
      if (node['condition']) rows.push(this.expression(node['condition'], scope, common, new Set()));
      if (node['ref_type'] === 'NATURAL') {
        const opaque = 'a NATURAL JOIN does not say which columns it compares';
        rows.push(unresolved(opaque));
        relations.splice(0, relations.length, ...relations.map((one) => ({ ...one, opaque })));
      }
      // Only rows of the left side come out of these.
      if (['SEMI', 'ANTI'].includes(String(node['join_type']))) relations.splice(left);
      return;
    }
    push({ columns: [], opaque: `columns of a ${String(node['type']).replaceAll('_', ' ').toLowerCase()} are not followed` });
  }

  #star(item: SqlNode, { scope, common, shared }: Pick<From, 'scope' | 'common' | 'shared'>): Pick<Traced, 'columns' | 'opaque'> {
    if (item['columns'] === true || item['expr'])
      return { columns: [], opaque: 'columns that a pattern chooses are not followed' };
    const texts = (key: string) => JSON.stringify(item[key] ?? []).toLowerCase();
    const only = String(item['relation_name'] ?? '').toLowerCase();
    const among = scope.relations.filter(({ name }) => only === '' || name.toLowerCase() === only);
    const replaced = (item['replace_list'] as { key: string; value: SqlNode }[] | undefined) ?? [];
    if (texts('rename_list') !== '[]') return { columns: [], opaque: 'columns that a * renames are not followed' };
    const every = among.flatMap(({ columns }) => columns.map((one) => ({ ...one, lower: one.name.toLowerCase() })));
    const left = every
      // What a join compares by name stands there once.
      .filter(({ lower }, i) => only !== '' || !shared.has(lower) || every.findIndex((one) => one.lower === lower) === i)
      .map((one) => (only === '' && shared.has(one.lower) ? { ...one, origin: meant([one.name], scope) } : one))
      .filter(({ name }) => !texts('exclude_list').includes(JSON.stringify(name.toLowerCase())))
      .map(({ name, origin }) => {
        const by = replaced.find(({ key }) => key.toLowerCase() === name.toLowerCase());
        return { name, origin: by ? this.expression(by.value, scope, common, new Set()) : origin };
      });
    return { columns: left, opaque: among.find(({ opaque }) => opaque !== null)?.opaque ?? null };
  }

  /** Columns that anything in it is made from, subqueries with what decides on their rows. */
  expression(value: unknown, scope: Scope, common: Common, bound: Bound): Origin {
    if (Array.isArray(value)) return merged(value.map((one) => this.expression(one, scope, common, bound)));
    if (typeof value !== 'object' || value === null) return NOWHERE;
    const node = value as SqlNode;
    switch (node['class']) {
      case 'COLUMN_REF': {
        const names = node['column_names'] as string[];
        return bound.has(names[0]?.toLowerCase() ?? '') ? NOWHERE : meant(names, scope);
      }
      case 'STAR':
        return unresolved('columns that a * or a pattern chooses are not followed');
      case 'POSITIONAL_REFERENCE':
        return unresolved('a column named by its place is not followed');
      case 'LAMBDA': {
        const own = JSON.stringify(node['lhs']).matchAll(/"column_names":\["([^"]+)"/g);
        const names = new Set([...bound, ...[...own].map(([, name = '']) => name.toLowerCase())]);
        return this.expression(node['expr'], scope, common, names);
      }
      case 'SUBQUERY': {
        const { columns, opaque, rows } = this.query((node['subquery'] as { node: SqlNode }).node, common, scope);
        const origins = [...columns.map(({ origin }) => origin), rows, ...(opaque === null ? [] : [unresolved(opaque)])];
        return merged([...origins, this.expression(node['child'], scope, common, bound)]);
      }
      default:
        return merged(Object.values(node).map((one) => this.expression(one, scope, common, bound)));
    }
  }
}

function distinct({ type, distinct_on_targets: targets }: SqlNode): boolean {
  return type === 'DISTINCT_MODIFIER' && ((targets as unknown[] | undefined) ?? []).length === 0;
}

/** As the answer calls it; nothing where DuckDB makes the name from the text. */
function nameOf(item: SqlNode): string {
  if (typeof item['alias'] === 'string' && item['alias'] !== '') return item['alias'];
  return item['class'] === 'COLUMN_REF' ? ((item['column_names'] as string[]).at(-1) ?? '') : '';
}

function renamed(traced: Traced, aliases: unknown): Traced {
  const names = (aliases as readonly string[] | undefined) ?? [];
  return { ...traced, columns: traced.columns.map(({ name, origin }, i) => ({ name: names[i] ?? name, origin })) };
}
