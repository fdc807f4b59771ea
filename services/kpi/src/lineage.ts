import type { KpiConfig, KpiDefinition } from '@tributary/config';
import { Fault } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import type { Engine, EngineKpi } from './engine.ts';
import { fromColumn, merged, NOWHERE, type Origin, type Relation, type Scope, unresolved } from './origin.ts';
import { queryOver, statementOf, tableNamed } from './query-kpi.ts';
import { now } from './relations.ts';
import type { ShownTable } from './shown-table.ts';
import { parseExpression, type SqlNode } from './sql-tree.ts';
import { traceExpression, traceQuery } from './trace.ts';
import { Upstream } from './upstream.ts';

/** What one part of a KPI is made from. */
export interface Lineage {
  /** `time`, `filter`, `join` and `rows` decide which rows count, and where: they feed every value. `column`: of the answer of one SELECT. */
  readonly part: 'measure' | 'dimension' | 'time' | 'filter' | 'join' | 'column' | 'rows';
  /** Of a measure, dimension or column; of a join, the alias of its table; of `rows`, the table of a transform whose steps decide; null: the SELECT does. */
  readonly name: string | null;
  /** `source.schema.table.column`, sorted, through everything between, transforms too. */
  readonly columns: readonly string[];
  /** Measures that a measure is made from. */
  readonly measures: readonly string[];
  /** What could not be followed, and why: there the columns are not all. */
  readonly unresolved: readonly string[];
}

/** Lineage of the KPIs that were asked for, while their definitions and the shapes of their tables stay. */
const known = new WeakMap<EngineKpi, { readonly shapes: string; readonly lineage: readonly Lineage[] }>();

/** Which columns of captured tables feed what a KPI says. @returns null while the definition does not fit its tables, or these are not known */
export async function lineageOf(engine: Engine, kpi: EngineKpi): Promise<readonly Lineage[] | null> {
  const tables = kpi.tables.map(({ source, table }) => engine.sources.get(source)?.tables.get(table));
  if (kpi.fault || tables.length === 0 || tables.includes(undefined)) return null;
  const shapes = tables.map((table) => table?.version).join(' ');
  const before = known.get(kpi);
  if (before?.shapes === shapes) return before.lineage;
  const tableOf = (source: string, table: string) => engine.sources.get(source)?.tables.get(table) as ShownTable;
  try {
    const lineage = await engine.store.read(async (duck) => {
      const within = await traced(duck, kpi.config, tableOf);
      return behindTransforms(within, { kpi, tableOf, upstream: new Upstream(engine.estate, duck) });
    });
    known.set(kpi, { shapes, lineage });
    return lineage;
  } catch (error) {
    if (error instanceof Fault && ['config_invalid', 'not_complete'].includes(error.kind)) return null;
    throw error;
  }
}

type TableOf = (source: string, table: string) => ShownTable;

async function traced(duck: Duck, config: KpiConfig, tableOf: TableOf): Promise<Lineage[]> {
  const { definition } = config;
  return definition.kind === 'measures' ? ofMeasures(duck, definition, tableOf) : ofQuery(duck, config, tableOf);
}

function relationOf(name: string, { source, name: table, columns }: ShownTable): Relation {
  const named = columns.map((column) => ({ name: column.name, origin: fromColumn(`${source}.${table}.${column.name}`) }));
  return { name, columns: named, opaque: null };
}

