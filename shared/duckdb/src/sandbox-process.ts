import { createInterface } from 'node:readline';
import { setPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError, Fault, LIMITS } from '@tributary/core';
import { Database } from './database.ts';
import { gate } from './gate.ts';
import { SANDBOX_BYTES, type SandboxAsk, type SandboxTold, toldOf } from './sandbox-words.ts';

/**
 * The process that {@link Sandbox} runs queries in, one after another: a line of JSON asks, lines answer. First a query is parsed, and the
 * tables told that it reads; then it runs over a file that holds them and nothing else.
 * It ends with its parent, and at once when it grows beyond what it may have: what is not counted by DuckDB is counted here.
 */
const WATCH_MS = 10;
const LOCK_MS = 10;
/** Capture and sinks go first. */
const NICE = 5;

const DUCK = { memoryBytes: SANDBOX_BYTES.duck, threads: 1, sealed: { spillBytes: SANDBOX_BYTES.spill } } as const;

function tell(told: SandboxTold): Promise<void> {
  return new Promise((resolve) => {
    if (process.stdout.write(`${JSON.stringify(told)}\n`)) resolve();
    else process.stdout.once('drain', resolve);
  });
}

async function parse(database: Database, { sql, known }: Extract<SandboxAsk, { sql: string }>): Promise<void> {
  const duck = await database.connect();
  try {
    const tables = await gate(duck, sql, new Set(known));
    await tell({ tables: tables.map(({ columns, ...table }) => ({ ...table, columns: columns && [...columns] })) });
  } finally {
    duck.close();
  }
}

async function compute(sql: string, { path, spillDir, ms }: Extract<SandboxAsk, { path: string }>): Promise<void> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error('Interrupt Error: late')), ms);
  let database: Database | null = null;
  try {
    database = await opened(path, { spillDir, late: late.signal });
    const duck = await database.connect(late.signal);
    let told = false;
    for await (const { columns, rows } of duck.parts(sql)) {
      if (!told) await tell({ columns });
      told = true;
      for (let at = 0; at < rows.length; at += LIMITS.answerRows) await tell({ rows: rows.slice(at, at + LIMITS.answerRows) });
      late.signal.throwIfAborted();
    }
    duck.close();
    await tell({ done: true });
  } finally {
    clearTimeout(timer);
    database?.close();
  }
}

/** A writer that let go of a file closes it when the last of its statements ends that looked at all files there are. */
async function opened(path: string, { spillDir, late }: { spillDir: string; late: AbortSignal }): Promise<Database> {
  for (;;) {
    try {
      return await Database.open({ ...DUCK, path, spillDir });
    } catch (error) {
      late.throwIfAborted();
      if (!describeError(error).includes('Conflicting lock')) throw error;
      await sleep(LOCK_MS);
    }
  }
}

/** What this code refuses is told as it is; of DuckDB's words, what may be. */
function refusalOf(error: unknown): string {
  const text = describeError(error);
  return error instanceof Fault && error.kind === 'query_refused' && !/^[A-Za-z ]+ Error:/.test(text) ? text : toldOf(text);
}

async function main(): Promise<void> {
  setPriority(NICE);
  const watch = setInterval(() => {
    if (process.memoryUsage.rss() > SANDBOX_BYTES.process) process.kill(process.pid, 'SIGKILL');
  }, WATCH_MS);
  const parser = await Database.open({ ...DUCK, path: ':memory:', spillDir: '' });
  let asked = '';
  process.stdin.once('close', () => process.kill(process.pid, 'SIGKILL'));
  for await (const line of createInterface({ input: process.stdin })) {
    const ask = JSON.parse(line) as SandboxAsk;
    try {
      if ('sql' in ask) {
        asked = ask.sql;
        await parse(parser, ask);
      } else await compute(asked, ask);
    } catch (error) {
      await tell({ refused: refusalOf(error) });
    }
  }
  clearInterval(watch);
}

main().catch(() => process.kill(process.pid, 'SIGKILL'));
