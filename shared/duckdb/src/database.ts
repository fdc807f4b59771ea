import {
  DuckDBDataChunk,
  DuckDBInstance,
  type DuckDBConnection,
  type DuckDBPreparedStatement,
  type DuckDBType,
  type DuckDBValue,
  type Json,
} from '@duckdb/node-api';
import { describeError, Fault, firstWords } from '@tributary/core';
import { APPENDED, type AppendColumns } from './append.ts';

export interface DatabaseOptions {
  /** File of the database; `:memory:` for none. */
  readonly path: string;
  readonly memoryBytes: number;
  readonly threads: number;
  /** Where it spills to. */
  readonly spillDir: string;
  /**
   * Size of a block of a new file, a power of two from 16 KiB to DuckDB's own 256 KiB. What a transaction writes to a table begins with
   * 16 or 32 KiB a column, and DuckDB (1.5) spills nothing that is smaller than a block: with 256 KiB a transaction that writes to
   * many tables needs about 1 MiB for 30 of their columns until its end, whatever the limit.
   */
  readonly blockBytes?: number;
  /**
   * WAL that may gather before a commit checkpoints by itself; default: DuckDB's 16 MiB. Rows written at random places make
   * each of those ten times as dear as one large one: then set it high, and checkpoint when there is time.
   */
  readonly checkpointBytes?: number;
  /**
   * Whether closing waits for a checkpoint: seconds on a busy machine, during which this thread stands still. Default: yes. Without
   * it the next opening reads the WAL, as after a crash.
   */
  readonly checkpointAtClose?: boolean;
  /** Whether a quotient by zero is NULL instead of infinity. */
  readonly nullOverZero?: boolean;
  /** For SQL that is not ours: the file is read only, nothing outside of it can be reached, and no setting can be changed. */
  readonly sealed?: { readonly spillBytes: number };
}

export interface Answer {
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  readonly rows: readonly Readonly<Record<string, unknown>>[];
}

/** What DuckDB says of a file that was cut short or overwritten. */
const UNREADABLE = /Could not read enough bytes|not a valid DuckDB database file|Corrupt database file/;

/** One DuckDB file, open in this process and nowhere else. Statements run off the main thread. */
export class Database {
  readonly #instance: DuckDBInstance;
  readonly #sealed: boolean;
  readonly #invalid = new AbortController();

  private constructor(instance: DuckDBInstance, sealed: boolean) {
    this.#instance = instance;
    this.#sealed = sealed;
  }

  /** @throws Fault `database_unreachable` when another process holds the file; with the fact `unreadable` when what it holds is no whole database */
  static async open(options: DatabaseOptions): Promise<Database> {
    try {
      const instance = await DuckDBInstance.create(options.path, {
        memory_limit: `${Math.round(options.memoryBytes / 2 ** 20)}MiB`,
        threads: String(options.threads),
        temp_directory: options.spillDir,
        preserve_insertion_order: 'true',
        // What a statement is done with goes back to the machine, instead of waiting for the next one.
        allocator_flush_threshold: '1MiB',
        allocator_bulk_deallocation_flush_threshold: '1MiB',
        autoinstall_known_extensions: 'false',
        autoload_known_extensions: 'false',
        ...(options.sealed && {
          ...(options.path === ':memory:' ? {} : { access_mode: 'READ_ONLY' }),
          enable_external_access: 'false',
          allow_community_extensions: 'false',
          max_temp_directory_size: `${Math.round(options.sealed.spillBytes / 2 ** 20)}MiB`,
        }),
        ...(options.nullOverZero && { ieee_floating_point_ops: 'false' }),
        ...(options.blockBytes === undefined ? {} : { default_block_size: String(options.blockBytes) }),
        ...(options.checkpointBytes === undefined ? {} : { checkpoint_threshold: `${options.checkpointBytes}B` }),
      });
      if (options.checkpointAtClose === false) await leaveWal(instance);
      if (options.sealed) await lockSettings(instance);
      return new Database(instance, options.sealed !== undefined);
    } catch (error) {
      const text = describeError(error);
      const unreadable = UNREADABLE.test(text);
      throw new Fault('database_unreachable', `cannot open ${options.path}: ${text}`, { unreadable }, { cause: error });
    }
  }

