import { randomBytes } from 'node:crypto';
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

/**
 * Aborts at the first SIGINT or SIGTERM, so that the process can drain; a second one ends it at once.
 * A parent that went away closes stdin of a child it started with a pipe; that is not watched here.
 */
export function stopSignal(): AbortSignal {
  const stop = new AbortController();
  const react = (signal: NodeJS.Signals) => {
    if (stop.signal.aborted) process.exit(130);
    stop.abort(new Error(`received ${signal}`));
  };
  process.on('SIGINT', react);
  process.on('SIGTERM', react);
  return stop.signal;
}
