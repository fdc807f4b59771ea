import { describeError } from '@tributary/core';
import { type ConnectionConfig, quoteIdent, quoteTable, readTables, Session } from '@tributary/postgres';
import { type KeptColumns, withoutKept } from '../kept-columns.ts';
import { type Differing, LOOKS, standing } from '../standing.ts';

export interface VerifyOdsOptions {
  readonly sink: string;
  readonly source: string;
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
  /** Waits until the projection holds everything that was committed before the call; null = nothing moves while it is compared. */
  readonly caughtUp: (() => Promise<void>) | null;
  /** Does this projection hold the table? */
  readonly verifies: (table: string) => Promise<boolean>;
}

export interface ComparedTable {
  readonly schema: string;
  readonly table: string;
  readonly columns: readonly { readonly name: string }[];
  /** Names; empty: the whole row. */
  readonly key: readonly string[];
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
 * What differs is looked at again when the projection has caught up: a row on its way has moved by then ({@link standing}).
 */
export async function* verifyOds(from: ConnectionConfig, options: VerifyOdsOptions): AsyncGenerator<VerifiedTable> {
  const { to, ask, signal } = options;
  const source = await Session.open(from, { name: `${options.source} verify` });
  const target = await Session.open(to, { name: `${options.sink} verify` });
  try {
    const { version } = await source.row<{ version: number }>(`SELECT current_setting('server_version_num')::int AS version`);
    const wanted = new Set(ask.table === undefined ? (ask.tables ?? []) : [ask.table]);
    for (const table of await readTables(source, (name) => wanted.has(name), version)) {
      signal.throwIfAborted();
      if (!(await options.verifies(`${table.schema}.${table.table}`))) continue;
      const here = quoteTable(table.schema, table.table);
      yield await verifyTable(options, withoutKept(table, ask.kept), { source, target, here });
    }
  } finally {
    await source.close();
    await target.close();
  }
}

export async function isThere(session: Session, target: string): Promise<boolean> {
  const { there } = await session.row<{ there: boolean }>('SELECT to_regclass($1) IS NOT NULL AS there', [target]);
  return there;
}

export async function verifyTable(
  options: VerifyOdsOptions,
  table: ComparedTable,
  { source, target, here }: { source: Session; target: Session; here: string },
): Promise<VerifiedTable> {
  const name = `${table.schema}.${table.table}`;
  const { target: whole, where, history } = options.targetOf(table);
  const there = where === undefined ? whole : `(SELECT * FROM ${whole} WHERE ${where}) own`;
  const result = { source: options.source, table: name, projection: options.sink };
  const expected = await buckets(source, here, table);
  const rows = expected.reduce((sum, bucket) => sum + bucket.rows, 0);
  if (!(await isThere(target, whole))) {
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
  const differences = await differingRows(table, differing, { source, target, here, there, caughtUp: options.caughtUp });
  const shown = [...differences, ...untold].slice(0, SHOWN_MAX);
  const verified = { ...result, rows, equal: shown.length === 0, differences: shown };
  const nameable = table.key.length > 0 && differences.length > 0 && differences.length <= (options.ask.keysMax ?? 0);
  return nameable ? { ...verified, keys: await keysOf(source, differences) } : verified;
}

/** Rows that differ between a table and the open versions of its history: of one moment, so none is on its way. */
async function untoldRows(
  table: ComparedTable,
  target: Session,
  { there, history }: { there: string; history: string },
): Promise<Problem[]> {
  // Made with the table's next change.
  if (!(await isThere(target, history))) return [];
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
function rowHash(table: ComparedTable): string {
  const names = table.columns.map((column) => column.name).toSorted();
  return `hashtextextended(ARRAY[${names.map((name) => `${quoteIdent(name)}::text`).join(', ')}]::text, 0)`;
}

function keyText(table: ComparedTable): string {
  if (table.key.length === 0) return `${rowHash(table)}::text`;
  return `ARRAY[${table.key.map((name) => `${quoteIdent(name)}::text`).join(', ')}]::text`;
}

async function buckets(session: Session, relation: string, table: ComparedTable): Promise<Bucket[]> {
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

interface Places {
  readonly source: Session;
  readonly target: Session;
  readonly here: string;
  readonly there: string;
}

async function differingRows(
  table: ComparedTable,
  differing: readonly number[],
  { source, target, here, there, caughtUp }: Places & Pick<VerifyOdsOptions, 'caughtUp'>,
): Promise<Problem[]> {
  let suspects: string[] | null = null;
  let earlier: Differing | null = null;
  for (let look = 1; ; look++) {
    const [expected, found]: [Map<string, string>, Map<string, string>] = [
      await hashes(source, here, { table, differing, suspects }),
      await hashes(target, there, { table, differing, suspects }),
    ];
    const now = new Map<string, string>();
    for (const key of new Set([...expected.keys(), ...found.keys()])) {
      const [own, other] = [expected.get(key), found.get(key)];
      if (own === other) continue;
      if (own !== undefined) now.set(`-${key}`, own);
      if (other !== undefined) now.set(`+${key}`, other);
    }
    earlier = earlier ? standing(earlier, now) : now;
    suspects = [...new Set([...earlier.keys()].map((key) => key.slice(1)))];
    if (suspects.length === 0 || look === LOOKS || !caughtUp) {
      const stands = (key: string) => earlier?.has(key) === true;
      return suspects.map((key) => ({
        key,
        problem: !stands(`+${key}`) ? 'missing' : !stands(`-${key}`) ? 'extra' : 'different',
      }));
    }
    await caughtUp();
  }
}

/** Hash per key; for keyless tables the number of rows per hash. */
async function hashes(
  session: Session,
  relation: string,
  { table, differing, suspects }: { table: ComparedTable; differing: readonly number[]; suspects: readonly string[] | null },
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
