import { CsvCutter, CsvRows } from '@tributary/changelog';
import { describeError } from '@tributary/core';
import { type Duck, duckIdent, duckLiteral, loadCells, Loader, plain } from '@tributary/duckdb';
import { type CatalogTable, type ConnectionConfig, quoteIdent, quoteTable, readTables, Session } from '@tributary/postgres';
import { type KeptColumns, withoutKept } from '../kept-columns.ts';
import { type Differing, LOOKS, standing } from '../standing.ts';
import type { LakeStore } from './lake-store.ts';
import type { LakeTable } from './lake-table.ts';
import { typedList } from './lake-types.ts';

export interface VerifyLakeOptions {
  readonly sink: string;
  readonly source: string;
  readonly store: Pick<LakeStore, 'connect'>;
  readonly ask: {
    readonly tables: readonly string[];
    readonly seq: number;
    readonly kept?: KeptColumns;
  };
  readonly reached: (seq: number) => Promise<void>;
  /** Waits until the projection holds everything that was committed before the call. */
  readonly caughtUp: () => Promise<void>;
  readonly compact: () => Promise<unknown>;
  readonly currentOf: (name: string) => Promise<{ table: LakeTable; parquet: string | null } | null>;
  readonly signal: AbortSignal;
}

export interface Verified {
  readonly source: string;
  readonly table: string;
  readonly projection: string;
  readonly rows: number;
  readonly equal: boolean;
  readonly differences: readonly { readonly key: string; readonly problem: 'missing' | 'extra' | 'different' }[];
}

const SHOWN_MAX = 20;
const PIECE_BYTES = 1024 * 1024;

/**
 * Compares the source's rows with the compacted state that queries see (projection `query`) and with the Parquet files of
 * the last commit (the sink's name), table by table and value by value. What differs is looked at again when the projection has
 * caught up: a row on its way has moved by then ({@link standing}).
 */
export async function* verifyLake(from: ConnectionConfig, options: VerifyLakeOptions): AsyncGenerator<Verified> {
  await options.reached(options.ask.seq);
  const session = await Session.open(from, { name: `${options.sink} verify` });
  const duck = await options.store.connect(options.signal);
  try {
    const { version } = await session.row<{ version: number }>(`SELECT current_setting('server_version_num')::int AS version`);
    const wanted = new Set(options.ask.tables);
    await options.compact();
    for (const table of await readTables(session, (name) => wanted.has(name), version)) {
      options.signal.throwIfAborted();
      yield* verifyTable(options, withoutKept(table, options.ask.kept), { session, duck });
    }
  } finally {
    await session.close();
    duck.close();
  }
}

async function* verifyTable(
  options: VerifyLakeOptions,
  table: CatalogTable,
  places: { session: Session; duck: Duck },
): AsyncGenerator<Verified> {
  const name = `${table.schema}.${table.table}`;
  for (const projection of ['query', options.sink]) {
    const base = { source: options.source, table: name, projection };
    let earlier: Differing | null = null;
    for (let look = 1; ; look++) {
      const rows = await loadSource(places.session, places.duck, table);
      const differing = await compare(options, table, { ...places, projection, rows });
      const still: Differing = earlier ? standing(earlier, differing) : differing;
      if (still.size === 0 || look === LOOKS) {
        yield { ...base, rows, equal: still.size === 0, differences: toldOf(still) };
        break;
      }
      earlier = still;
      await options.caughtUp();
      if (projection !== 'query') await options.compact();
    }
  }
}

/** What is shown of what differs. */
export function toldOf(differing: Differing): Verified['differences'] {
  return [...differing.keys()]
    .slice(0, SHOWN_MAX)
    .map((key) => ({ key: key.slice(1), problem: key.startsWith('-') ? ('missing' as const) : ('extra' as const) }));
}

async function compare(
  options: VerifyLakeOptions,
  table: CatalogTable,
  { duck, projection, rows }: { duck: Duck; projection: string; rows: number },
): Promise<Differing> {
  const found = await options.currentOf(`${table.schema}.${table.table}`);
  if (!found) return new Map(rows === 0 ? [] : [['-table', '']]);
  const { table: lake, parquet } = found;
  const kept = options.ask.kept?.[lake.name] ?? [];
  const columns = lake.columns.filter(({ name }) => !kept.includes(name));
  const sorted = (names: readonly { readonly name: string }[]) => names.map(({ name }) => name).toSorted();
  if (sorted(columns).join() !== sorted(table.columns).join()) return new Map([['-columns', '']]);
  try {
    const here =
      projection === 'query'
        ? textSelect(columns, lake.current)
        : await parquetSelect(duck, { current: lake.current, columns }, parquet);
    const there = projection === 'query' ? textSelect(columns, 'verify_source') : typedSelect(columns, 'verify_source');
    return await differing(duck, lake, { columns, here, there });
  } catch (error) {
    return new Map([[`-${describeError(error)}`, '']]);
  }
}

