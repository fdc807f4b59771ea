import { createHash } from 'node:crypto';
import type { Grain, KpiConfig, KpiDefinition, KpiMeasure } from '@tributary/config';
import { describeError, Fault } from '@tributary/core';
import { type Duck, duckIdent, gate } from '@tributary/duckdb';
import { type Calendar, finestOf, instantOf, trunc } from './grains.ts';
import type { ShownTable } from './shown-table.ts';
import { type Expression, parseExpression, type SqlNode, sqlOf, visit } from './sql-tree.ts';

/** A part of an additive measure that signed deltas keep: `sum(argument)` where it is exact, and `count(argument)`. */
export interface Additive {
  readonly argument: string;
  readonly sumType: string | null;
}

export interface CompiledMeasure {
  readonly name: string;
  readonly measure: KpiMeasure;
  /** Of a measure in SQL: the same over rows of `_agg`, or null where it is not additive. */
  readonly overAgg: string | null;
  /** Of a measure in SQL: the aggregate over the joined rows. */
  readonly overRows: string | null;
  /** A bucket without rows counts zero. */
  readonly counts: boolean;
}

export interface Joined {
  readonly alias: string;
  readonly table: ShownTable;
  readonly on: string | null;
  readonly outer: boolean;
  /** Indices of the tables before it that its condition speaks of. */
  readonly needs: readonly number[];
}

/** A definition taken apart, and checked against the shapes of its tables. */
export interface Compiled {
  readonly config: KpiConfig;
  readonly version: string;
  readonly from: readonly Joined[];
  readonly calendar: Calendar;
  readonly grains: readonly Grain[];
  /** What `_agg` is kept by; null = the KPI has no time. */
  readonly finest: Grain | null;
  /** SQL over the joined rows: the finest bucket of a row. */
  readonly bucket: string;
  /** SQL over the joined rows: which of them count. */
  readonly where: string;
  readonly dimensions: readonly { readonly name: string; readonly sql: string; readonly type: string }[];
  readonly additives: readonly Additive[];
  readonly measures: readonly CompiledMeasure[];
}

/** Names this definition: another one is computed anew. */
export function versionOf({ definition }: Pick<KpiConfig, 'definition'>): string {
  return createHash('sha256').update(JSON.stringify(definition)).digest('hex').slice(0, 12);
}

/** Functions of more than their arguments: an answer made with them could not be made again. */
const FICKLE = `SELECT DISTINCT function_name AS name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'`;

/**
 * Takes a definition apart with DuckDB's parser and checks it with DuckDB's binder.
 * @param tableOf a captured table, or null while its shape is not known
 * @throws Fault `config_invalid` that names file, line and column; `not_complete` while a table is not known
 */
export async function compile(
  duck: Duck,
  config: KpiConfig & { readonly definition: KpiDefinition },
  tableOf: (source: string, table: string) => ShownTable | null,
): Promise<Compiled> {
  return new Compiler(duck, config).compile(tableOf);
}

/** Trees of everything in a definition that is SQL over its tables. @throws Fault `config_invalid` that names file, line and column */
export async function expressionsOf(
  duck: Duck,
  config: KpiConfig & { readonly definition: KpiDefinition },
): Promise<readonly SqlNode[]> {
  return new Compiler(duck, config).expressions();
}

class Compiler {
  readonly #duck: Duck;
  readonly #config: KpiConfig & { readonly definition: KpiDefinition };
  #fickle: ReadonlySet<string> = new Set();

  constructor(duck: Duck, config: KpiConfig & { readonly definition: KpiDefinition }) {
    this.#duck = duck;
    this.#config = config;
  }

