import { randomBytes } from 'node:crypto';
import { writeSync } from 'node:fs';
import { hostname } from 'node:os';

/** The process's environment: read here and nowhere else. */
export function environment(): Readonly<Record<string, string | undefined>> {
  return process.env;
}

/** Unique among all workers there ever were: a container's host name and process id come again, so they are not enough. */
export function workerName(): string {
  const host = (hostname().split('.')[0] ?? '').replaceAll(/[^\w-]/g, '-');
  return `${host || 'host'}-${process.pid}-${randomBytes(3).toString('hex')}`;
}

/** How long a signal may take to end this process, ms: one that is the first of its container is not ended by any. */
const SIGNAL_MS = 100;
const SIGNAL_NUMBERS = { SIGINT: 2, SIGTERM: 15 } as const;

/**
 * Aborts at the first SIGINT or SIGTERM, so that the process can drain; a second one ends it at once, as it would end a
 * process that does not handle it (a shell says 130 or 143). Road not taken: `process.exit` alone, which waits for the native
 * code that other threads run, such as a statement in DuckDB, for as long as that takes (reproduced, Node 20).
 * A parent that went away closes stdin of a child it started with a pipe; that is not watched here.
 */
export function stopSignal(): AbortSignal {
  const stop = new AbortController();
  const react = (signal: NodeJS.Signals) => {
    if (!stop.signal.aborted) return stop.abort(new Error(`received ${signal}`));
    writeSync(2, 'Ended at once. Nothing is lost: what was not committed is done again from the stored positions.\n');
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
    setTimeout(() => process.exit(128 + SIGNAL_NUMBERS[signal as keyof typeof SIGNAL_NUMBERS]), SIGNAL_MS);
  };
  process.on('SIGINT', react);
  process.on('SIGTERM', react);
  return stop.signal;
}
