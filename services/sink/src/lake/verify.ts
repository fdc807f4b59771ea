import { CsvCutter, CsvRows } from '@tributary/changelog';
import { describeError } from '@tributary/core';
import { type Duck, duckIdent, duckLiteral, loadCells, Loader, plain } from '@tributary/duckdb';
import { type CatalogTable, type ConnectionConfig, quoteIdent, quoteTable, readTables, Session } from '@tributary/postgres';
import { type KeptColumns, withoutKept } from '../kept-columns.ts';
import type { LakeStore } from './lake-store.ts';
import type { LakeTable } from './lake-table.ts';
import { typedList } from './lake-types.ts';

export interface VerifyLakeOptions {
  readonly sink: string;
  readonly source: string;
  readonly from: ConnectionConfig;
  readonly store: Pick<LakeStore, 'connect'>;
  readonly ask: {
    readonly tables: readonly string[];
    readonly seq: number;
    readonly kept?: KeptColumns;
  };
  readonly reached: (seq: number) => Promise<void>;
  readonly compact: () => Promise<void>;
  readonly currentOf: (name: string) => Promise<{ table: LakeTable; parquet: string | null } | null>;
  readonly signal: AbortSignal;
}

interface Verified {
  readonly source: string;
  readonly table: string;
  readonly projection: string;
  readonly rows: number;
  readonly equal: boolean;
  readonly differences: readonly { readonly key: string; readonly problem: 'missing' | 'extra' | 'different' }[];
}

const SHOWN_MAX = 20;
const ROUNDS = 4;
const PIECE_BYTES = 1024 * 1024;

/**
 * Compares the source's rows with the compacted state that queries see (projection `query`) and with the Parquet files of
 * the last commit (the sink's name), table by table and value by value. What differs is asked for again, later: a row on
 * its way has moved by then ({@link standing}).
 */
export async function* verifyLake(options: VerifyLakeOptions): AsyncGenerator<Verified> {
  await options.reached(options.ask.seq);
  const session = await Session.open(options.from, { name: `${options.sink} verify` });
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
    for (let round = 1; ; round++) {
      const { rows, differing } = await compare(options, table, { ...places, projection });
      const still: Differing = earlier ? standing(earlier, differing) : differing;
      if (still.size === 0 || round === ROUNDS) {
        const differences = [...still.keys()]
          .slice(0, SHOWN_MAX)
          .map((key) => ({ key: key.slice(1), problem: key.startsWith('-') ? ('missing' as const) : ('extra' as const) }));
        yield { ...base, rows, equal: still.size === 0, differences };
        break;
      }
      earlier = still;
      await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** round));
      if (projection !== 'query') await options.compact();
    }
  }
}

/** Rows that only one side has, by sign and key (`-key`: the source, `+key`: the lake), with a hash of the row. */
type Differing = ReadonlyMap<string, string>;

/**
 * What stands as it stood: rows of the lake that differ and have not moved since the earlier look, and rows that it lacked
 * then and still lacks. Under load a busy row differs at every look, because the two sides are read one after the other,
 * and each time with another value; one look that finds a key again says nothing.
 */
export function standing(earlier: Differing, now: Differing): Differing {
  const opposite = (key: string) => `+${key.slice(1)}`;
  return new Map(
    [...now].filter(([key, hash]) => {
      if (key.startsWith('+')) return earlier.get(key) === hash;
      if (now.has(opposite(key))) return earlier.get(opposite(key)) === now.get(opposite(key));
      return earlier.has(key) && !earlier.has(opposite(key));
    }),
  );
}

/** @returns the source's row count, and what differs */
async function compare(
  options: VerifyLakeOptions,
  table: CatalogTable,
  { session, duck, projection }: { session: Session; duck: Duck; projection: string },
): Promise<{ rows: number; differing: Differing }> {
  const found = await options.currentOf(`${table.schema}.${table.table}`);
  const rows = await loadSource(session, duck, table);
  if (!found) return { rows, differing: new Map(rows === 0 ? [] : [['-table', '']]) };
  const { table: lake, parquet } = found;
  const kept = options.ask.kept?.[lake.name] ?? [];
  const columns = lake.columns.filter(({ name }) => !kept.includes(name));
  const exact = new Set(columns.filter((column) => column.lossy).map((column) => column.name));
  const names = columns.map((column) => column.name);
  if (
    names.toSorted().join() !==
    table.columns
      .map((column) => column.name)
      .toSorted()
      .join()
  )
    return { rows, differing: new Map([['-columns', '']]) };
  const here =
    projection === 'query'
      ? `SELECT ${names.map(duckIdent).join(', ')} FROM ${lake.current}`
      : await parquetSelect(duck, { current: lake.current, columns }, parquet, exact);
  const there =
    projection === 'query'
      ? `SELECT ${names.map(duckIdent).join(', ')} FROM verify_source`
      : `SELECT ${typedList(columns, exact)} FROM verify_source`;
  const key = lake.key.length > 0 ? lake.key.map((c) => duckIdent(lake.columns[c]?.name as string)) : names.map(duckIdent);
  const keyText = `concat_ws('|', ${key.map((one) => `${one}::VARCHAR`).join(', ')})`;
  try {
    const differing = await duck.rows<{ key: string; seen: string }>(
      `SELECT '-' || ${keyText} AS key, hash(d)::VARCHAR AS seen FROM ((${there}) EXCEPT ALL (${here})) d
        UNION ALL SELECT '+' || ${keyText} AS key, hash(d)::VARCHAR AS seen FROM ((${here}) EXCEPT ALL (${there})) d`,
    );
    return { rows, differing: new Map(differing.map((row) => [row.key, row.seen])) };
  } catch (error) {
    return { rows, differing: new Map([[`-${describeError(error)}`, '']]) };
  }
}

/** The Parquet file with every column a lossy one could have beside it, present or not. */
async function parquetSelect(
  duck: Duck,
  table: Pick<LakeTable, 'current' | 'columns'>,
  path: string | null,
  exact: ReadonlySet<string>,
): Promise<string> {
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