  async compile(tableOf: (source: string, table: string) => ShownTable | null): Promise<Compiled> {
    const { time, where, dimensions, measures } = this.#config.definition;
    this.#fickle = new Set((await this.#duck.rows<{ name: string }>(FICKLE)).map(({ name }) => name.toLowerCase()));
    const from = await this.#tables(tableOf);
    const relation = from
      .map(({ alias, table, on, outer }, i) => {
        const one = `(SELECT ${table.shown} FROM ${table.current}) AS ${duckIdent(alias)}`;
        return i === 0 ? one : `${outer ? 'LEFT JOIN' : 'JOIN'} ${one} ON (${on}\n)`;
      })
      .join(' ');
    for (const { alias, on } of from) if (on !== null) await this.#plain(on, `from.${alias}`);
    const calendar: Calendar = { zone: time?.zone ?? 'UTC', weekStart: time?.weekStart ?? 'monday' };
    const instant = time && (await this.#instant(time.column, relation, calendar));
    if (where !== null) {
      await this.#plain(where, 'where');
      await this.#bind(`SELECT 1 FROM ${relation} WHERE (${where}\n)`, 'where');
    }
    const finest = time ? finestOf(time.grains, spansOf(measures)) : null;
    const additives: Additive[] = [];
    return {
      config: this.#config,
      version: versionOf(this.#config),
      from,
      calendar,
      grains: time?.grains ?? [],
      finest,
      bucket: instant && finest ? trunc(finest, instant, calendar) : 'NULL::TIMESTAMPTZ',
      where: [...(where === null ? [] : [`(${where}\n)`]), ...(instant ? [`isfinite(${instant})`] : [])].join(' AND ') || 'true',
      dimensions: await this.#dimensions(dimensions, relation),
      measures: await this.#measures(measures, relation, additives),
      additives,
    };
  }

  async expressions(): Promise<SqlNode[]> {
    const { from, time, where, dimensions, measures } = this.#config.definition;
    const parts: (readonly [sql: string, path: string])[] = [
      ...from.flatMap(({ alias, on }) => (on === null ? [] : [[on, `from.${alias}`] as const])),
      ...(time ? [[time.column, 'time.column'] as const] : []),
      ...(where === null ? [] : [[where, 'where'] as const]),
      ...Object.entries(dimensions).map(([name, sql]) => [sql, `dimensions.${name}`] as const),
      ...Object.entries(measures).flatMap(([name, one]) =>
        one.kind === 'sql' ? [[one.sql, `measures.${name}.sql`] as const] : [],
      ),
    ];
    const nodes: SqlNode[] = [];
    for (const [sql, path] of parts) nodes.push((await this.#parse(sql, path)).node);
    return nodes;
  }

  async #tables(tableOf: (source: string, table: string) => ShownTable | null): Promise<Joined[]> {
    const { from } = this.#config.definition;
    const joined: Joined[] = [];
    for (const [i, { alias, source, table: name, on, outer }] of from.entries()) {
      const table = tableOf(source, name);
      if (!table) throw new Fault('not_complete', `${source}.${name} has not been captured yet`, { kpi: this.#config.name });
      const needs =
        on === null
          ? []
          : await this.#needs(
              on,
              from.slice(0, i).map((one) => one.alias),
              alias,
            );
      joined.push({ alias, table, on, outer, needs });
    }
    return joined;
  }

  /** Which earlier tables a join condition speaks of; all of them where a column does not say whose it is. */
  async #needs(on: string, earlier: readonly string[], alias: string): Promise<number[]> {
    const { node } = await this.#parse(on, `from.${alias}`);
    const named = new Set<string>();
    let open = false;
    visit(node, (one) => {
      if (one['class'] !== 'COLUMN_REF') return;
      const names = one['column_names'] as string[];
      if (names.length > 1) named.add((names[0] as string).toLowerCase());
      else open = true;
    });
    return earlier.flatMap((name, i) => (open || named.has(name) ? [i] : []));
  }

  async #instant(column: string, relation: string, calendar: Calendar): Promise<string> {
    await this.#plain(column, 'time.column');
    const type = await this.#bind(`SELECT (${column}\n) FROM ${relation}`, 'time.column');
    const instant = instantOf(column, type, calendar);
    if (instant === null) throw this.#wrong('time.column', `is ${type}; expected a timestamp or a date`);
    return instant;
  }

  async #dimensions(dimensions: KpiDefinition['dimensions'], relation: string): Promise<Compiled['dimensions']> {
    const compiled: { name: string; sql: string; type: string }[] = [];
    for (const [name, sql] of Object.entries(dimensions)) {
      const path = `dimensions.${name}`;
      await this.#plain(sql, path);
      compiled.push({ name, sql, type: await this.#bind(`SELECT (${sql}\n) FROM ${relation}`, path) });
    }
    return compiled;
  }

  async #measures(measures: KpiDefinition['measures'], relation: string, additives: Additive[]): Promise<CompiledMeasure[]> {
    const compiled: CompiledMeasure[] = [];
    for (const [name, measure] of Object.entries(measures)) {
      const none = { name, measure, overAgg: null, overRows: null, counts: false };
      if (measure.kind === 'sql') {
        const path = `measures.${name}.sql`;
        const expression = await this.#parse(measure.sql, path);
        this.#refuse(expression, path);
        await this.#bind(`SELECT ${measure.sql}\n AS m FROM ${relation} GROUP BY ALL`, path);
        if (!(await this.#aggregates(expression.node))) throw this.#wrong(path, 'is not an aggregate such as sum(…) or count(…)');
        compiled.push({ ...none, ...(await this.#additive(expression, relation, additives)), overRows: measure.sql });
      } else compiled.push(none);
    }
    for (const { name, measure } of compiled) {
      if (measure.kind !== 'derived') continue;
      const path = `measures.${name}.derived`;
      await this.#plain(measure.sql, path);
      const others = compiled
        .filter((one) => one.measure.kind !== 'derived')
        .map((one) => `1.5::DOUBLE AS ${duckIdent(one.name)}`);
      await this.#bind(`SELECT (${measure.sql}\n) FROM (SELECT ${others.join(', ')})`, path);
    }
    return compiled;
  }

  /** sum, count and avg of something exact are kept by signed deltas; null parts mean: recompute. */
  async #additive(
    { node }: Expression,
    relation: string,
    additives: Additive[],
  ): Promise<Pick<CompiledMeasure, 'overAgg' | 'counts'>> {
    const recompute = { overAgg: null, counts: String(node['function_name'] ?? '') === 'count' };
    const called = String(node['function_name'] ?? '').toLowerCase();
    const orders = (node['order_bys'] as { orders?: unknown[] } | undefined)?.orders ?? [];
    if (node['class'] !== 'FUNCTION' || node['distinct'] === true || orders.length > 0) return recompute;
    const [child, ...more] = node['children'] as SqlNode[];
    if (more.length > 0 || !['sum', 'count', 'count_star', 'avg'].includes(called)) return recompute;
    const plainArgument = child ? await sqlOf(this.#duck, child) : '1';
    const argument = node['filter']
      ? `CASE WHEN ${await sqlOf(this.#duck, node['filter'] as SqlNode)} THEN ${plainArgument} END`
      : plainArgument;
    const counts = called === 'count' || called === 'count_star';
    const sumType = counts ? null : await this.#bind(`SELECT sum(${argument}) FROM ${relation}`, 'measures');
    if (sumType !== null && sumType !== 'HUGEINT' && !sumType.startsWith('DECIMAL')) return recompute;
    let i = additives.findIndex((one) => one.argument === argument && (one.sumType ?? sumType) === (sumType ?? one.sumType));
    if (i === -1) i = additives.push({ argument, sumType }) - 1;
    else additives[i] = { argument, sumType: additives[i]?.sumType ?? sumType };
    const sum = `CASE WHEN sum(n${i}) > 0 THEN sum(s${i}) END`;
    const count = `coalesce(sum(n${i}), 0)::BIGINT`;
    return { overAgg: counts ? count : called === 'avg' ? `(${sum}) / sum(n${i})` : sum, counts };
  }

  async #aggregates(node: SqlNode): Promise<boolean> {
    const called = new Set<string>();
    visit(node, (one) => {
      if (one['class'] === 'FUNCTION') called.add(String(one['function_name']).toLowerCase());
    });
    if (called.has('count_star')) return true;
    const list = [...called].map((name) => `'${name.replaceAll("'", "''")}'`).join(', ');
    if (list === '') return false;
    const sql = `SELECT EXISTS (FROM duckdb_functions() WHERE function_type = 'aggregate' AND function_name IN (${list})) AS some`;
    return (await this.#duck.rows<{ some: boolean }>(sql))[0]?.some ?? false;
  }

  async #plain(sql: string, path: string): Promise<void> {
    this.#refuse(await this.#parse(sql, path), path);
  }

  /** Every value of a KPI follows from the rows it is made from, and from nothing else. */
  #refuse({ node }: Expression, path: string): void {
    visit(node, (one) => {
      if (one['class'] === 'SUBQUERY') throw this.#wrong(path, 'holds a subquery: join the table in "from"');
      if (one['class'] === 'WINDOW') throw this.#wrong(path, 'holds a window function');
      if (one['class'] === 'PARAMETER') throw this.#wrong(path, 'holds a parameter');
      const called = one['class'] === 'FUNCTION' ? String(one['function_name']).toLowerCase() : '';
      if (this.#fickle.has(called)) throw this.#wrong(path, `calls ${called}(), whose answer is another one every time`);
    });
  }

  async #parse(sql: string, path: string): Promise<Expression> {
    try {
      return await parseExpression(this.#duck, sql);
    } catch (error) {
      throw this.#wrong(path, describeError(error));
    }
  }

  /** @returns the type of the only column */
  async #bind(sql: string, path: string): Promise<string> {
    try {
      await gate(this.#duck, sql, this.#known);
      const { rows } = await this.#duck.query(`DESCRIBE ${sql}`);
      return String(rows[0]?.['column_type']);
    } catch (error) {
      throw this.#wrong(path, describeError(error));
    }
  }

  get #known(): ReadonlySet<string> {
    return new Set(this.#config.definition.from.map(({ source, table }) => `_cur.${source}.${table}`.toLowerCase()));
  }

  #wrong(path: string, what: string): Fault {
    const { name, places } = this.#config;
    const place = places[path] ?? places[path.replace(/\.[^.]+$/, '')];
    return new Fault('config_invalid', `${place ? `${place}: ` : ''}Kpi ${name}, "${path}": ${what}`, { kpi: name });
  }
}

function spansOf(measures: KpiDefinition['measures']): Grain[] {
  return Object.values(measures).flatMap((one) =>
    one.kind === 'rolling' || one.kind === 'versus' ? [one.span.unit] : one.kind === 'to_date' ? [one.grain] : [],
  );
}
