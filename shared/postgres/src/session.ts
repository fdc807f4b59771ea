import { createHash } from 'node:crypto';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import { Fault, firstWords } from '@tributary/core';
import { type ConnectionConfig, describeConnection } from './connection.ts';
import { databaseFault } from './fault.ts';

export interface SessionOptions {
  /** Shown in pg_stat_activity. */
  readonly name: string;
  /** SET at the beginning. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly connectTimeoutMs?: number;
  /** Cuts the connection when it aborts, in the middle of whatever it does: the server rolls back. Everything throws its reason. */
  readonly cut?: AbortSignal;
}

/** Every session speaks the same dialect, so that the text of a value never depends on a server's or role's settings. */
const DIALECT: Readonly<Record<string, string>> = {
  client_encoding: 'UTF8',
  datestyle: 'ISO, MDY',
  intervalstyle: 'postgres',
  extra_float_digits: '1',
  bytea_output: 'hex',
  timezone: 'UTC',
  lc_monetary: 'C',
  standard_conforming_strings: 'on',
  search_path: 'pg_catalog',
  statement_timeout: '0',
  lock_timeout: '0',
  idle_in_transaction_session_timeout: '0',
};

/** Where rows go on their way into a table. */
export interface CopyInto {
  /** Resolves when more may be written. */
  write(bytes: Uint8Array | string): Promise<void>;
  /** @returns rows copied */
  end(): Promise<number>;
  /** Gives up: the statement fails and nothing of it stays. */
  abort(): Promise<void>;
}

/** PostgreSQL cuts longer names, which would make two of ours the same. */
const NAME_BYTES = 63;

/** What a connection calls itself: `tributary <name>`; different for different names. */
export function applicationName(name: string): string {
  const full = `tributary ${name}`;
  if (full.length <= NAME_BYTES) return full;
  return `${full.slice(0, NAME_BYTES - 9)}~${createHash('sha256').update(name).digest('hex').slice(0, 8)}`;
}

/** One connection to one database. Every error comes out as a Fault. */
export class Session {
  readonly #client: pg.Client;
  readonly #where: string;
  #broken: Error | null = null;
  readonly #uncut: () => void;
  #closed = false;
  #turn: Promise<void> = Promise.resolve();

  private constructor(client: pg.Client, where: string, cut?: AbortSignal) {
    this.#client = client;
    this.#where = where;
    const react = () => {
      this.#broken ??= cut?.reason as Error;
      // Road not taken: `end`, which says goodbye first, and does nothing while it connects.
      (client as unknown as { connection: { stream: Socket } }).connection.stream.destroy();
    };
    cut?.addEventListener('abort', react, { once: true });
    this.#uncut = () => cut?.removeEventListener('abort', react);
    client.on('error', (error) => {
      this.#broken ??= databaseFault(error, `connection to ${where} broke`);
    });
  }

  /** @throws Fault `database_unreachable` */
  static async open(connection: ConnectionConfig, options: SessionOptions): Promise<Session> {
    const where = describeConnection(connection);
    const client = new pg.Client({
      ...connection,
      application_name: applicationName(options.name),
      keepAlive: true,
      connectionTimeoutMillis: options.connectTimeoutMs ?? 10_000,
    });
    const session = new Session(client, where, options.cut);
    try {
      options.cut?.throwIfAborted();
      await client.connect();
      const settings = { ...DIALECT, ...options.settings };
      await client.query(
        `SELECT ${Object.keys(settings)
          .map((_, i) => `set_config($${2 * i + 1}, $${2 * i + 2}, false)`)
          .join(', ')}`,
        Object.entries(settings).flat(),
      );
      return session;
    } catch (error) {
      await session.close();
      options.cut?.throwIfAborted();
      throw databaseFault(error, `cannot connect to ${where}`);
    }
  }

  /** Rows of one statement, values as pg gives them (int8 and numeric as text). */
  async rows<Row extends object>(sql: string, values: readonly unknown[] = []): Promise<Row[]> {
    const result = await this.#run(() => this.#client.query<Row>(sql, values as unknown[]), sql);
    return result.rows;
  }

  /** The first row. @throws Fault `database_rejected` when there is none */
  async row<Row extends object>(sql: string, values: readonly unknown[] = []): Promise<Row> {
    const [row] = await this.rows<Row>(sql, values);
    if (!row) throw new Fault('database_rejected', `${this.#where} answered no row to: ${firstWords(sql)}`);
    return row;
  }

