import type { KpiConfig } from '@tributary/config';
import type { TableSchema } from '@tributary/core';
import { type Answer, columnsMeant, type Duck, type ReadTable, sandboxed } from '@tributary/duckdb';
import { compile, expressionsOf } from './definition.ts';
import { queryOver, statementOf, tablesOfQuery } from './query-kpi.ts';
import { now } from './relations.ts';
import { type ShownTable, shownTable } from './shown-table.ts';
import { type ValuesQuestion, ValuesReader } from './values.ts';

/** What is asked of the process that tries definitions. */
export interface TrialQuestion {
  readonly config: KpiConfig;
  /** Names of those that the engine knows. */
  readonly sources: readonly string[];
  /** Null: it is only looked at whether the definition fits the tables. */
  readonly ask: Omit<ValuesQuestion, 'asOf'> | null;
}

/** What the worker says of the file that it made. */
export interface TrialTables {
  readonly tables: readonly { readonly source: string; readonly schema: TableSchema; readonly version: string }[];
  /** µs since 1970. */
  readonly completeTo: number;
}

/** Everything that a person's definition has DuckDB do, from the first look at its text, is done in this process. */
sandboxed<TrialQuestion, TrialTables>({ parse, compute });

async function parse(duck: Duck, { config, sources }: TrialQuestion): Promise<readonly ReadTable[]> {
  const { definition } = config;
  const named = ({ source, table }: { source: string; table: string }) => ({ schema: source, name: table });
  if (definition.kind === 'query') {
    const tables = await tablesOfQuery(duck, config, sources);
    const columns = columnsMeant(await statementOf(duck, config));
    return tables.map((one) => ({ ...named(one), columns }));
  }
  const columns = columnsMeant([
    ...definition.from.map(({ alias }) => ({ alias })),
    ...(await expressionsOf(duck, { ...config, definition })),
  ]);
  return definition.from.map((one) => ({ ...named(one), columns }));
}

async function* compute(duck: Duck, { config, ask }: TrialQuestion, { tables, completeTo }: TrialTables): AsyncGenerator<Answer> {
  const known = new Map(
    tables.map((one) => [`${one.source}.${one.schema.schema}.${one.schema.table}`, shownTable(one.source, one)]),
  );
  const { definition } = config;
  if (definition.kind === 'query') {
    const sql = await queryOver(duck, config, ({ source, table: name }) => {
      const table = known.get(`${source}.${name}`) as ShownTable;
      return { table, select: now(table) };
    });
    if (ask) yield* duck.parts(sql);
    else yield await duck.query(`DESCRIBE ${sql}`);
    return;
  }
  const compiled = await compile(duck, { ...config, definition }, (source, table) => known.get(`${source}.${table}`) ?? null);
  const rows = ask ? await new ValuesReader(duck, compiled, { view: now, kept: null, ask }).rows(completeTo) : [];
  yield { columns: [], rows: rows as unknown as Answer['rows'] };
}
