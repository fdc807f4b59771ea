import type { Changelogs } from '@tributary/changelog';
import { type Bus, Fault, LIMITS } from '@tributary/core';
import { copied, type Duck, duckIdent, type ReadTable, type Sandbox } from '@tributary/duckdb';
import type { LakeStore } from './lake-store.ts';

export interface QueryOptions {
  readonly bus: Bus;
  readonly changelogs: Changelogs;
  readonly store: LakeStore;
  readonly sandbox: Sandbox;
  readonly sink: string;
  readonly sources: readonly string[];
  /** Ends queries that run when it aborts. */
  readonly cut: AbortSignal;
}

/** How long a query waits for the state to hold what the changelogs held when it was asked, ms. */
const CATCH_UP_MS = 2_000;
/** What one query may take: a minute, a million rows, and as JSON so much. */
export const QUERY_LIMITS = { ms: 60_000, rows: 1_000_000, bytes: 128 * 2 ** 20 } as const;

/**
 * Answers `tributary.query`: one SELECT over the compacted tables as of one moment, with the freshness of every source.
 * What people write runs in the sandbox alone, over copies of what it names; the state itself only ever meets SQL of ours.
 */
export function serveQueries(options: QueryOptions): Promise<() => Promise<void>> {
  return options.bus.serve('tributary.query', (question) => answer(options, question as Question));
}

interface Question {
  readonly sql: string;
  readonly asOf?: string;
  /** What it may read, `SCHEMA.TABLE` or `SCHEMA.*`; absent: every captured table. */
  readonly tables?: readonly string[];
}

async function* answer(options: QueryOptions, { sql, asOf, tables: allowed }: Question): AsyncGenerator<unknown> {
  if (asOf !== undefined) throw new Fault('query_refused', '--as-of is not built yet: a query sees the newest state');
  await catchUp(options);
  const { store, sandbox, cut } = options;
  let freshness: Record<string, unknown> = {};
  const publish = async (tables: readonly ReadTable[], path: string, signal: AbortSignal) => {
    freshness = await published(store, { tables, path, signal });
  };
  const text = sql.trim().replace(/;\s*$/, '');
  let told = false;
  let rows: unknown[] = [];
  const question = { sql: text, known: [...(await known(store, allowed, cut))] };
  for await (const part of sandbox.query({ question, publish, signal: cut })) {
    if (!told) yield { columns: part.columns, rows: [], freshness };
    told = true;
    rows.push(...part.rows);
    for (; rows.length >= LIMITS.answerRows; rows = rows.slice(LIMITS.answerRows))
      yield { rows: rows.slice(0, LIMITS.answerRows) };
  }
  if (rows.length > 0) yield { rows };
}

/** Views of captured tables: the only names a query may use. */
async function known(store: LakeStore, allowed: Question['tables'], cut: AbortSignal): Promise<ReadonlySet<string>> {
  const duck = await store.connect(cut);
  try {
    const patterns = allowed && new Set(allowed.map((one) => one.toLowerCase()));
    const rows = await duck.rows<{ schema: string; name: string }>(
      `SELECT lower(view_schema) AS schema, lower(view_schema || '.' || view_name) AS name FROM _meta.tables`,
    );
    const own = rows.filter(({ schema, name }) => !patterns || patterns.has(name) || patterns.has(`${schema}.*`));
    return new Set(own.map(({ name }) => name));
  } finally {
    duck.close();
  }
}

/** Copies tables to a file of their own, in one transaction. @returns the freshness of every source, at the same moment */
function published(
  store: LakeStore,
  { tables, path, signal }: { tables: readonly ReadTable[]; path: string; signal: AbortSignal },
): Promise<Record<string, unknown>> {
  return copied(
    (cut) => store.connect(cut),
    { path, signal },
    async (duck, copy) => {
      const freshness = await positions(duck);
      for (const schema of new Set(tables.map((table) => table.schema)))
        await duck.run(`CREATE SCHEMA IF NOT EXISTS ${copy}.${duckIdent(schema)}`);
      for (const { schema, name: table, columns } of tables) {
        const name = `${duckIdent(schema)}.${duckIdent(table)}`;
        await duck.run(`CREATE TABLE ${copy}.${name} AS SELECT ${await columnsOf(duck, name, columns)} FROM ${name}`);
      }
      return freshness;
    },
  );
}

/** A query that names no column (`count(*)`) still counts rows. */
async function columnsOf(duck: Duck, name: string, columns: ReadTable['columns']): Promise<string> {
  if (columns === null) return '*';
  const there = (await duck.answer(`FROM ${name} LIMIT 0`)).columns;
  const meant = there.filter((column) => columns.has(column.name.toLowerCase()));
  return (meant.length > 0 ? meant : there.slice(0, 1)).map((column) => duckIdent(column.name)).join(', ');
}

async function positions(duck: Duck): Promise<Record<string, unknown>> {
  const rows = await duck.rows<{ source: string; seq: number; lsn: string; watermark: number }>(
    'SELECT source, seq, lsn, watermark FROM _meta.position',
  );
  return Object.fromEntries(
    rows.map(({ source, seq, lsn, watermark }) => [
      source,
      { seq, lsn, completeTo: watermark ? new Date(watermark / 1_000).toISOString() : null },
    ]),
  );
}

/** Lets the state take in what the changelogs hold at this moment; a state that is far behind answers as it is, and says so. */
async function catchUp({ bus, changelogs, sink, sources }: QueryOptions): Promise<void> {
  await Promise.all(
    sources.map(async (source) => {
      const status = await changelogs.status(source);
      if (!status || status.lastSeq === 0) return;
      const asked = bus.ask(`tributary.projection.${sink}.${source}.reached`, { seq: status.lastSeq }, { idleMs: CATCH_UP_MS });
      try {
        for await (const _ of asked);
      } catch {
        // Not there in time: the answer's freshness says how far it is.
      }
    }),
  );
}
