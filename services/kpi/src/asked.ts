import type { Grain, KpiAlert, KpiConfig } from '@tributary/config';
import { Fault, LIMITS } from '@tributary/core';
import { type Answer, type Duck, duckIdent, duckLiteral } from '@tributary/duckdb';
import { EVERYTHING, NOTHING, type Scope } from './access.ts';
import { type Group, groupedName, groupOf, TOGETHER } from './alert-groups.ts';
import { look, type ReadValues } from './alert-sight.ts';
import type { Look, Seen } from './alerts.ts';
import type { Compiled } from './definition.ts';
import type { Engine, EngineKpi } from './engine.ts';
import { bucketColumns, bucketText, type Calendar, writtenInstant } from './grains.ts';
import { Maintained } from './maintain.ts';
import { freshnessOf, type KpiFreshness, sourcesAt, type Viewed, viewed } from './moment.ts';
import { queryOver } from './query-kpi.ts';
import type { SourceState } from './source-state.ts';
import { type ValueRow, ValuesReader, type ValuesQuestion } from './values.ts';

/** Groups that one alert watches: each may become a letter to every receiver. */
const ALERT_GROUPS_MAX = 100;
/** Rows behind a bucket that are shown when nobody says how many. */
const ROWS_DEFAULT = 100;

export interface Answered {
  readonly rows: readonly (ValueRow | Readonly<Record<string, unknown>>)[];
  readonly freshness: KpiFreshness;
}

interface Asked {
  readonly duck: Duck;
  readonly ask: ValuesQuestion;
  /** What the reader may see; default: everything. */
  readonly scope?: Scope;
}

interface Read {
  readonly compiled: Compiled;
  readonly reader: ValuesReader;
  readonly moment: Viewed;
}

/** @param kept answer from what is kept of the KPI, else from the rows alone */
async function reading(
  engine: Engine,
  config: KpiConfig,
  { duck, ask, kept, scope = EVERYTHING }: Asked & { kept: boolean },
): Promise<Read> {
  const { definition } = config;
  if (definition.kind !== 'measures') throw new Fault('config_invalid', `Kpi ${config.name} has no measures`);
  const states = await sourcesAt(engine, duck, new Set(definition.from.map(({ source }) => source)));
  for (const { source, table } of definition.from) {
    const state = states.get(source) as SourceState;
    const known = state.tables.get(table);
    if (known?.complete && !known.held) continue;
    throw new Fault('not_complete', `Kpi ${config.name}: ${source}.${table} is still being read`, { kpi: config.name });
  }
  const compiled = await engine.compile(duck, config, states);
  if (kept) await assertKept(duck, compiled);
  const moment = await viewed(duck, ask.asOf, states);
  const now = kept && ask.asOf === undefined ? new Maintained(compiled) : null;
  return { compiled, moment, reader: new ValuesReader(duck, compiled, { view: moment.view, kept: now, ask, scope }) };
}

async function answerOf(engine: Engine, config: KpiConfig, asked: Asked & { kept: boolean }): Promise<Answered> {
  const { compiled, moment, reader } = await reading(engine, config, asked);
  const rows = await reader.rows(moment.completeTo);
  const revision = rows.reduce((highest, row) => Math.max(highest, row.revision), 0);
  return { rows, freshness: freshnessOf(engine, moment, { config, revision, inexact: inexactOf(compiled) }) };
}

function inexactOf({ from }: Compiled): string[] {
  return [...new Set(from.flatMap(({ table }) => [...table.inexact].map((column) => `${table.source}.${table.name}.${column}`)))];
}

async function assertKept(duck: Duck, { config, version }: Compiled): Promise<void> {
  const [row] = await duck.rows<{ version: string; stale: boolean }>('SELECT version, stale FROM _meta.kpis WHERE name = $1', [
    config.name,
  ]);
  if (row?.version === version && !row.stale) return;
  throw new Fault('not_complete', `Kpi ${config.name} is still being computed`, { kpi: config.name });
}