type LakeColumns = readonly LakeTable['columns'][number][];

/** Values as PostgreSQL's text. */
export function textSelect(columns: LakeColumns, relation: string): string {
  return `SELECT ${columns.map(({ name }) => duckIdent(name)).join(', ')} FROM ${relation}`;
}

/** Values as the Parquet files of the lake have them, of a relation of texts. */
export function typedSelect(columns: LakeColumns, relation: string): string {
  return `SELECT ${typedList(columns, exactOf(columns))} FROM ${relation}`;
}

/** Columns whose exact text stands beside them. */
function exactOf(columns: LakeColumns): Set<string> {
  return new Set(columns.filter((column) => column.lossy).map((column) => column.name));
}

/** @param there, here SELECTs of the same columns: what should be, and what is */
export async function differing(
  duck: Duck,
  { key, columns: all }: Pick<LakeTable, 'key' | 'columns'>,
  { columns, here, there }: { columns: LakeColumns; here: string; there: string },
): Promise<Differing> {
  const names = key.length > 0 ? key.map((c) => all[c]?.name as string) : columns.map(({ name }) => name);
  const keyText = `concat_ws('|', ${names.map((one) => `${duckIdent(one)}::VARCHAR`).join(', ')})`;
  const rows = await duck.rows<{ key: string; seen: string }>(
    `SELECT '-' || ${keyText} AS key, hash(d)::VARCHAR AS seen FROM ((${there}) EXCEPT ALL (${here})) d
      UNION ALL SELECT '+' || ${keyText} AS key, hash(d)::VARCHAR AS seen FROM ((${here}) EXCEPT ALL (${there})) d`,
  );
  return new Map(rows.map((row) => [row.key, row.seen]));
}

/** The Parquet file with every column a lossy one could have beside it, present or not. */
export async function parquetSelect(
  duck: Duck,
  table: { readonly current: string; readonly columns: LakeColumns },
  path: string | null,
): Promise<string> {
  const exact = exactOf(table.columns);
  if (!path) return `SELECT ${typedList(table.columns, exact)} FROM ${table.current} WHERE false`;
  const described = await duck.rows<{ column_name: string }>(`DESCRIBE SELECT * FROM read_parquet(${duckLiteral(path)})`);
  const there = new Set(described.map((row) => row.column_name));
  const list = table.columns.flatMap((column) => {
    const text = `${column.name}__text`;
    const own = duckIdent(column.name);
    return exact.has(column.name) ? [own, there.has(text) ? duckIdent(text) : `NULL AS ${duckIdent(text)}`] : [own];
  });
  return `SELECT ${list.join(', ')} FROM read_parquet(${duckLiteral(path)})`;
}

/** Brings the source's rows as text into `verify_source`. @returns their number */
async function loadSource(session: Session, duck: Duck, table: CatalogTable): Promise<number> {
  const names = table.columns.map((column) => column.name);
  await duck.run(`CREATE OR REPLACE TEMP TABLE verify_source (${names.map((name) => `${duckIdent(name)} VARCHAR`).join(', ')})`);
  const cutter = new CsvCutter(PIECE_BYTES);
  let rows = 0;
  const insert = async (cut: { bytes: Uint8Array; rows: number } | null) => {
    if (!cut) return;
    rows += cut.rows;
    const columns = new CsvRows(cut.bytes, cut.rows, names.length).columns().map((column) => loadCells(column.values()));
    const loader = new Loader(columns);
    await duck.run(
      `INSERT INTO verify_source SELECT ${names.map((_, c) => plain(`c${c}`)).join(', ')} FROM (${loader.select})`,
      loader.values,
    );
  };
  const sql = `COPY (SELECT ${names.map(quoteIdent).join(', ')} FROM ${table.partitioned ? '' : 'ONLY '}${quoteTable(table.schema, table.table)}) TO STDOUT (FORMAT csv)`;
  for await (const piece of session.copyOut(sql)) await insert(cutter.push(piece));
  await insert(cutter.end());
  return rows;
}
