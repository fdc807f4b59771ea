import { createInterface } from 'node:readline';
import { setPriority } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError, Fault, type FaultKind, LIMITS } from '@tributary/core';
import { type Answer, Database, type Duck } from './database.ts';
import type { ReadTable } from './gate.ts';
import { SANDBOX_BYTES, type SandboxAsk, type SandboxTold, toldOf } from './sandbox-words.ts';

const WATCH_MS = 10;
const LOCK_MS = 10;
/** Capture and sinks go first. */
const NICE = 5;

const DUCK = { memoryBytes: SANDBOX_BYTES.duck, threads: 1, sealed: { spillBytes: SANDBOX_BYTES.spill } } as const;

/** What a process of a {@link Sandbox} does with a question. */
export interface SandboxWork<Question, Given> {
  /** The tables that the answer is made from; without a look at any. `duck` is of an empty database. @throws Fault */
  readonly parse: (duck: Duck, question: Question) => Promise<readonly ReadTable[]>;
  /** Parts of the answer, over a database of those tables. @throws Fault */
  readonly compute: (duck: Duck, question: Question, given: Given) => AsyncIterable<Answer>;
}

/** Kinds of fault that whoever asked can do something about, in words of ours; everything else is `query_refused`. */
const OURS: ReadonlySet<FaultKind> = new Set(['query_refused', 'config_invalid']);

function tell(told: SandboxTold): Promise<void> {
  return new Promise((resolve) => {
    if (process.stdout.write(`${JSON.stringify(told)}\n`)) resolve();
    else process.stdout.once('drain', resolve);
  });
}

async function parse<Question>(database: Database, work: SandboxWork<Question, never>, question: Question): Promise<void> {
  const duck = await database.connect();
  try {
    const tables = await work.parse(duck, question);
    await tell({ tables: tables.map(({ columns, ...table }) => ({ ...table, columns: columns && [...columns] })) });
  } finally {
    duck.close();
  }
}

async function compute<Question, Given>(
  work: SandboxWork<Question, Given>,
  question: Question,
  { path, spillDir, ms, given }: Extract<SandboxAsk, { path: string }>,
): Promise<void> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error('Interrupt Error: late')), ms);
  let database: Database | null = null;
  try {
    database = await opened(path, { spillDir, late: late.signal });
    const duck = await database.connect(late.signal);
    let told = false;
    for await (const { columns, rows } of work.compute(duck, question, given as Given)) {
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

/** What our code refuses is told as it is; of DuckDB's words, what may be. */
function refusalOf(error: unknown): Extract<SandboxTold, { refused: string }> {
  const text = describeError(error);
  if (error instanceof Fault && OURS.has(error.kind) && !/^[A-Za-z ]+ Error:/.test(text))
    return { refused: text, kind: error.kind, facts: error.facts };
  return { refused: toldOf(text), kind: 'query_refused', facts: {} };
}

/**
 * Makes this process one that {@link Sandbox} has questions answered in, one after another: a line of JSON asks, lines answer. First a
 * question is parsed, and the tables told that it reads; then it is answered over a file that holds them and nothing else.
 * The process ends with its parent, and at once when it grows beyond what it may have: what is not counted by DuckDB is counted here.
 */
export function sandboxed<Question, Given>(work: SandboxWork<Question, Given>): void {
  run(work).catch(() => process.kill(process.pid, 'SIGKILL'));
}

async function run<Question, Given>(work: SandboxWork<Question, Given>): Promise<void> {
  setPriority(NICE);
  const watch = setInterval(() => {
    if (process.memoryUsage.rss() > SANDBOX_BYTES.process) process.kill(process.pid, 'SIGKILL');
  }, WATCH_MS);
  const parser = await Database.open({ ...DUCK, path: ':memory:', spillDir: '' });
  let asked: Question | null = null;
  process.stdin.once('close', () => process.kill(process.pid, 'SIGKILL'));
  for await (const line of createInterface({ input: process.stdin })) {
    const ask = JSON.parse(line) as SandboxAsk;
    try {
      if ('question' in ask) {
        asked = ask.question as Question;
        await parse(parser, work, asked);
      } else await compute(work, asked as Question, ask);
    } catch (error) {
      await tell(refusalOf(error));
    }
  }
  clearInterval(watch);
}