/** The SELECT of a KPI of the short form, at a moment. */
async function queryAt(
  engine: Engine,
  kpi: EngineKpi,
  { duck, ask }: Asked,
): Promise<{ sql: string; moment: Viewed; inexact: readonly string[] }> {
  const states = await sourcesAt(engine, duck, new Set(kpi.tables.map(({ source }) => source)));
  const moment = await viewed(duck, ask.asOf, states);
  const inexact: string[] = [];
  const sql = await queryOver(duck, kpi.config, ({ source, table: name }) => {
    const table = states.get(source)?.tables.get(name);
    if (!table?.complete || table.held)
      throw new Fault('not_complete', `Kpi ${kpi.config.name}: ${source}.${name} is still being read`, { kpi: kpi.config.name });
    inexact.push(...[...table.inexact].map((column) => `${source}.${name}.${column}`));
    return { table, select: moment.view(table) };
  });
  return { sql, moment, inexact };
}

/** What a KPI says at one moment. */
export async function valuesAt(engine: Engine, kpi: EngineKpi, asked: Asked): Promise<Answered> {
  if (kpi.config.definition.kind === 'measures') return answerOf(engine, kpi.config, { ...asked, kept: true });
  const { sql, moment, inexact } = await queryAt(engine, kpi, asked);
  const { rows } = await asked.duck.query(sql);
  return { rows, freshness: freshnessOf(engine, moment, { config: kpi.config, revision: 0, inexact }) };
}

interface Flat {
  readonly sql: string;
  readonly freshness: KpiFreshness;
}

/** The same as a SELECT with the scope's values to bind: a flat table, every column in a type of its own. */
async function flatAt(engine: Engine, kpi: EngineKpi, asked: Asked): Promise<Flat> {
  const { duck, scope: { values } = EVERYTHING } = asked;
  if (kpi.config.definition.kind === 'query') {
    const { sql, moment, inexact } = await queryAt(engine, kpi, asked);
    return { sql, freshness: freshnessOf(engine, moment, { config: kpi.config, revision: 0, inexact }) };
  }
  const { compiled, moment, reader } = await reading(engine, kpi.config, { ...asked, kept: true });
  const sql = await reader.flat(moment.completeTo);
  const [highest] = await duck.rows<{ revision: number }>(`SELECT coalesce(max(revision), 0) AS revision FROM (${sql})`, values);
  const rest = { config: kpi.config, revision: highest?.revision ?? 0, inexact: inexactOf(compiled) };
  return { sql, freshness: freshnessOf(engine, moment, rest) };
}

/** The same flat, with the types of its columns; decimals, times and whole numbers beyond 2⁵³ as text. */
export async function typedValuesAt(
  engine: Engine,
  kpi: EngineKpi,
  asked: Asked,
): Promise<Answer & { readonly freshness: KpiFreshness }> {
  const { sql, freshness } = await flatAt(engine, kpi, asked);
  return { ...(await asked.duck.query(sql, asked.scope?.values)), freshness };
}

/**
 * The same as a Parquet file, in the types of its columns; its metadata has the freshness, under the key `tributary`.
 * @param path where to; whoever calls removes it
 */
export async function writeParquet(engine: Engine, kpi: EngineKpi, asked: Asked & { path: string }): Promise<KpiFreshness> {
  const { duck, path, scope: { values } = EVERYTHING } = asked;
  const { sql, freshness } = await flatAt(engine, kpi, asked);
  await copyOut(duck, { kpi, sql, freshness, path, values });
  return freshness;
}

async function copyOut(
  duck: Duck,
  { kpi, sql, freshness, path, values }: Flat & { kpi: EngineKpi; path: string; values: Scope['values'] },
): Promise<void> {
  const about = duckLiteral(JSON.stringify({ kpi: kpi.config.name, ...freshness }));
  // Parquet has no whole numbers of 128 bits, which sums are: DuckDB would write doubles, exact up to 2^53 alone.
  const described = await duck.query(`DESCRIBE ${sql}`, values);
  const wide = described.rows.filter((row) => /^U?HUGEINT$/.test(String(row['column_type'])));
  const exact = wide.map((row) => duckIdent(String(row['column_name']))).map((name) => `${name}::DECIMAL(38, 0) AS ${name}`);
  const replaced = exact.length === 0 ? '' : ` REPLACE (${exact.join(', ')})`;
  await duck.run(
    `COPY (SELECT *${replaced} FROM (${sql})) TO ${duckLiteral(path)} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {tributary: ${about}})`,
    values,
  );
}

