import { DuckDBInstance, type DuckDBConnection, type DuckDBValue } from '@duckdb/node-api';
import { describeError, Fault } from '@tributary/core';

export interface DatabaseOptions {
  /** File of the database; `:memory:` for none. */
  readonly path: string;
  readonly memoryBytes: number;
  readonly threads: number;
  /** Where it spills to. */
  readonly spillDir: string;
}

export interface Answer {
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  readonly rows: readonly Readonly<Record<string, unknown>>[];
}

/** One DuckDB file, open in this process and nowhere else. Statements run off the main thread. */
export class Database {
  readonly #instance: DuckDBInstance;

  private constructor(instance: DuckDBInstance) {
    this.#instance = instance;
  }

  /** @throws Fault `database_unreachable` when another process holds the file */
  static async open(options: DatabaseOptions): Promise<Database> {
    try {
      const instance = await DuckDBInstance.create(options.path, {
        memory_limit: `${Math.round(options.memoryBytes / 2 ** 20)}MiB`,
        threads: String(options.threads),
        temp_directory: options.spillDir,
        preserve_insertion_order: 'true',
        autoinstall_known_extensions: 'false',
        autoload_known_extensions: 'false',
      });
      return new Database(instance);
    } catch (error) {
      throw new Fault('database_unreachable', `cannot open ${options.path}: ${describeError(error)}`, {}, { cause: error });
    }
  }

  async connect(): Promise<Duck> {
    const connection = await this.#instance.connect();
    await connection.run(`SET TimeZone = 'UTC'`);
    return new Duck(connection);
  }

  close(): void {
    this.#instance.closeSync();
  }
}

/** One connection of a {@link Database}. */
export class Duck {
  readonly #connection: DuckDBConnection;

  constructor(connection: DuckDBConnection) {
    this.#connection = connection;
  }

  /** @throws Fault `database_rejected` without the statement's values */
  async run(sql: string, values?: Readonly<Record<string, DuckDBValue>> | readonly DuckDBValue[]): Promise<void> {
    try {
      await this.#connection.run(sql, values as DuckDBValue[] | undefined);
    } catch (error) {
      throw rejected(error, sql);
    }
  }

  /** Rows as plain JSON values: integers as numbers where they are exact, decimals and the rest as text. */
  async answer(sql: string, values?: readonly DuckDBValue[]): Promise<Answer> {
    try {
      const reader = await this.#connection.runAndReadAll(sql, values as DuckDBValue[] | undefined);
      const names = reader.deduplicatedColumnNames();
      const types = reader.columnTypes().map(String);
      const whole = types.map((type) => /^U?(BIGINT|HUGEINT)$/.test(type));
      const rows = reader
        .getRowsJson()
        .map((row) =>
          Object.fromEntries(
            row.map((value, c) => [names[c] as string, whole[c] && typeof value === 'string' ? exact(value) : value]),
          ),
        );
      return { columns: names.map((name, c) => ({ name, type: types[c] as string })), rows };
    } catch (error) {
      throw rejected(error, sql);
    }
  }

  async rows<Row extends object>(sql: string, values?: readonly DuckDBValue[]): Promise<Row[]> {
    return (await this.answer(sql, values)).rows as unknown as Row[];
  }

  /** Ends what runs on this connection. */
  interrupt(): void {
    this.#connection.interrupt();
  }

  close(): void {
    this.#connection.closeSync();
  }
}

function exact(text: string): number | string {
  const number = Number(text);
  return Number.isSafeInteger(number) ? number : text;
}

function rejected(error: unknown, sql: string): Fault {
  const text = describeError(error);
  if (/No space left|disk/i.test(text)) return new Fault('disk_full', `DuckDB: ${text}`, {}, { cause: error });
  return new Fault(
    'database_rejected',
    `DuckDB: ${text.split('\n')[0]}`,
    { statement: sql.replaceAll(/\s+/g, ' ').slice(0, 120) },
    { cause: error },
  );
}