  /**
   * Aborts when DuckDB gave this database up, with the fault as its reason: a checkpoint that the disk had no room for, for
   * instance. Every statement fails from then on, until it is closed and opened again; nothing committed is lost.
   */
  get invalid(): AbortSignal {
    return this.#invalid.signal;
  }

  /** @param cut see {@link Duck} @throws Fault as {@link Duck.run} */
  async connect(cut?: AbortSignal): Promise<Duck> {
    const duck = new Duck(await this.#instance.connect(), (fault) => this.#invalid.abort(fault), cut);
    try {
      if (!this.#sealed) await duck.run(`SET TimeZone = 'UTC'`);
      return duck;
    } catch (error) {
      duck.close();
      throw error;
    }
  }

  close(): void {
    this.#instance.closeSync();
  }
}

/** What DuckDB takes at once. */
const CHUNK_ROWS = 2_048;
const INTERRUPT_AGAIN_MS = 20;

async function lockSettings(instance: DuckDBInstance): Promise<void> {
  const connection = await instance.connect();
  // Days and hours are counted in UTC, here too; later nobody can set it.
  await connection.run(`SET GLOBAL TimeZone = 'UTC'`);
  await connection.run('SET lock_configuration = true');
  connection.closeSync();
}

async function leaveWal(instance: DuckDBInstance): Promise<void> {
  const connection = await instance.connect();
  await connection.run('PRAGMA disable_checkpoint_on_shutdown');
  connection.closeSync();
}

/** One connection of a {@link Database}. */
export class Duck {
  readonly #connection: DuckDBConnection;
  readonly #invalidated: (fault: Fault) => void;
  readonly #cut: AbortSignal | undefined;
  /** Statements that run and may be ended at any moment. */
  #running = 0;

  /**
   * @param invalidated told when the whole database fails from now on
   * @param cut when it aborts, the statement that runs is ended (a COMMIT is not: it takes no time), and every later one but
   *   ROLLBACK is refused; both throw its reason
   */
  constructor(connection: DuckDBConnection, invalidated: (fault: Fault) => void, cut?: AbortSignal) {
    this.#connection = connection;
    this.#invalidated = invalidated;
    this.#cut = cut;
    cut?.addEventListener('abort', this.#interruptUntilIdle);
  }

  /** @throws Fault `database_rejected`, without any value of a row or of the statement */
  async run(sql: string, values?: Readonly<Record<string, DuckDBValue>> | readonly DuckDBValue[]): Promise<void> {
    const work = () => this.#connection.run(sql, values as DuckDBValue[] | undefined);
    try {
      if (sql === 'ROLLBACK') await work();
      else if (sql === 'COMMIT') {
        this.#cut?.throwIfAborted();
        await work();
      } else await this.#unlessCut(work);
    } catch (error) {
      throw this.#failed(error, sql, (one) => rejected(one, sql));
    }
  }

  async #unlessCut<T>(work: () => Promise<T>): Promise<T> {
    this.#cut?.throwIfAborted();
    this.#running++;
    try {
      return await work();
    } catch (error) {
      this.#cut?.throwIfAborted();
      throw error;
    } finally {
      this.#running--;
    }
  }

  /** A request that comes before DuckDB has begun with the statement is forgotten: so it is repeated. */
  readonly #interruptUntilIdle = (): void => {
    if (this.#running === 0) return;
    this.#connection.interrupt();
    setTimeout(this.#interruptUntilIdle, INTERRUPT_AGAIN_MS);
  };

  #failed(error: unknown, sql: string, refusal: (error: unknown) => Fault): unknown {
    if (this.#cut?.aborted && error === this.#cut.reason) return error;
    if (firstLine(error).kind !== FATAL) return refusal(error);
    const fault = rejected(error, sql);
    this.#invalidated(fault);
    return fault;
  }

  /** Rows as plain JSON values: integers as numbers where they are exact, decimals and the rest as text. */
  answer(sql: string, values?: readonly DuckDBValue[]): Promise<Answer> {
    return this.#answer(sql, values, (error) => rejected(error, sql));
  }

  /** The same for whoever may see rows and wrote the statement: told in DuckDB's own words. @throws Fault `query_refused` */
  query(sql: string, values: readonly DuckDBValue[] = []): Promise<Answer> {
    return this.#answer(sql, values, (error) => new Fault('query_refused', firstLine(error).text));
  }

  /** The same in parts of 2,048 rows at most, the first perhaps without any, while DuckDB computes. @throws Fault as {@link query} */
  async *parts(sql: string): AsyncGenerator<Answer> {
    try {
      const result = await this.#unlessCut(() => this.#connection.stream(sql));
      const { columns, rowsOf } = shapeOf(result.deduplicatedColumnNames(), result.columnTypes());
      yield { columns, rows: [] };
      for await (const rows of result.yieldRowsJson()) yield { columns, rows: rowsOf(rows) };
    } catch (error) {
      throw this.#failed(error, sql, (one) => new Fault('query_refused', firstLine(one).text));
    }
  }

  async #answer(sql: string, values: readonly DuckDBValue[] | undefined, refusal: (error: unknown) => Fault): Promise<Answer> {
    try {
      const reader = await this.#unlessCut(() => this.#connection.runAndReadAll(sql, values as DuckDBValue[] | undefined));
      const { columns, rowsOf } = shapeOf(reader.deduplicatedColumnNames(), reader.columnTypes());
      return { columns, rows: rowsOf(reader.getRowsJson()) };
    } catch (error) {
      throw this.#failed(error, sql, refusal);
    }
  }

  /** A statement that is planned once and run often. @throws Fault as {@link run} */
  async prepare(sql: string): Promise<Prepared> {
    try {
      return new Prepared(await this.#connection.prepare(sql), (error) => this.#failed(error, sql, (one) => rejected(one, sql)));
    } catch (error) {
      throw this.#failed(error, sql, (one) => rejected(one, sql));
    }
  }

  async rows<Row extends object>(sql: string, values?: readonly DuckDBValue[]): Promise<Row[]> {
    return (await this.answer(sql, values)).rows as unknown as Row[];
  }

  /**
   * All values column by column, in DuckDB's own types: BIGINT and UBIGINT as bigint. About 0.3 µs a cell, a quarter of what {@link rows} costs.
   * @throws Fault as {@link run}
   */
  async columns(sql: string, values?: readonly DuckDBValue[]): Promise<Readonly<Record<string, readonly DuckDBValue[]>>> {
    try {
      const reader = await this.#unlessCut(() => this.#connection.runAndReadAll(sql, values as DuckDBValue[] | undefined));
      const found = reader.getColumnsObject();
      return Object.fromEntries(reader.deduplicatedColumnNames().map((name) => [name, found[name] ?? []]));
    } catch (error) {
      throw this.#failed(error, sql, (one) => rejected(one, sql));
    }
  }

  /**
   * Adds rows to a table, column by column, in the transaction of this connection. About 1 µs a cell.
   * @param types every column of the table, in its order
   * @param columns values of equal number
   */
  async append<Types extends AppendColumns>(
    table: string,
    types: Types,
    columns: Readonly<Record<keyof Types, readonly (string | number | bigint | boolean | null)[]>>,
  ): Promise<void> {
    const names = Object.keys(types);
    const rows = columns[names[0] as keyof Types]?.length ?? 0;
    if (rows === 0) return;
    try {
      this.#cut?.throwIfAborted();
      const appender = await this.#connection.createAppender(table);
      const chunkTypes = names.map((name) => APPENDED[types[name] as keyof typeof APPENDED]);
      for (let from = 0; from < rows; from += CHUNK_ROWS) {
        const chunk = DuckDBDataChunk.create(chunkTypes);
        chunk.setColumns(names.map((name) => columns[name as keyof Types].slice(from, from + CHUNK_ROWS)));
        appender.appendDataChunk(chunk);
      }
      appender.closeSync();
    } catch (error) {
      throw this.#failed(error, `append to ${table}`, (one) => rejected(one, `append to ${table}`));
    }
  }

  /** Ends what runs on this connection. */
  interrupt(): void {
    this.#connection.interrupt();
  }

  close(): void {
    this.#cut?.removeEventListener('abort', this.#interruptUntilIdle);
    this.#connection.closeSync();
  }
}

/** A statement of a {@link Duck}, planned. */
export class Prepared {
  readonly #statement: DuckDBPreparedStatement;
  readonly #failed: (error: unknown) => unknown;

  constructor(statement: DuckDBPreparedStatement, failed: (error: unknown) => unknown) {
    this.#statement = statement;
    this.#failed = failed;
  }

  /** The first row, value by value, in DuckDB's own types. @throws Fault `database_rejected`, without any value of a row */
  async first(values: Readonly<Record<string, DuckDBValue>>): Promise<readonly DuckDBValue[]> {
    try {
      this.#statement.bind(values as Record<string, DuckDBValue>);
      return (await this.#statement.runAndReadAll()).getRows()[0] ?? [];
    } catch (error) {
      throw this.#failed(error);
    }
  }

  close(): void {
    this.#statement.destroySync();
  }
}

/** What rows of an answer are made of: from lists of JSON values to objects. */
function shapeOf(names: readonly string[], columnTypes: readonly DuckDBType[]) {
  const types = columnTypes.map(String);
  const whole = types.map((type) => /^U?(BIGINT|HUGEINT)$/.test(type));
  return {
    columns: names.map((name, c) => ({ name, type: types[c] as string })),
    rowsOf: (rows: readonly (readonly Json[])[]): Answer['rows'] =>
      rows.map((row) =>
        Object.fromEntries(
          row.map((value, c) => [names[c] as string, whole[c] && typeof value === 'string' ? exact(value) : value]),
        ),
      ),
  };
}

function exact(text: string): number | string {
  const number = Number(text);
  return Number.isSafeInteger(number) ? number : text;
}

/** Kinds of error whose text speaks of names, files and limits. Every other one may quote a row value, and is not shown. */
const SPEAKS_OF_NAMES = /^(Binder|Catalog|Connection|IO|Interrupt|Out of Memory|Parser|Permission|TransactionContext) Error$/i;

/** What ends a database until it is opened again; the cause stands in a later line of the text. */
const FATAL = 'FATAL Error';
/** ENOSPC, and EFBIG for a process whose files may not grow further. */
const NO_ROOM = /No space left on device|File too large|max_temp_directory_size/;

function rejected(error: unknown, sql: string): Fault {
  const { kind, text } = firstLine(error);
  const named = SPEAKS_OF_NAMES.test(kind);
  if (named && NO_ROOM.test(text)) return new Fault('disk_full', `DuckDB: ${text}`);
  if (kind === FATAL && NO_ROOM.test(describeError(error)))
    return new Fault('disk_full', 'DuckDB had no room for its checkpoint and gave the database up; it is opened again');
  if (kind === 'Out of Memory Error') return new Fault('memory_full', `DuckDB: ${text}`, { statement: firstWords(sql) });
  return new Fault('database_rejected', `DuckDB: ${named ? text : `${kind || 'Error'} (its text may quote a row)`}`, {
    statement: firstWords(sql),
  });
}

function firstLine(error: unknown): { kind: string; text: string } {
  const text = describeError(error).split('\n')[0] ?? '';
  return { kind: /^([A-Za-z ]+ Error):/.exec(text)?.[1] ?? '', text };
}