export interface Snapshot {
  readonly freshness: KpiFreshness;
  /** Of definition and rows, whatever their order: another one tells that something changed. */
  readonly digest: string;
  /** Was it written? */
  readonly written: boolean;
}

/** Writes a Parquet file, if `due` says so, with the freshness of its values in columns too: not every tool shows metadata. */
export async function snapshot(
  engine: Engine,
  kpi: EngineKpi,
  { due, path, ...asked }: Omit<Asked, 'scope'> & { path: string; due: (digest: string) => boolean },
): Promise<Snapshot> {
  const { duck } = asked;
  const { sql, freshness } = await flatAt(engine, kpi, asked);
  const { definitionVersion, completeTo, position } = freshness;
  const [found] = await duck.rows<{ n: number; digest: string | null }>(
    `SELECT count(*) AS n, sum(hash(v))::VARCHAR AS digest FROM (${sql}) v`,
  );
  const digest = `${definitionVersion} ${found?.n} ${found?.digest}`;
  if (!due(digest)) return { freshness, digest, written: false };
  const at = completeTo === null ? 'NULL' : duckLiteral(completeTo);
  const told = `${duckLiteral(definitionVersion)} AS _definition, ${at}::TIMESTAMPTZ AS _complete_to, ${duckLiteral(position)} AS _position`;
  await copyOut(duck, { kpi, sql: `SELECT *, ${told} FROM (${sql})`, freshness, path, values: [] });
  return { freshness, digest, written: true };
}

export interface RowsQuestion extends ValuesQuestion {
  /** ISO 8601: an instant in the bucket; a KPI without time takes none. */
  readonly bucket?: string;
  readonly limit?: number;
}

/** Joined rows behind one bucket: what its values were made from. */
export async function rowsBehind(
  engine: Engine,
  kpi: EngineKpi,
  { duck, ask, scope = EVERYTHING }: Asked & { ask: RowsQuestion },
): Promise<object> {
  if (kpi.config.definition.kind === 'query')
    throw new Fault('query_refused', `Kpi ${kpi.config.name} is one SELECT: it does not say which rows are behind a value`);
  const { compiled, moment, reader } = await reading(engine, kpi.config, { duck, ask, kept: false, scope });
  const limit = Math.min(ask.limit ?? ROWS_DEFAULT, LIMITS.answerRows);
  const { columns, rows } = await duck.query(`${reader.behind(ask.bucket ?? null)} LIMIT ${limit + 1}`, scope.values);
  const rest = { config: kpi.config, revision: 0, inexact: inexactOf(compiled) };
  return { columns, rows: rows.slice(0, limit), more: rows.length > limit, freshness: freshnessOf(engine, moment, rest) };
}

/** A look at every alert of a KPI, at one moment. Values older than they may be say nothing. */
export async function lookedAt(engine: Engine, kpi: EngineKpi, duck: Duck): Promise<Look> {
  const { config } = kpi;
  const at = engine.clock.now();
  const whole = { duck, ask: {} };
  // One of the short form has no measures: what is watched is how old it is.
  const seen =
    config.definition.kind === 'query'
      ? await queryAt(engine, kpi, whole)
      : await reading(engine, config, { ...whole, kept: true });
  const { moment } = seen;
  const inexact = 'compiled' in seen ? inexactOf(seen.compiled) : seen.inexact;
  const freshness = freshnessOf(engine, moment, { config, revision: 0, inexact });
  const stale = freshness.completeTo === null || freshness.lagMs > config.staleAfterMs;
  const alerts = new Map<string, Seen>();
  for (const alert of config.alerts)
    alerts.set(
      alert.name,
      stale ? 'stale' : 'compiled' in seen && alert.about === 'values' ? await seenOf(alert, { duck, ...seen }) : FRESH,
    );
  return { at, freshness, alerts };
}

