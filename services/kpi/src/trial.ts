import { isDeepStrictEqual } from 'node:util';
import { type KpiConfig, type KpiReader, mayShareTables, readsAll } from '@tributary/config';
import { Fault } from '@tributary/core';
import { type Duck, duckLiteral, type ReadTable, type Sandbox, type SandboxLimits } from '@tributary/duckdb';
import { type Answered, valuesAt } from './asked.ts';
import { versionOf } from './definition.ts';
import type { Engine } from './engine.ts';
import { freshnessOf, type KpiFreshness, sourcesAt, type Viewed, viewed } from './moment.ts';
import type { SourceState } from './source-state.ts';
import type { KpiTable } from './table.ts';
import type { TrialQuestion, TrialTables } from './trial-process.ts';
import type { ValueRow, ValuesQuestion } from './values.ts';

/** Where definitions are tried: see {@link Sandbox}. */
export const TRIAL_PROGRAM = new URL('../dist/trial-process.js', import.meta.url);
/** Its answer is held beside everything else that a worker holds, and compared with the running one's. */
export const TRIAL_LIMITS: SandboxLimits = { ms: 60_000, rows: 10_000, bytes: 4 * 2 ** 20 };

export interface Trial {
  readonly engine: Engine;
  readonly config: KpiConfig;
  readonly sandbox: Sandbox;
  /** KPIs of the cluster that are not for everyone. */
  readonly guarded: readonly KpiConfig[];
  /** Ends it, with its reason. */
  readonly signal: AbortSignal;
}

/** Does a definition fit the tables? @throws Fault `config_invalid`, with the place of the mistake; `query_refused` */
export async function validated(trial: Trial): Promise<object> {
  const { engine, config } = trial;
  const told = { kpi: config.name, version: versionOf(config), running: engine.kpis.has(config.name) };
  let named: readonly string[] = [];
  const missing = new Set<string>();
  try {
    await tried(trial, null, async (tables, path, signal) => {
      named = tables.map(nameOf);
      for (const one of tables) if (!engine.sources.get(one.schema)?.tables.has(one.name)) missing.add(nameOf(one));
      if (missing.size > 0) throw new Fault('not_complete', 'a table is not held');
      return engine.store.copy({ path, signal }, async (duck, copy) => {
        const states = await sourcesAt(engine, duck, new Set(tables.map(({ schema }) => schema)));
        return written(duck, { copy, kpi: config.name, tables, states, moment: null });
      });
    });
  } catch (error) {
    if (missing.size === 0) throw error;
    const reason = `engine ${engine.name} does not hold ${[...missing].join(', ')} yet`;
    return { ...told, tables: named, bound: false, reason };
  }
  return { ...told, tables: named, bound: true, reason: null };
}

/** What a definition would say beside what the running one of that name says, at one moment, where they differ. */
export async function previewed(
  trial: Trial,
  { ask, reader }: { readonly ask: ValuesQuestion; readonly reader: KpiReader | undefined },
): Promise<object> {
  const { engine, config } = trial;
  const running = engine.kpis.get(config.name);
  assertMayPreview(trial, reader);
  let before: Answered | null = null;
  let freshness: KpiFreshness | null = null;
  const { asOf, ...now } = ask;
  const rows = await tried(trial, now, async (tables, path, signal) => {
    return engine.store.copy({ path, signal }, async (duck, copy) => {
      const states = await sourcesAt(engine, duck, new Set(tables.map(({ schema }) => schema)));
      const inexact: string[] = [];
      for (const one of tables) {
        const table = states.get(one.schema)?.tables.get(one.name);
        if (!table?.complete || table.held)
          throw new Fault('not_complete', `Kpi ${config.name}: ${nameOf(one)} is still being read`, { kpi: config.name });
        inexact.push(...[...table.inexact].map((column) => `${nameOf(one)}.${column}`));
      }
      const moment = await viewed(duck, asOf, states);
      freshness = freshnessOf(engine, moment, { config, revision: 0, inexact });
      // One that cannot be computed says nothing to compare with.
      if (running && !running.fault) before = await valuesAt(engine, running, { duck, ask });
      return written(duck, { copy, kpi: config.name, tables, states, moment });
    });
  });
  const differences = differing((before as Answered | null)?.rows ?? [], rows);
  return { kpi: config.name, running: running !== undefined, rows: rows.length, differences, freshness };
}

