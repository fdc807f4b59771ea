import { randomUUID } from 'node:crypto';
import { createWriteStream, existsSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { ImportedLogs as Logs, SentLog } from '@tributary/console';
import type { ProcessQuestion } from '@tributary/monitor';
import type { LogTask } from './log-thread.ts';
import { threadParts } from './thread-parts.ts';

/** An object-centric log is one JSON document, and all of it in memory. */
const HEAP_MB = 512;

/**
 * Logs in the data folder, for whoever asks over HTTP: each is imported and asked by one thread at a time, as a file is open in one
 * place only.
 */
export class ImportedLogs implements Logs {
  readonly #dataDir: string;
  readonly #signal: AbortSignal;
  /** By name: ends when nobody has the file open any more. */
  readonly #open = new Map<string, Promise<void>>();

  /** @param signal ends what runs */
  constructor(dataDir: string, signal: AbortSignal) {
    this.#dataDir = dataDir;
    this.#signal = signal;
  }

  async names(): Promise<string[]> {
    // Most systems have none, and need not load what reads them.
    if (!existsSync(join(this.#dataDir, 'process', 'imported'))) return [];
    return (await import('@tributary/monitor')).importedNames(this.#dataDir);
  }

  async *take(name: string, { bytes, format, columns, root }: SentLog): AsyncGenerator<unknown> {
    const folder = join(this.#dataDir, 'process', 'sent');
    const path = join(folder, randomUUID());
    await mkdir(folder, { recursive: true });
    try {
      await pipeline(bytes, createWriteStream(path), { signal: this.#signal });
      const options = { dataDir: this.#dataDir, name, columns, format, called: 'body', ...(root === undefined ? {} : { root }) };
      yield* this.#alone(name, { what: 'import', path, options });
    } finally {
      await rm(path, { force: true });
    }
  }

  ask(name: string, question: object): AsyncGenerator<unknown> {
    return this.#alone(name, { what: 'ask', dataDir: this.#dataDir, name, question: question as ProcessQuestion });
  }

  async remove(name: string): Promise<boolean> {
    if (!(await this.names()).includes(name)) return false;
    return (await import('@tributary/monitor')).removeImported(this.#dataDir, name);
  }

  async *#alone(name: string, task: LogTask): AsyncGenerator<unknown> {
    const before = this.#open.get(name);
    let close = () => {};
    const closed = new Promise<void>((resolve) => (close = resolve));
    this.#open.set(name, closed);
    try {
      await before;
      yield* threadParts(new URL('./log-thread.js', import.meta.url), {
        name: 'log',
        task,
        heapMb: HEAP_MB,
        signal: this.#signal,
      });
    } finally {
      close();
      if (this.#open.get(name) === closed) this.#open.delete(name);
    }
  }
}
