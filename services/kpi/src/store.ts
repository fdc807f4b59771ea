import { randomUUID } from 'node:crypto';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Fault } from '@tributary/core';
import { copied, Database, type Duck, duckIdent, duckLiteral, openDisposable, Turns } from '@tributary/duckdb';

const SETUP = [
  'CREATE SCHEMA IF NOT EXISTS _meta',
  'CREATE SCHEMA IF NOT EXISTS _cur',
  'CREATE SCHEMA IF NOT EXISTS _hist',
  'CREATE SCHEMA IF NOT EXISTS _seen',
  'CREATE SCHEMA IF NOT EXISTS _next',
  'CREATE SCHEMA IF NOT EXISTS _agg',
  'CREATE SCHEMA IF NOT EXISTS _val',
  `CREATE TABLE IF NOT EXISTS _meta.position (source VARCHAR, seq BIGINT, lsn VARCHAR, ordinal BIGINT, epoch VARCHAR, watermark BIGINT,
     committed_at BIGINT, tick BIGINT, floor BIGINT, complete BOOLEAN, wanted VARCHAR)`,
  `CREATE TABLE IF NOT EXISTS _meta.tables (source VARCHAR, name VARCHAR, version VARCHAR, definition VARCHAR, seen BOOLEAN, next BOOLEAN,
     complete BOOLEAN, held VARCHAR, inexact VARCHAR)`,
  `CREATE TABLE IF NOT EXISTS _meta.moments (source VARCHAR, tick BIGINT, seq BIGINT, lsn VARCHAR, place VARCHAR, watermark BIGINT)`,
  `CREATE TABLE IF NOT EXISTS _meta.kpis (name VARCHAR, version VARCHAR, stale BOOLEAN)`,
  `CREATE TABLE IF NOT EXISTS _meta.revisions (kpi VARCHAR, grain VARCHAR, bucket TIMESTAMPTZ, revision BIGINT, flagged BOOLEAN, vector VARCHAR)`,
];

/** WAL that gathers before we checkpoint, between two groups. */
const WAL_BYTES = 64 * 2 ** 20;
/** Never by itself: at random keys a checkpoint costs the same however little there is to write. */
const CHECKPOINT_BYTES = 4 * 2 ** 30;
/** A file below this is not worth copying. */
const COMPACT_BYTES_MIN = 64 * 2 ** 20;
/** Bytes a row, against what they were after the last copy, from which the file is copied anew. */
const COMPACT_GROWTH = 2.5;

export interface StoreOptions {
  readonly folder: string;
  readonly engine: string;
  readonly memoryBytes: number;
  readonly threads: number;
  readonly warn: (facts: object, message: string) => void;
}

/**
 * The DuckDB file of one engine. K5: one writer, who has {@link lock}; readers have connections of their own, see one moment,
 * and are waited for only when a compacted copy takes the file's place.
 *
 * Deleted rows leave holes that DuckDB fills badly, so a file that has grown to several times the bytes a row is copied
 * to a new one, which takes its place.
 */
export class KpiStore {
  readonly #options: StoreOptions;
  readonly path: string;
  #database: Database;
  #writer: Duck;
  readonly #turns = new Turns();
  #readers = 0;
  #closed = false;
  #drained: () => void = () => {};
  #swapping: Promise<void> | null = null;
  /** Projections that have staged something which is not committed: it lives on the writer's connection. */
  readonly staging = new Set<string>();
  /** Bytes a row after the last copy; null = not known yet. */
  #bytesPerRow: number | null = null;

  private constructor(options: StoreOptions, path: string, opened: { database: Database; writer: Duck }) {
    this.#options = options;
    this.path = path;
    this.#database = opened.database;
    this.#writer = opened.writer;
  }

  /**
   * A file that DuckDB cannot read is put aside: the state is disposable, and made anew.
   * @throws Fault `database_unreachable` when another process holds the file, `disk_full`
   */
  static async open(options: StoreOptions): Promise<KpiStore> {
    await mkdir(options.folder, { recursive: true });
    const path = join(options.folder, `${options.engine}.duckdb`);
    const aside = (facts: object) => options.warn(facts, 'the state of the KPIs cannot be read; it is put aside and made anew');
    const opened = await openDisposable(path, () => openFile(options, path), aside);
    // Only now is what lies beside it ours, and not another process's.
    await rm(`${path}.copy`, { force: true });
    await rm(exportsOf(path), { recursive: true, force: true });
    await mkdir(exportsOf(path));
    return new KpiStore(options, path, opened);
  }

  /** Aborts when DuckDB gave the file up; it is then to be opened anew. */
  get invalid(): AbortSignal {
    return this.#database.invalid;
  }

  /** The one connection that writes; only for who has the lock. */
  get writer(): Duck {
    return this.#writer;
  }