  /** @returns rows affected. Without values `sql` may hold several statements. */
  async run(sql: string, values?: readonly unknown[]): Promise<number> {
    const result = await this.#run(() => (values ? this.#client.query(sql, values as unknown[]) : this.#client.query(sql)), sql);
    return result.rowCount ?? 0;
  }

  /** Rows of a statement that is prepared once per session under `name`: for what is asked again and again. */
  async preparedRows<Row extends object>(name: string, sql: string, values: readonly unknown[]): Promise<Row[]> {
    const result = await this.#run(() => this.#client.query<Row>({ name, text: sql, values: values as unknown[] }), sql);
    return result.rows;
  }

  /** A statement that is prepared once per session under `name`. @returns rows affected */
  async prepared(name: string, sql: string, values: readonly unknown[]): Promise<number> {
    const result = await this.#run(() => this.#client.query({ name, text: sql, values: values as unknown[] }), sql);
    return result.rowCount ?? 0;
  }

  /** Bytes of a `COPY … TO STDOUT`, in the pieces in which they came; returns the number of rows. */
  async *copyOut(sql: string): AsyncGenerator<Buffer, number, undefined> {
    this.#check();
    const stream = this.#client.query(copyTo(sql));
    try {
      for await (const piece of stream) yield piece as Buffer;
      return (stream as unknown as { rowCount: number }).rowCount;
    } catch (error) {
      throw this.#broken ?? databaseFault(error, `${firstWords(sql)} on ${this.#where}`);
    }
  }

  /** Starts a `COPY … FROM STDIN`. No other statement may run until it has ended. */
  copyIn(sql: string): CopyInto {
    this.#check();
    const stream = this.#client.query(copyFrom(sql));
    let failed: unknown = null;
    const finished = new Promise<void>((resolve) => {
      stream.once('finish', resolve);
      stream.once('error', (error) => {
        failed = error;
        resolve();
      });
    });
    const check = () => {
      if (failed) throw this.#broken ?? databaseFault(failed, `${firstWords(sql)} on ${this.#where}`);
    };
    return {
      async write(bytes) {
        check();
        if (!stream.write(bytes)) await Promise.race([once(stream, 'drain').catch(() => {}), finished]);
        check();
      },
      async end() {
        stream.end();
        await finished;
        check();
        return stream.rowCount ?? 0;
      },
      async abort() {
        stream.destroy(new Error('given up'));
        await finished;
      },
    };
  }

  /** Runs `work` in one transaction; rolls back when it throws. */
  async transaction<T>(mode: string, work: () => Promise<T>): Promise<T> {
    await this.run(`BEGIN ${mode}`);
    try {
      const result = await work();
      await this.run('COMMIT');
      return result;
    } catch (error) {
      if (!this.#broken) await this.run('ROLLBACK').catch(() => {});
      throw error;
    }
  }

  /**
   * Ends what others have open under this session's name, and waits until it is gone: for whoever has the right to work
   * under a name, and must not wait for locks of a predecessor that was stopped or cut off in the middle of a statement.
   */
  async evictNamesakes(): Promise<void> {
    await this.rows(
      `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE application_name = current_setting('application_name') AND datname = current_database()
          AND usename = current_user AND pid <> pg_backend_pid()`,
    );
  }

  get broken(): boolean {
    return this.#broken !== null;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#uncut();
    await this.#client.end().catch(() => {});
  }

  #check(): void {
    if (this.#broken) throw this.#broken;
    if (this.#closed) throw new Fault('database_unreachable', `the session with ${this.#where} was closed`);
  }

  /** Statements wait for their turn here: the client's own queue is deprecated. */
  #run<T>(work: () => Promise<T>, sql: string): Promise<T> {
    const turn = this.#turn.then(() => this.#now(work, sql));
    this.#turn = turn.then(
      () => {},
      () => {},
    );
    return turn;
  }

  async #now<T>(work: () => Promise<T>, sql: string): Promise<T> {
    this.#check();
    try {
      return await work();
    } catch (error) {
      throw this.#broken ?? databaseFault(error, `${firstWords(sql)} on ${this.#where}`);
    }
  }
}