/** Of an alert about freshness: values are there, and not too old. */
const FRESH: Seen = { sightings: [{ group: TOGETHER, sight: 'unmet', named: {} }], more: false };

/** One alert, for everything together or for every group that it watches. */
async function seenOf(
  alert: KpiAlert,
  { duck, compiled, moment: { view, completeTo } }: { duck: Duck; compiled: Compiled; moment: Viewed },
): Promise<Seen> {
  const kept = new Maintained(compiled);
  const { by } = alert;
  const reader = (ask: ValuesQuestion, scope = EVERYTHING) => new ValuesReader(duck, compiled, { view, kept, ask, scope });
  const groups = [TOGETHER];
  if (by.length > 0) {
    const from = new Date(completeTo / 1_000 - alert.seenWithinMs).toISOString();
    const known = await reader({ by, measures: [], ...(compiled.grains.length === 0 ? {} : { from }) }).groups(
      ALERT_GROUPS_MAX + 1,
    );
    groups.splice(0, 1, ...known.map(groupOf));
  }
  const read: ReadValues = async (measure, grain, bucket) => {
    const within = bucket === null ? {} : { from: bucket, to: new Date(Date.parse(bucket) + 1).toISOString() };
    const ask: ValuesQuestion = { ...within, ...(grain === null ? {} : { grain }), measures: [measure], fill: 'empty' };
    const valueOf = (row: ValueRow | undefined) => numberOf(row?.values[measure]);
    const rows = await reader({ ...ask, by }).rows(completeTo);
    const values = new Map(rows.map((row) => [groupedName('', groupOf(row.dimensions)), valueOf(row)]));
    const named = (group: Group) => groupedName('', group);
    // What has no row there has what the measure says of nothing.
    const empty = groups.every((group) => values.has(named(group)))
      ? null
      : valueOf((await reader({ ...ask, by: [] }, NOTHING).rows(completeTo))[0]);
    return (group) => (values.has(named(group)) ? (values.get(named(group)) ?? null) : empty);
  };
  const watched = groups.slice(0, ALERT_GROUPS_MAX);
  const sightings = await look(alert, { duck, compiled, completeTo, groups: watched, read });
  return { sightings, more: groups.length > watched.length };
}

function numberOf(value: unknown): number | null {
  return value === null || value === undefined ? null : Number(value);
}

export interface RevisionsQuestion {
  readonly grain?: Grain;
  readonly from?: string;
  readonly to?: string;
}

/** Changes of buckets that were closed, newest bucket first. */
export async function revisionsOf(
  { config }: EngineKpi,
  { duck, ask: { grain, from, to } }: { duck: Duck; ask: RevisionsQuestion },
): Promise<object> {
  const { definition } = config;
  if (definition.kind === 'query' || !definition.time) return { revisions: [], more: false };
  const { grains, zone, weekStart } = definition.time;
  const calendar: Calendar = { zone, weekStart };
  if (grain !== undefined && !grains.includes(grain))
    throw new Fault('query_refused', `grain: ${config.name} has no grain ${grain}. Grains: ${grains.join(', ')}`, {
      parameter: 'grain',
    });
  const where = [
    `kpi = ${duckLiteral(config.name)}`,
    ...(grain === undefined ? [] : [`grain = ${duckLiteral(grain)}`]),
    ...(from === undefined ? [] : [`bucket >= ${writtenInstant(from, calendar, 'from')}`]),
    ...(to === undefined ? [] : [`bucket < ${writtenInstant(to, calendar, 'to')}`]),
  ].join(' AND ');
  const rows = await duck.rows<Record<string, unknown>>(
    `SELECT grain, revision, flagged, vector, ${bucketColumns('bucket', calendar).join(', ')} FROM _meta.revisions WHERE ${where}
     ORDER BY bucket DESC, grain, revision DESC LIMIT ${LIMITS.answerRows + 1}`,
  );
  const revisions = rows.slice(0, LIMITS.answerRows).map((row) => ({
    grain: row['grain'],
    bucket: bucketText(row),
    revision: row['revision'],
    flagged: row['flagged'],
    position: row['vector'],
  }));
  return { revisions, more: rows.length > revisions.length };
}
