import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Duck, duckIdent, duckLiteral, type TypedColumn } from '@tributary/duckdb';
import type { LakeTable } from './lake-table.ts';
import { typedList } from './lake-types.ts';
import type { ManifestFile } from './manifest.ts';

/** A row group is held in memory until it is whole: with DuckDB's 122,880 rows that alone can take what a sink may use. */
const format = (level: number) => `(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL ${level}, ROW_GROUP_SIZE 20480)`;
/** What people read is written once and read often; exact text is read when a state was lost. */
const LEVEL = { changes: 3, current: 3, exact: 1, seen: 1 } as const;
/** History files of a table before they are merged into one. */
const SMALL_FILES_MAX = 8;
/** Files of this many rows are left alone. */
const LARGE_ROWS = 2_000_000;
const HISTORY = '_op, _lsn, _ordinal, _xid, _committed_at, _seq, _unchanged, _before';

/** Writes the state of tables to Parquet files under names nobody used before. Nobody sees them until a manifest names them. */
export class ParquetWriter {
  readonly #duck: Duck;
  readonly #folder: string;

  constructor(duck: Duck, folder: string) {
    this.#duck = duck;
    this.#folder = folder;
  }

  /** The history a table has gathered, in the order in which it came; null when there is none. */
  async history(table: LakeTable, commit: number): Promise<ManifestFile | null> {
    const [count] = await this.#duck.rows<{ rows: number }>(`SELECT count(*) AS rows FROM ${table.history}`);
    if (!count?.rows) return null;
    const exact = await this.#lossy(table, table.history);
    const select = `SELECT ${HISTORY}, ${typedList(table.columns, exact)} FROM ${table.history}`;
    return { path: await this.#write(table, { kind: 'changes', commit, select }), rows: count.rows };
  }

  /** The compacted state of a table, sorted by key, and the columns whose exact text goes along. */
  async current(table: LakeTable, commit: number): Promise<{ file: ManifestFile; exact: ReadonlySet<string> }> {
    const [count] = await this.#duck.rows<{ rows: number }>(`SELECT count(*) AS rows FROM ${table.current}`);
    const exact = await this.#lossy(table, table.current);
    const order = table.key.length > 0 ? table.key : table.columns.map((_, c) => c);
    const by = order.map((c) => duckIdent((table.columns[c] as TypedColumn).name)).join(', ');
    const select = `SELECT * FROM (SELECT ${typedList(table.columns, exact)} FROM ${table.current}) ORDER BY ${by}`;
    return { file: { path: await this.#write(table, { kind: 'current', commit, select }), rows: count?.rows ?? 0 }, exact };
  }

  /** Every row of the compacted changelog as text, unsorted: it is read as a whole. Costs 0.6 of what `current` does. */
  async exact(table: LakeTable, commit: number): Promise<{ file: ManifestFile; seen: ManifestFile | null }> {
    const write = async (kind: 'exact' | 'seen', relation: string): Promise<ManifestFile> => {
      const [count] = await this.#duck.rows<{ rows: number }>(`SELECT count(*) AS rows FROM ${relation}`);
      return { path: await this.#write(table, { kind, commit, select: `SELECT * FROM ${relation}` }), rows: count?.rows ?? 0 };
    };
    const file = await write('exact', table.current);
    return { file, seen: table.seen ? await write('seen', table.named) : null };
  }

  /**
   * Many small history files become one. Each holds its rows in order and the files follow each other, so they are joined
   * as they stream by. Road not taken: sorting, which needs memory for the whole history. @returns the files that hold it now
   */
  async merge(table: Pick<LakeTable, 'name'>, files: readonly ManifestFile[], commit: number): Promise<readonly ManifestFile[]> {
    const small = files.filter((file) => file.rows < LARGE_ROWS);
    if (small.length <= SMALL_FILES_MAX) return files;
    const first = files.indexOf(small[0] as ManifestFile);
    const list = files.slice(first).map((file) => duckLiteral(join(this.#folder, file.path)));
    const select = `SELECT * FROM read_parquet([${list.join(', ')}], union_by_name = true)`;
    const rows = files.slice(first).reduce((sum, file) => sum + file.rows, 0);
    return [...files.slice(0, first), { path: await this.#write(table, { kind: 'changes', commit, select }), rows }];
  }

  /**
   * History files without the rows behind a place: files that lie before it stay, others are written again or left out.
   * @param behind SQL condition over history rows @returns the files that hold it now
   */
  async cut(
    table: Pick<LakeTable, 'name'>,
    files: readonly ManifestFile[],
    { behind, commit }: { behind: string; commit: number },
  ): Promise<readonly ManifestFile[]> {
    const left: ManifestFile[] = [];
    for (const file of files) {
      const from = `read_parquet(${duckLiteral(join(this.#folder, file.path))})`;
      const [count] = await this.#duck.rows<{ rows: number }>(`SELECT count(*) AS rows FROM ${from} WHERE NOT (${behind})`);
      const rows = count?.rows ?? 0;
      if (rows === file.rows) left.push(file);
      else if (rows > 0) {
        const select = `SELECT * FROM ${from} WHERE NOT (${behind})`;
        left.push({ path: await this.#write(table, { kind: 'changes', commit, select }), rows });
      }
    }
    return left;
  }

  async #write(
    table: Pick<LakeTable, 'name'>,
    { kind, commit, select }: { kind: keyof typeof LEVEL; commit: number; select: string },
  ): Promise<string> {
    const folder = table.name.replaceAll('/', '_');
    await mkdir(join(this.#folder, folder), { recursive: true });
    const path = `${folder}/${kind}-${String(commit).padStart(9, '0')}-${randomUUID().slice(0, 8)}.parquet`;
    await this.#duck.run(`COPY (${select}) TO ${duckLiteral(join(this.#folder, path))} ${format(LEVEL[kind])}`);
    return path;
  }

  /** Columns that hold a value their type cannot. */
  async #lossy(table: LakeTable, relation: string): Promise<ReadonlySet<string>> {
    const lossy = table.columns.filter((column) => column.lossy);
    if (lossy.length === 0) return new Set();
    const counts = lossy.map((column, i) => {
      const text = duckIdent(column.name);
      return `count(*) FILTER (WHERE ${text} IS NOT NULL AND ${column.typed(text)} IS NULL) AS n${i}`;
    });
    const [row] = await this.#duck.rows<Record<string, number>>(`SELECT ${counts.join(', ')} FROM ${relation}`);
    return new Set(lossy.filter((_, i) => (row?.[`n${i}`] ?? 0) > 0).map((column) => column.name));
  }
}
