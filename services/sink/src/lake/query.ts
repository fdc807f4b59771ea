import type { Changelogs } from '@tributary/changelog';
import { type Bus, Fault, LIMITS } from '@tributary/core';
import { type Duck, gate } from '@tributary/duckdb';
import type { LakeStore } from './lake-store.ts';

export interface QueryOptions {
  readonly bus: Bus;
  readonly changelogs: Changelogs;
  readonly store: LakeStore;
  readonly sink: string;
  readonly sources: readonly string[];
  /** Ends queries that run when it aborts. */
  readonly cut: AbortSignal;
}

/** How long a query waits for the state to hold what the changelogs held when it was asked, ms. */
const CATCH_UP_MS = 2_000;
const QUERY_MS_MAX = 60_000;
const ROWS_MAX = 1_000_000;

/** Answers `tributary.query`: one SELECT over the compacted tables as of one moment, with the freshness of every source. */
export function serveQueries(options: QueryOptions): Promise<() => Promise<void>> {
  return options.bus.serve('tributary.query', (question) => answer(options, question as { sql: string; asOf?: string }));
}

async function* answer(options: QueryOptions, { sql, asOf }: { sql: string; asOf?: string }): AsyncGenerator<unknown> {
  if (asOf !== undefined) throw new Fault('query_refused', '--as-of is not built yet: a query sees the newest state');
  await catchUp(options);
  const duck = await options.store.connect(options.cut);
  const timer = setTimeout(() => duck.interrupt(), QUERY_MS_MAX);
  try {
    const text = sql.trim().replace(/;\s*$/, '');
    await gate(duck, text, await known(duck));
    await duck.run('BEGIN TRANSACTION READ ONLY');
    const freshness = await positions(duck);
    const { columns, rows } = await duck.query(`SELECT * FROM (${text}\n) LIMIT ${ROWS_MAX + 1}`);
    if (rows.length > ROWS_MAX) throw new Fault('query_refused', `more than ${ROWS_MAX} rows: add a LIMIT`);
    await duck.run('COMMIT');
    yield { columns, rows: rows.slice(0, LIMITS.answerRows), freshness };
    for (let at = LIMITS.answerRows; at < rows.length; at += LIMITS.answerRows)
      yield { rows: rows.slice(at, at + LIMITS.answerRows) };
  } finally {
    clearTimeout(timer);
    duck.close();
  }
}

/** Views of captured tables: the only names a query may use. A bare table name will do where it is one source's alone. */
async function known(duck: Duck): Promise<ReadonlySet<string>> {
  const rows = await duck.rows<{ view_schema: string; view_name: string }>('SELECT view_schema, view_name FROM _meta.tables');
  return new Set(rows.map((row) => `${row.view_schema}.${row.view_name}`.toLowerCase()));
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