async function ofMeasures(duck: Duck, definition: KpiDefinition, tableOf: TableOf): Promise<Lineage[]> {
  const { from, time, where, dimensions, measures } = definition;
  const relations = from.map(({ alias, source, table }) => relationOf(alias, tableOf(source, table)));
  const scope: Scope = { relations, named: () => null, outer: null };
  const originOf = async (sql: string) => traceExpression((await parseExpression(duck, sql)).node, scope);
  const lineage: Lineage[] = [];
  const tell = (part: Lineage['part'], name: string | null, origin: Origin, through: readonly string[] = []) => {
    lineage.push(told(part, name, origin, through));
  };

  const made = new Map<string, { readonly origin: Origin; readonly through: readonly string[] }>();
  for (const [name, measure] of Object.entries(measures))
    if (measure.kind === 'sql') made.set(name, { origin: await originOf(measure.sql), through: [] });
  const throughOthers = (through: readonly string[]) => {
    const origins = through.map((one) => made.get(one)?.origin ?? unresolved(`${one}: there is no measure of that name`));
    return { origin: merged(origins), through };
  };
  for (const [name, measure] of Object.entries(measures))
    if (measure.kind !== 'sql' && measure.kind !== 'derived') made.set(name, throughOthers([measure.of]));
  for (const [name, measure] of Object.entries(measures))
    if (measure.kind === 'derived') made.set(name, throughOthers(await namedIn(duck, measure.sql, Object.keys(measures))));
  for (const name of Object.keys(measures)) {
    const { origin, through } = made.get(name) ?? throughOthers([]);
    tell('measure', name, origin, through);
  }

  for (const [name, sql] of Object.entries(dimensions)) tell('dimension', name, await originOf(sql));
  if (time) tell('time', null, await originOf(time.column));
  if (where !== null) tell('filter', null, await originOf(where));
  for (const { alias, on } of from) if (on !== null) tell('join', alias, await originOf(on));
  return lineage;
}

/** The same, with columns of sources in the place of those that transforms made of them. */
async function behindTransforms(
  lineage: readonly Lineage[],
  { kpi, tableOf, upstream }: { kpi: EngineKpi; tableOf: TableOf; upstream: Upstream },
): Promise<Lineage[]> {
  const origins = new Map<string, Origin>();
  const rows: Lineage[] = [];
  for (const of of new Map(kpi.tables.map((one) => [`${one.source}.${one.table}`, one])).values()) {
    const name = `${of.source}.${of.table}`;
    for (const column of tableOf(of.source, of.table).columns)
      origins.set(`${name}.${column.name}`, await upstream.column(of, column.name));
    const deciding = told('rows', name, await upstream.rows(of));
    if (deciding.columns.length + deciding.unresolved.length > 0) rows.push(deciding);
  }
  const followed = lineage.map(({ part, name, columns, measures, unresolved: others }) => {
    const behind = merged(columns.map((column) => origins.get(column) ?? fromColumn(column)));
    return told(part, name, merged([behind, { columns: new Set(), unresolved: new Set(others) }]), measures);
  });
  return [...followed, ...rows];
}

/** Measures that the expression of a derived one names. */
async function namedIn(duck: Duck, sql: string, measures: readonly string[]): Promise<readonly string[]> {
  const columns = measures.map((name) => ({ name, origin: fromColumn(name) }));
  const scope: Scope = { relations: [{ name: '', columns, opaque: null }], named: () => null, outer: null };
  const { columns: named, unresolved: others } = traceExpression((await parseExpression(duck, sql)).node, scope);
  return [...named, ...others];
}

async function ofQuery(duck: Duck, config: KpiConfig, tableOf: TableOf): Promise<Lineage[]> {
  const statement = (await statementOf(duck, config))['node'] as SqlNode;
  const { columns, opaque, rows } = traceQuery(statement, (node) => {
    const { source, table } = tableNamed(node);
    return relationOf('', tableOf(source, table));
  });
  // DuckDB makes names of its own for what has none.
  const sql = await queryOver(duck, config, ({ source, table: name }) => {
    const table = tableOf(source, name);
    return { table, select: now(table) };
  });
  const names = (await duck.rows<{ column_name: string }>(`DESCRIBE ${sql}`)).map((one) => one.column_name);
  const followed = opaque === null && names.length === columns.length;
  const found = names.map((name, i) => {
    const origin = followed ? columns[i]?.origin : unresolved(opaque ?? 'its columns are not those that it names');
    return told('column', name, origin ?? NOWHERE);
  });
  return [...found, told('rows', null, rows)];
}

function told(part: Lineage['part'], name: string | null, origin: Origin, measures: readonly string[] = []): Lineage {
  return { part, name, columns: [...origin.columns].toSorted(), measures, unresolved: [...origin.unresolved].toSorted() };
}
