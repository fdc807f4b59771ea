import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Database, type Duck, openDisposable, Turns } from '@tributary/duckdb';

const SETUP = [
  'CREATE SCHEMA IF NOT EXISTS _meta',
  'CREATE SCHEMA IF NOT EXISTS _current',
  'CREATE SCHEMA IF NOT EXISTS _history',
  'CREATE SCHEMA IF NOT EXISTS _seen',
  `CREATE TABLE IF NOT EXISTS _meta.position (source VARCHAR PRIMARY KEY, seq BIGINT, lsn VARCHAR, ordinal BIGINT, watermark BIGINT, lake_commit BIGINT)`,
  `ALTER TABLE _meta.position ADD COLUMN IF NOT EXISTS lake_id VARCHAR`,
  `ALTER TABLE _meta.position ADD COLUMN IF NOT EXISTS ahead VARCHAR`,
  `ALTER TABLE _meta.position ADD COLUMN IF NOT EXISTS epoch VARCHAR`,
  `CREATE TABLE IF NOT EXISTS _meta.tables (source VARCHAR, name VARCHAR, version VARCHAR, definition VARCHAR, seen BOOLEAN, view_schema VARCHAR, view_name VARCHAR)`,
  `ALTER TABLE _meta.tables ADD COLUMN IF NOT EXISTS dirty BOOLEAN`,
  // How far a table has come that a replay from the middle keeps as it is.
  'ALTER TABLE _meta.tables ADD COLUMN IF NOT EXISTS held VARCHAR',
];

/** Memory DuckDB may use inside a sink worker; beyond it spills to disk. */
const MEMORY_BYTES = 64 * 2 ** 20;
/** A transaction that cannot be written with that, because DuckDB does not spill everything, may have more: up to this. */
const MEMORY_BYTES_MAX = 2 ** 30;
/** A transaction of the source, and so one of the state, may write to all tables there are. */
const BLOCK_BYTES = 2 ** 14;

/** The state of one lake sink: one DuckDB file for all its sources, written by one of them at a time, read by anyone. */
export class LakeStore {
  readonly database: Database;
  #memoryBytes = MEMORY_BYTES;
  readonly #turns = new Turns();

  private constructor(database: Database) {
    this.database = database;
  }

  /**
   * A file that DuckDB cannot read is put aside: the state is a cache of the lake, and is loaded from it anew.
   * @param warn told of that
   * @throws Fault `database_unreachable` when another process holds the file, `disk_full`
   */
  static async open(folder: string, sink: string, warn: (facts: object, message: string) => void): Promise<LakeStore> {
    await mkdir(folder, { recursive: true });
    const path = join(folder, `${sink}.duckdb`);
    const spillDir = join(folder, `${sink}.spill`);
    const options = { path, memoryBytes: MEMORY_BYTES, blockBytes: BLOCK_BYTES, threads: 1, spillDir, checkpointAtClose: false };
    const aside = (facts: object) => warn(facts, 'the state of the lake cannot be read; it is put aside and loaded anew');
    const database = await openDisposable(path, () => Database.open(options), aside);
    try {
      const duck = await database.connect();
      for (const statement of SETUP) await duck.run(statement);
      duck.close();
    } catch (error) {
      database.close();
      throw error;
    }
    return new LakeStore(database);
  }

  connect(cut?: AbortSignal): Promise<Duck> {
    return this.database.connect(cut);
  }

  /** Waits for its turn to write. @returns the function that ends it */
  lock(): Promise<() => void> {
    return this.#turns.take();
  }

  /** Twice the memory, for what did not get through with what it had. @returns how much it is now; null when it may not be more */
  async grow(): Promise<number | null> {
    if (this.#memoryBytes >= MEMORY_BYTES_MAX) return null;
    await this.#limit(this.#memoryBytes * 2);
    return this.#memoryBytes;
  }

  /** Back to what a lake has normally. */
  async shrink(): Promise<void> {
    if (this.#memoryBytes > MEMORY_BYTES) await this.#limit(MEMORY_BYTES);
  }

  async #limit(bytes: number): Promise<void> {
    const duck = await this.database.connect();
    try {
      await duck.run(`SET memory_limit = '${bytes / 2 ** 20}MiB'`);
      this.#memoryBytes = bytes;
    } finally {
      duck.close();
    }
  }

  close(): void {
    this.database.close();
  }
}