  /** A file of its own for an answer; whoever writes it removes it. */
  exportPath(): string {
    return join(exportsOf(this.path), randomUUID());
  }

  /** A copy is about to take the file's place, and waits for readers. */
  get swapping(): boolean {
    return this.#swapping !== null;
  }

  /** Waits for its turn to write. @returns the function that ends it */
  lock(): Promise<() => void> {
    return this.#turns.take();
  }

  /** Reads one moment. `work` is given a connection inside a read-only transaction. */
  read<T>(work: (duck: Duck) => Promise<T>): Promise<T> {
    return this.#reading(async () => {
      const duck = await this.#database.connect();
      try {
        await duck.run('BEGIN TRANSACTION READ ONLY');
        return await work(duck);
      } finally {
        duck.close();
      }
    });
  }

  /** Reads one moment, and writes of it to a new file at `path`, which has the name `copy`. Ends early when `signal` aborts. */
  copy<T>(
    to: { readonly path: string; readonly signal: AbortSignal },
    work: (duck: Duck, copy: string) => Promise<T>,
  ): Promise<T> {
    return this.#reading(() => copied((cut) => this.#database.connect(cut), to, work));
  }

  /** @throws Fault `not_complete` when it is closed: whoever comes too late for this engine may ask the next one */
  async #reading<T>(work: () => Promise<T>): Promise<T> {
    while (this.#swapping) await this.#swapping;
    if (this.#closed) throw new Fault('not_complete', `engine ${this.#options.engine} ended meanwhile`);
    this.#readers++;
    try {
      return await work();
    } finally {
      if (--this.#readers === 0) this.#drained();
    }
  }

  /** Checkpoints, and copies the file, when it is time. The caller has the lock, and no transaction is open. */
  async maintain(): Promise<void> {
    const wal = await sizeOf(`${this.path}.wal`);
    if (wal < WAL_BYTES) return;
    await this.#writer.run('CHECKPOINT');
    const bytes = await sizeOf(this.path);
    if (bytes < COMPACT_BYTES_MIN || this.staging.size > 0) return;
    const rows = await this.#rows();
    this.#bytesPerRow ??= bytes / rows;
    if (bytes / rows > this.#bytesPerRow * COMPACT_GROWTH) await this.compact();
  }

  /** Copies the file to a new one and puts that in its place. The caller has the lock, and no transaction is open. */
  async compact(): Promise<void> {
    const copy = `${this.path}.copy`;
    await rm(copy, { force: true });
    const [name] = await this.#writer.rows<{ name: string }>('SELECT current_database() AS name');
    await this.#writer.run(`ATTACH ${duckLiteral(copy)} AS _copy`);
    await this.#writer.run(`COPY FROM DATABASE ${duckIdent(name?.name ?? '')} TO _copy`);
    await this.#writer.run('CHECKPOINT _copy');
    await this.#writer.run('DETACH _copy');
    await this.#writer.run('CHECKPOINT');
    let swapped: () => void = () => {};
    this.#swapping = new Promise((resolve) => (swapped = resolve));
    try {
      if (this.#readers > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
      this.#writer.close();
      this.#database.close();
      await rename(copy, this.path);
      await rm(`${this.path}.wal`, { force: true });
      const { database, writer } = await openFile(this.#options, this.path);
      this.#database = database;
      this.#writer = writer;
      this.#bytesPerRow = (await sizeOf(this.path)) / (await this.#rows());
    } finally {
      this.#swapping = null;
      swapped();
    }
  }

  async close(): Promise<void> {
    const release = await this.lock();
    this.#closed = true;
    if (this.#readers > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    this.#writer.close();
    this.#database.close();
    release();
  }

  async #rows(): Promise<number> {
    const [row] = await this.#writer.rows<{ n: number }>(
      'SELECT coalesce(sum(estimated_size), 0)::BIGINT AS n FROM duckdb_tables()',
    );
    return Math.max(1, row?.n ?? 1);
  }
}

/** What a crash leaves there is removed at the next opening. */
function exportsOf(path: string): string {
  return `${path}.exports`;
}

async function openFile(options: StoreOptions, path: string): Promise<{ database: Database; writer: Duck }> {
  const database = await Database.open({
    path,
    memoryBytes: options.memoryBytes,
    threads: options.threads,
    spillDir: join(options.folder, `${options.engine}.spill`),
    checkpointBytes: CHECKPOINT_BYTES,
    // As KPIs are defined.
    nullOverZero: true,
  });
  try {
    const writer = await database.connect();
    for (const statement of SETUP) await writer.run(statement);
    return { database, writer };
  } catch (error) {
    database.close();
    throw error;
  }
}

async function sizeOf(path: string): Promise<number> {
  return stat(path).then(
    (found) => found.size,
    () => 0,
  );
}
