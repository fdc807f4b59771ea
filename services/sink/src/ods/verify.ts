import { describeError } from '@tributary/core';
import { type CatalogTable, type ConnectionConfig, quoteIdent, quoteTable, readTables, Session } from '@tributary/postgres';
import { type KeptColumns, withoutKept } from '../kept-columns.ts';

export interface VerifyOdsOptions {
  readonly sink: string;
  readonly source: string;
  readonly from: ConnectionConfig;
  readonly to: ConnectionConfig;
  /** The target of a source's table (quoted), and which of its rows are this source's, and there; absent = all. */
  readonly targetOf: (table: { readonly schema: string; readonly table: string }) => {
    readonly target: string;
    readonly where?: string;
    /** The table of versions (quoted), whose open ones are to be these rows. */
    readonly history?: string;
  };
  readonly ask: {
    readonly table?: string;
    readonly tables?: readonly string[];
    readonly kept?: KeptColumns;
    /** Name every key that differs, up to this number, so that it can be repaired. */
    readonly keysMax?: number;
  };
  readonly signal: AbortSignal;
  /** Does this projection hold the table? */
  readonly verifies: (table: string) => Promise<boolean>;
}

export interface VerifiedTable {
  readonly source: string;
  readonly table: string;
  readonly projection: string;
  readonly rows: number;
  readonly equal: boolean;
  /** Keys (as text) that differ, at most {@link SHOWN_MAX}. */
  readonly differences: readonly { readonly key: string; readonly problem: 'missing' | 'extra' | 'different' }[];
  /** Every key that differs, as the texts of its columns; absent where they cannot be named, or were not asked for. */
  readonly keys?: readonly (readonly string[])[];
}

const BUCKETS = 256;
const SHOWN_MAX = 20;

interface Bucket {
  readonly bucket: number;
  readonly rows: number;
  readonly sum: string;
}

/**
 * Compares the source's tables with the target's: per table the count and sum of row hashes in 256 ranges of key hashes,
 * then the rows of the ranges that differ. A row's hash covers the text of every captured column, so nothing that differs is equal.
 * Rows that were on their way are told apart by asking again: only what differs twice, later, is a difference.
 */
export async function* verifyOds(options: VerifyOdsOptions): AsyncGenerator<VerifiedTable> {
  const { from, to, ask, signal } = options;
  const source = await Session.open(from, { name: `${options.source} verify` });
  const target = await Session.open(to, { name: `${options.sink} verify` });
  try {
    const { version } = await source.row<{ version: number }>(`SELECT current_setting('server_version_num')::int AS version`);
    const wanted = new Set(ask.table === undefined ? (ask.tables ?? []) : [ask.table]);
    for (const table of await readTables(source, (name) => wanted.has(name), version)) {
      signal.throwIfAborted();
      if (!(await options.verifies(`${table.schema}.${table.table}`))) continue;
      yield await verifyTable(options, withoutKept(table, ask.kept), { source, target });
    }
  } finally {
    await source.close();
    await target.close();
  }
}

async function verifyTable(
  options: VerifyOdsOptions,
  table: CatalogTable,
  { source, target }: { source: Session; target: Session },
): Promise<VerifiedTable> {
  const name = `${table.schema}.${table.table}`;
  const here = quoteTable(table.schema, table.table);
  const { target: whole, where, history } = options.targetOf(table);
  const there = where === undefined ? whole : `(SELECT * FROM ${whole} WHERE ${where}) own`;
  const result = { source: options.source, table: name, projection: options.sink };
  const [made] = await target.rows<{ there: boolean }>('SELECT to_regclass($1) IS NOT NULL AS there', [whole]);
  const expected = await buckets(source, here, table);
  const rows = expected.reduce((sum, bucket) => sum + bucket.rows, 0);
  if (!made?.there) {
    // A table whose first row has not come yet has no counterpart, and needs none.
    return { ...result, rows, equal: rows === 0, differences: rows === 0 ? [] : [{ key: '', problem: 'missing' }] };
  }
  let found: Bucket[];
  try {
    found = await buckets(target, there, table);
  } catch (error) {
    return { ...result, rows, equal: false, differences: [{ key: describeError(error), problem: 'different' }] };
  }
  const differing = differ(expected, found);
  const untold = history === undefined ? [] : await untoldRows(table, target, { there, history });
  if (differing.length === 0) return { ...result, rows, equal: untold.length === 0, differences: untold };
  const differences = await differingRows(table, differing, { source, target, here, there });
  const shown = [...differences, ...untold].slice(0, SHOWN_MAX);
  const verified = { ...result, rows, equal: shown.length === 0, differences: shown };
  const nameable = table.key.length > 0 && differences.length > 0 && differences.length <= (options.ask.keysMax ?? 0);
  return nameable ? { ...verified, keys: await keysOf(source, differences) } : verified;
}