async function tried(
  { engine, config, sandbox, signal }: Trial,
  ask: TrialQuestion['ask'],
  publish: (tables: readonly ReadTable[], path: string, signal: AbortSignal) => Promise<TrialTables>,
): Promise<Answered['rows']> {
  const question: TrialQuestion = { config, sources: [...engine.sources.keys()], ask };
  const rows: Answered['rows'][number][] = [];
  for await (const part of sandbox.query({ question, publish, signal })) rows.push(...part.rows);
  return rows;
}

function nameOf({ schema, name }: Pick<ReadTable, 'schema' | 'name'>): string {
  return `${schema}.${name}`;
}

/**
 * Writes to a copy what a definition needs: rows of its tables at one moment, in the columns that it may mean; the others are NULL,
 * so that a mistake in a name is told in the same words.
 * @param moment null: no rows at all
 */
async function written(
  duck: Duck,
  what: {
    readonly copy: string;
    readonly kpi: string;
    readonly tables: readonly ReadTable[];
    readonly states: ReadonlyMap<string, SourceState>;
    readonly moment: Viewed | null;
  },
): Promise<TrialTables> {
  const { copy, kpi, tables, states, moment } = what;
  for (const schema of ['_meta', '_cur']) await duck.run(`CREATE SCHEMA ${copy}.${schema}`);
  await duck.run(
    `CREATE TABLE ${copy}._meta.revisions AS SELECT * FROM _meta.revisions WHERE ${moment ? `kpi = ${duckLiteral(kpi)}` : 'false'}`,
  );
  const shapes: TrialTables['tables'][number][] = [];
  const once = new Set<string>();
  for (const { schema: source, name, columns } of tables) {
    const table = states.get(source)?.tables.get(name) as KpiTable;
    if (once.has(table.current)) continue;
    once.add(table.current);
    const list = table.columns
      .map(({ name: column, ident, stored }) =>
        columns === null || columns.has(column.toLowerCase()) ? ident : `NULL::${stored} AS ${ident}`,
      )
      .join(', ');
    const rows = moment ? moment.view(table, list) : `SELECT ${list} FROM ${table.current} LIMIT 0`;
    await duck.run(`CREATE TABLE ${copy}.${table.current} AS ${rows}`);
    shapes.push({ source, schema: table.schema, version: table.version });
  }
  return { tables: shapes, completeTo: moment?.completeTo ?? 0 };
}

/** Buckets whose values differ; of one SELECT, rows that are in one answer alone. */
function differing(before: Answered['rows'], after: Answered['rows']): object[] {
  const plain = [...before, ...after].some((row) => !isValues(row));
  if (plain) return [...surplus(before, after, 'before'), ...surplus(after, before, 'after')];
  const key = ({ bucket, dimensions }: ValueRow) => JSON.stringify([bucket, dimensions]);
  const valuesOf = (rows: Answered['rows']) => new Map((rows as readonly ValueRow[]).map((row) => [key(row), row]));
  const [old, fresh] = [valuesOf(before), valuesOf(after)];
  return [...new Set([...old.keys(), ...fresh.keys()])].flatMap((one) => {
    const [was, is] = [old.get(one), fresh.get(one)];
    if (isDeepStrictEqual(was?.values, is?.values)) return [];
    const { bucket, dimensions } = (is ?? was) as ValueRow;
    return [{ bucket, dimensions, before: was?.values ?? null, after: is?.values ?? null }];
  });
}

function isValues(row: Answered['rows'][number]): row is ValueRow {
  return 'bucket' in row && 'dimensions' in row && 'values' in row && 'closed' in row;
}

function surplus(of: Answered['rows'], than: Answered['rows'], side: 'before' | 'after'): object[] {
  const there = new Map<string, number>();
  for (const row of than) there.set(JSON.stringify(row), (there.get(JSON.stringify(row)) ?? 0) + 1);
  return of.flatMap((row) => {
    const left = there.get(JSON.stringify(row)) ?? 0;
    there.set(JSON.stringify(row), left - 1);
    return left > 0 ? [] : [{ before: null, after: null, [side]: row }];
  });
}

/**
 * A definition of one's own shows rows of its tables as no other does: it is for those who may read all of every KPI over these tables.
 * @throws Fault `access_refused`
 */
function assertMayPreview({ engine, config, guarded }: Trial, reader: KpiReader | undefined): void {
  const sources = [...engine.sources.keys()].map((name) => ({ name }));
  for (const kpi of guarded) {
    const { name } = kpi;
    const shares = name === config.name || mayShareTables(kpi, config, { sources, transforms: [] });
    if (!shares || readsAll(kpi, reader)) continue;
    throw new Fault('access_refused', `Kpi ${name} does not show this token all of its rows: a preview would show all`, {
      kpi: name,
    });
  }
}
