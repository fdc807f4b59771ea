import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Fault } from '@tributary/core';
import type { Answer } from './database.ts';
import type { ReadTable } from './gate.ts';
import { SANDBOX_BYTES, type SandboxAsk, type SandboxTold, TOO_LATE, TOO_MUCH_MEMORY } from './sandbox-words.ts';

/** Queries that run at the same time, and that wait for their turn. */
const AT_ONCE_MAX = 4;
const WAITING_MAX = 32;
/** A process that answered is kept this long for the next query: one takes a tenth of a second to start, many times that on a busy machine. */
const KEEP_MS = 30_000;
/** How much longer than its time a statement may take to obey, before its process is killed. */
const OBEY_MS = 500;
/** V8's and Node's own needs beside what DuckDB may take. The kernel refuses more where it counts data (Linux); elsewhere the process watches itself. */
const DATA_KIB = (SANDBOX_BYTES.process + 256 * 2 ** 20) / 1_024;
const COMMAND = `ulimit -c 0; ulimit -d ${DATA_KIB} 2>/dev/null; exec "$0" --max-old-space-size=192 "$@"`;
/** Answers a {@link SandboxQuery} of SQL alone. */
const QUERIES = new URL('../dist/sandbox-process.js', import.meta.url);

export interface SandboxLimits {
  /** From the question to the last row, the wait for a turn included. */
  readonly ms: number;
  readonly rows: number;
  /** Of the answer as JSON. */
  readonly bytes: number;
}

export interface SandboxQuery {
  /** What the program is asked, as JSON; of the one for queries: its SQL, and the lower-case `schema.table` names that it may read. */
  readonly question: unknown;
  /**
   * Makes a DuckDB file of the tables named; it is removed afterwards. Ends early when `signal` aborts.
   * @returns what the program is to know besides, as JSON
   */
  readonly publish: (tables: readonly ReadTable[], path: string, signal: AbortSignal) => Promise<unknown>;
  /** Ends the query, with its reason. */
  readonly signal: AbortSignal;
}

/**
 * Runs SQL that people write (a query, or whatever another program makes of it: {@link sandboxed}) where it can do no harm: in a process of its own, over a file that holds copies of the tables that it
 * names, as of one moment.
 *
 * 1. Nothing can be reached but those tables: DuckDB opens the copy read-only, without access to anything else and with its settings
 *    locked; the text is parsed, and passed on, only when it is one SELECT over known tables ({@link gate}). The process has no environment.
 * 2. Nothing waits for a query: at its time the statement is interrupted, then its process killed. More memory than one may have ends it
 *    too; DuckDB's own limit does not count a single huge value, so the kernel's and the process's own watch stand behind it.
 * 3. Errors tell names, and no values of rows and no paths.
 *
 * A copy costs about a second for a million rows of three columns (one that is not named is not copied). A second process cannot
 * open the file of a writer, which is why there is one.
 */
export class Sandbox {
  readonly #folder: string;
  readonly #limits: SandboxLimits;
  readonly #program: string;
  readonly #idle = new Map<Process, NodeJS.Timeout>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;

  /**
   * @param folder for the copies; nothing else may be in it
   * @param program a file that calls {@link sandboxed}; default: the one for queries
   */
  constructor(folder: string, limits: SandboxLimits, program: URL = QUERIES) {
    // The process has a working directory of its own.
    this.#folder = resolve(folder);
    this.#limits = limits;
    this.#program = fileURLToPath(program);
  }

