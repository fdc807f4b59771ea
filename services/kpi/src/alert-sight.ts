import type { AlertBaseline, AlertExpression, AlertValue, Grain, KpiAlert } from '@tributary/config';
import { unreachable } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import type { Group } from './alert-groups.ts';
import { shift, trunc } from './grains.ts';
import type { Sight } from '@tributary/alerts';
import type { Compiled } from './definition.ts';

/** Values that a condition names, as it names them; null = there is none. */
export type Named = Readonly<Record<string, number | null>>;

/** Values of one measure in one bucket, by group. @param bucket ISO 8601; null for a KPI without time */
export type ReadValues = (
  measure: string,
  grain: Grain | null,
  bucket: string | null,
) => Promise<(group: Group) => number | null>;

/** What was seen of one group. */
export interface Sighting {
  readonly group: Group;
  readonly sight: Sight;
  readonly named: Named;
}

interface Looking {
  readonly duck: Duck;
  readonly compiled: Compiled;
  /** µs since 1970: a bucket that ended before then is closed. */
  readonly completeTo: number;
  readonly groups: readonly Group[];
  readonly read: ReadValues;
}

/** Looks at a condition for every group: true, false, or unknown where a value it needs is missing, as SQL has it. */
export async function look(
  { condition }: Pick<KpiAlert, 'condition'>,
  { duck, compiled, completeTo, groups, read }: Looking,
): Promise<Sighting[]> {
  const leaves = new Map<string, ((group: Group) => number | null)[]>();
  for (const leaf of leavesOf(condition)) {
    const name = textOf(leaf);
    if (leaves.has(name)) continue;
    const buckets = leaf.grain === null ? [null] : await bucketsOf(duck, { ...leaf, grain: leaf.grain }, compiled, completeTo);
    const values: ((group: Group) => number | null)[] = [];
    for (const bucket of buckets) values.push(await read(leaf.measure, leaf.grain, bucket));
    leaves.set(name, values);
  }
  return groups.map((group) => {
    const named = Object.fromEntries([...leaves].map(([name, values]) => [name, mean(values.map((valueOf) => valueOf(group)))]));
    const result = evaluate(condition, (leaf) => named[textOf(leaf)] ?? null);
    return { group, sight: result === null ? 'no_data' : result === 0 ? 'unmet' : 'met', named };
  });
}

/** Of what there is. */
function mean(values: readonly (number | null)[]): number | null {
  const found = values.filter((value) => value !== null);
  return found.length === 0 ? null : found.reduce((sum, value) => sum + value, 0) / found.length;
}

type Leaf = AlertValue | AlertBaseline;

/** A leaf as it is written in a condition. */
function textOf(leaf: Leaf): string {
  if (leaf.kind === 'baseline') return `baseline(${leaf.measure}, ${leaf.grain}, ${leaf.of}, ${leaf.count})`;
  if (leaf.grain === null) return leaf.measure;
  return `${leaf.measure}(${leaf.grain}${leaf.bucket === 'open' ? ', open' : ''})`;
}

function leavesOf(expression: AlertExpression): Leaf[] {
  switch (expression.kind) {
    case 'number':
      return [];
    case 'value':
    case 'baseline':
      return [expression];
    case 'minus':
    case 'not':
      return leavesOf(expression.of);
    case 'operation':
      return [...leavesOf(expression.left), ...leavesOf(expression.right)];
    default:
      return unreachable(expression);
  }
}

/** When the buckets begin that a leaf speaks of. */
async function bucketsOf(
  duck: Duck,
  leaf: (AlertValue & { readonly grain: Grain }) | AlertBaseline,
  { calendar }: Compiled,
  completeTo: number,
): Promise<string[]> {
  const { grain } = leaf;
  const open = trunc(grain, `make_timestamptz(${completeTo}::BIGINT)`, calendar);
  const before = (bucket: string, count: number, unit: Grain) => shift(bucket, { count: -count, unit }, calendar);
  const closed = before(open, 1, grain);
  const unit = leaf.kind === 'baseline' ? { same_weekday: 'week', same_time: 'day', previous: grain }[leaf.of] : grain;
  const instants =
    leaf.kind === 'baseline'
      ? Array.from({ length: leaf.count }, (_, i) => trunc(grain, before(closed, i + 1, unit as Grain), calendar))
      : [leaf.bucket === 'open' ? open : trunc(grain, closed, calendar)];
  const columns = instants.map((instant, i) => `epoch_ms(${instant}) AS b${i}`);
  const [row] = await duck.rows<Record<string, number>>(`SELECT ${columns.join(', ')}`);
  return Object.values(row ?? {}).map((ms) => new Date(ms).toISOString());
}

/** Numbers, and 1 or 0 for true and false; null = unknown. */
export function evaluate(expression: AlertExpression, valueOf: (leaf: Leaf) => number | null): number | null {
  switch (expression.kind) {
    case 'number':
      return expression.value;
    case 'value':
    case 'baseline':
      return valueOf(expression);
    case 'minus':
    case 'not': {
      const of = evaluate(expression.of, valueOf);
      if (of === null) return null;
      return expression.kind === 'minus' ? -of : Number(of === 0);
    }
    case 'operation':
      return operate(expression.operator, evaluate(expression.left, valueOf), evaluate(expression.right, valueOf));
    default:
      return unreachable(expression);
  }
}

function operate(
  operator: Extract<AlertExpression, { kind: 'operation' }>['operator'],
  left: number | null,
  right: number | null,
): number | null {
  // What is false whatever the unknown side says is false, and what is true is true.
  if (operator === 'and' && (left === 0 || right === 0)) return 0;
  if (operator === 'or' && ((left ?? 0) !== 0 || (right ?? 0) !== 0)) return 1;
  if (left === null || right === null) return null;
  switch (operator) {
    case '+':
      return left + right;
    case '-':
      return left - right;
    case '*':
      return left * right;
    case '/':
      return right === 0 ? null : left / right;
    case '<':
      return Number(left < right);
    case '<=':
      return Number(left <= right);
    case '>':
      return Number(left > right);
    case '>=':
      return Number(left >= right);
    case '=':
      return Number(left === right);
    case '!=':
      return Number(left !== right);
    case 'and':
      return 1;
    case 'or':
      return 0;
    default:
      return unreachable(operator);
  }
}