/** Rows that differ between a table and the open versions of its history: of one moment, so none is on its way. */
async function untoldRows(
  table: CatalogTable,
  target: Session,
  { there, history }: { there: string; history: string },
): Promise<Problem[]> {
  const [made] = await target.rows<{ there: boolean }>('SELECT to_regclass($1) IS NOT NULL AS there', [history]);
  // Made with the table's next change.
  if (!made?.there) return [];
  const current = `SELECT ${keyText(table)} AS key, ${rowHash(table)} AS hash FROM ${there}`;
  const open = `SELECT ${keyText(table)}, ${rowHash(table)} FROM ${history} WHERE _to_lsn IS NULL`;
  const rows = await target.rows<{ key: string }>(
    `SELECT DISTINCT key FROM ((${current} EXCEPT ALL ${open}) UNION ALL (${open} EXCEPT ALL ${current})) d LIMIT ${SHOWN_MAX}`,
  );
  return rows.map(({ key }) => ({ key: `${key} in its history`, problem: 'different' }));
}

/** Key texts taken apart by the database that put them together. */
async function keysOf(source: Session, differences: readonly Problem[]): Promise<string[][]> {
  const texts = differences.map(({ key }) => key);
  return (await source.rows<{ key: string[] }>('SELECT t::text[] AS key FROM unnest($1::text[]) t', [texts])).map(
    ({ key }) => key,
  );
}

/** Columns by name: the target may hold them in another order. */
function rowHash(table: CatalogTable): string {
  const names = table.columns.map((column) => column.name).toSorted();
  return `hashtextextended(ARRAY[${names.map((name) => `${quoteIdent(name)}::text`).join(', ')}]::text, 0)`;
}

function keyText(table: CatalogTable): string {
  if (table.key.length === 0) return `${rowHash(table)}::text`;
  return `ARRAY[${table.key.map((name) => `${quoteIdent(name)}::text`).join(', ')}]::text`;
}

async function buckets(session: Session, relation: string, table: CatalogTable): Promise<Bucket[]> {
  return session.rows<Bucket>(
    `SELECT hashtextextended(${keyText(table)}, 1)::bit(64)::bit(8)::int AS bucket, count(*)::float8 AS rows, sum(${rowHash(table)}::numeric)::text AS sum
       FROM ${relation} GROUP BY 1`,
  );
}

function differ(a: readonly Bucket[], b: readonly Bucket[]): number[] {
  const left = new Map(a.map((bucket) => [bucket.bucket, bucket]));
  const right = new Map(b.map((bucket) => [bucket.bucket, bucket]));
  return Array.from({ length: BUCKETS }, (_, i) => i).filter(
    (i) => left.get(i)?.sum !== right.get(i)?.sum || left.get(i)?.rows !== right.get(i)?.rows,
  );
}

type Problem = VerifiedTable['differences'][number];

async function differingRows(
  table: CatalogTable,
  differing: readonly number[],
  places: { source: Session; target: Session; here: string; there: string },
): Promise<Problem[]> {
  let suspects: string[] | null = null;
  let problems: Problem[] = [];
  for (let round = 0; round < 4; round++) {
    const [here, there] = await Promise.all([
      hashes(places.source, places.here, { table, differing, suspects }),
      hashes(places.target, places.there, { table, differing, suspects }),
    ]);
    problems = [];
    for (const [key, hash] of here)
      if (there.get(key) !== hash) problems.push({ key, problem: there.has(key) ? 'different' : 'missing' });
    for (const key of there.keys()) if (!here.has(key)) problems.push({ key, problem: 'extra' });
    if (problems.length === 0) break;
    suspects = problems.map((problem) => problem.key);
    await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** round));
  }
  return problems;
}

/** Hash per key; for keyless tables the number of rows per hash. */
async function hashes(
  session: Session,
  relation: string,
  { table, differing, suspects }: { table: CatalogTable; differing: readonly number[]; suspects: readonly string[] | null },
): Promise<Map<string, string>> {
  const key = keyText(table);
  const value = table.key.length === 0 ? 'count(*)::text' : `min(${rowHash(table)})::text`;
  const rows = await session.rows<{ key: string; hash: string }>(
    `SELECT ${key} AS key, ${value} AS hash FROM ${relation}
      WHERE hashtextextended(${key}, 1)::bit(64)::bit(8)::int = ANY ($1) AND ($2::text[] IS NULL OR ${key} = ANY ($2)) GROUP BY ${key}`,
    [differing, suspects],
  );
  return new Map(rows.map((row) => [row.key, row.hash]));
}