  /** Removes what an earlier process left. */
  async open(): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
  }

  /**
   * Parts of an answer; the first has the columns and perhaps no rows.
   * @throws Fault `query_refused`, or what the program refuses it with; what `publish` throws; the reason of `signal`
   */
  async *query({ question, publish, signal }: SandboxQuery): AsyncGenerator<Answer> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Fault('query_refused', TOO_LATE)), this.#limits.ms);
    const deadline = performance.now() + this.#limits.ms;
    const ended = AbortSignal.any([signal, late.signal]);
    const id = randomUUID();
    const path = join(this.#folder, `${id}.duckdb`);
    let process: Process | null = null;
    try {
      await this.#turn(ended);
    } catch (error) {
      clearTimeout(timer);
      throw error;
    }
    try {
      process = this.#process();
      const tables = tablesOf(await process.ask({ question }, ended));
      const given = (await publish(tables, path, ended)) ?? null;
      ended.throwIfAborted();
      const ms = Math.max(1, deadline - performance.now());
      // It interrupts itself at its time, in its own words; when it does not, it is killed.
      clearTimeout(timer);
      const killing = setTimeout(() => late.abort(new Fault('query_refused', TOO_LATE)), ms + OBEY_MS);
      try {
        yield* this.#answer(process, { path, spillDir: join(this.#folder, id), ms, given }, ended);
      } finally {
        clearTimeout(killing);
      }
      this.#keep(process);
      process = null;
    } catch (error) {
      // One that refused is as good as new.
      if (process?.refused) {
        this.#keep(process);
        process = null;
      }
      throw error;
    } finally {
      clearTimeout(timer);
      process?.kill();
      this.#next();
      await Promise.all([path, `${path}.wal`, join(this.#folder, id)].map((one) => rm(one, { recursive: true, force: true })));
    }
  }

  close(): void {
    for (const [process, timer] of this.#idle) {
      clearTimeout(timer);
      process.kill();
    }
    this.#idle.clear();
  }

  async *#answer(process: Process, ask: SandboxAsk, ended: AbortSignal): AsyncGenerator<Answer> {
    let columns: Answer['columns'] = [];
    let rowCount = 0;
    const before = process.bytes;
    for (let told = await process.ask(ask, ended); !('done' in told); told = await process.next(ended)) {
      if ('columns' in told) yield { columns: (columns = told.columns), rows: [] };
      if (process.bytes - before > this.#limits.bytes)
        throw new Fault(
          'query_refused',
          `an answer of more than ${this.#limits.bytes / 2 ** 20} MiB: add a LIMIT, or name fewer columns`,
        );
      if (!('rows' in told)) continue;
      rowCount += told.rows.length;
      if (rowCount > this.#limits.rows) throw new Fault('query_refused', `more than ${this.#limits.rows} rows: add a LIMIT`);
      yield { columns, rows: told.rows };
    }
  }

  #process(): Process {
    for (const [process, timer] of this.#idle) {
      clearTimeout(timer);
      this.#idle.delete(process);
      if (!process.ended) return process;
    }
    return new Process(this.#folder, this.#program);
  }

  #keep(process: Process): void {
    const timer = setTimeout(() => {
      this.#idle.delete(process);
      process.kill();
    }, KEEP_MS);
    timer.unref();
    this.#idle.set(process, timer);
  }

  async #turn(ended: AbortSignal): Promise<void> {
    if (this.#running < AT_ONCE_MAX) {
      this.#running++;
      return;
    }
    if (this.#waiting.length >= WAITING_MAX) throw new Fault('query_refused', 'too many queries at once: ask again in a moment');
    await new Promise<void>((resolve, reject) => {
      const turn = () => {
        ended.removeEventListener('abort', leave);
        resolve();
      };
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(turn), 1);
        reject(ended.reason as Error);
      };
      ended.addEventListener('abort', leave, { once: true });
      this.#waiting.push(turn);
    });
  }

  /** A turn goes from hand to hand. */
  #next(): void {
    const turn = this.#waiting.shift();
    if (turn) turn();
    else this.#running--;
  }
}

function tablesOf(told: SandboxTold): ReadTable[] {
  if (!('tables' in told)) throw new Fault('query_refused', 'the query cannot be computed');
  return told.tables.map(({ columns, ...table }) => ({ ...table, columns: columns && new Set(columns) }));
}

/** A line longer than this is of no answer that is allowed. */
const LINE_BYTES_MAX = 2 ** 28;

/** One process for queries: a question in, lines out. */
class Process {
  /** Bytes that came in all. */
  bytes = 0;
  /** Has it begun with a query, beyond parsing it? */
  #computes = false;
  /** Its last question was refused in words of its own; it waits for another. */
  refused = false;
  ended = false;
  #error: Error | null = null;
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(cwd: string, program: string) {
    this.#child = spawn('/bin/sh', ['-c', COMMAND, process.execPath, program], {
      cwd,
      env: {},
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    this.#child.once('exit', () => (this.ended = true));
    this.#child.once('error', (error) => (this.#error = error));
    // One that was killed tells no more lines: that is what the asker hears.
    this.#child.stdin?.on('error', () => (this.ended = true));
    this.#lines = this.#read();
  }

  ask(ask: SandboxAsk, ended: AbortSignal): Promise<SandboxTold> {
    this.refused = false;
    this.#computes = 'path' in ask;
    this.#child.stdin?.write(`${JSON.stringify(ask)}\n`);
    return this.next(ended);
  }

  /** @throws Fault of the kind that it refuses with; `query_refused` when it dies; the reason of `ended`, after which it is of no use */
  async next(ended: AbortSignal): Promise<SandboxTold> {
    ended.throwIfAborted();
    const kill = () => this.kill();
    ended.addEventListener('abort', kill, { once: true });
    try {
      const line = await this.#lines.next();
      if (line.done) {
        ended.throwIfAborted();
        if (this.#error)
          throw new Fault('database_unreachable', 'the process for a query cannot be started', {}, { cause: this.#error });
        throw new Fault('query_refused', this.#computes ? TOO_MUCH_MEMORY : 'the query cannot be parsed');
      }
      const told = JSON.parse(line.value) as SandboxTold;
      if (!('refused' in told)) return told;
      this.refused = true;
      throw new Fault(told.kind, told.refused, told.facts);
    } finally {
      ended.removeEventListener('abort', kill);
    }
  }

  kill(): void {
    this.ended = true;
    this.#child.kill('SIGKILL');
  }

  async *#read(): AsyncGenerator<string> {
    let pieces: Buffer[] = [];
    let size = 0;
    for await (const chunk of this.#child.stdout ?? []) {
      let rest = chunk as Buffer;
      this.bytes += rest.length;
      for (let end = rest.indexOf(10); end !== -1; end = rest.indexOf(10)) {
        yield Buffer.concat([...pieces, rest.subarray(0, end)]).toString('utf8');
        pieces = [];
        size = 0;
        rest = rest.subarray(end + 1);
      }
      size += rest.length;
      if (size > LINE_BYTES_MAX) this.kill();
      pieces.push(rest);
    }
  }
}
