import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Database, type Duck, duckLiteral } from '@tributary/duckdb';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ManifestFile } from './manifest.ts';
import { ParquetWriter } from './parquet.ts';

const FILES = 40;
const ROWS = 15_000;

describe('merging history files', () => {
  let folder: string;
  let database: Database;
  let duck: Duck;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-parquet-'));
    // Half of what a sink has: its state and its queries need the rest.
    const options = { memoryBytes: 32 * 2 ** 20, threads: 1, spillDir: join(folder, 'spill') };
    database = await Database.open({ path: join(folder, 'state.duckdb'), ...options });
    duck = await database.connect();
  });
  afterEach(async () => {
    duck.close();
    database.close();
    await rm(folder, { recursive: true, force: true });
  });

  it('keeps every row in its order, in less memory than the history is large', async () => {
    const files: ManifestFile[] = [];
    for (let n = 0; n < FILES; n++) {
      const path = `changes-${n}.parquet`;
      await duck.run(
        `COPY (SELECT i AS _seq, '0/0' AS _lsn, 0 AS _ordinal, md5(i::VARCHAR) AS a, md5((i + 1)::VARCHAR) AS b, md5((i + 2)::VARCHAR) AS c
         FROM range(${n * ROWS}, ${(n + 1) * ROWS}) r(i)) TO ${duckLiteral(join(folder, path))} (FORMAT parquet)`,
      );
      files.push({ path, rows: ROWS });
    }
    const merged = await new ParquetWriter(duck, folder).merge({ name: 'public.t' }, files, 1);
    expect(merged.map((file) => file.rows)).toEqual([FILES * ROWS]);
    const [found] = await duck.rows<{ rows: number; misplaced: number }>(
      `SELECT count(*) AS rows, count(*) FILTER (WHERE _seq <> file_row_number) AS misplaced
       FROM read_parquet(${duckLiteral(join(folder, merged[0]?.path ?? ''))}, file_row_number = true)`,
    );
    expect(found).toEqual({ rows: FILES * ROWS, misplaced: 0 });
  });
});
