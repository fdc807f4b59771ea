import { isDeepStrictEqual } from 'node:util';
import type { Clock } from '@tributary/core';
import type { Answered } from './asked.ts';
import type { KpiFreshness } from './moment.ts';

/** Said at least this often, so that it is noticed when nobody listens any more. */
const SILENT_MS = 10_000;

export interface FollowedPart {
  /** `rows` are all there are; else those that changed since the part before. */
  readonly whole: boolean;
  readonly rows: Answered['rows'];
  readonly freshness: KpiFreshness;
}

export interface FollowOptions {
  readonly answer: () => Promise<Answered>;
  /** Told after every commit. @returns the function that ends it */
  readonly listen: (heard: () => void) => () => void;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Resolves when so many parts were read; false: nobody listens any more. Default: whoever takes the parts asks for each when he has read the one before. */
  readonly heard?: (parts: number) => Promise<boolean>;
}

/**
 * The values, and again whenever they changed; in between, how far they are. A part is made when the one before was read: so one part waits for a
 * slow reader, whatever happens meanwhile, and he misses states, never the last.
 */
export async function* follow({ answer, listen, clock, signal, heard }: FollowOptions): AsyncGenerator<FollowedPart> {
  let before: Answered['rows'] | null = null;
  let parts = 0;
  let moved = true;
  let wake: () => void = () => {};
  const unlisten = listen(() => {
    moved = true;
    wake();
  });
  try {
    while (!signal.aborted) {
      moved = false;
      const { rows, freshness } = await answer();
      yield { ...difference(before, rows), freshness };
      before = rows;
      if (heard && !(await heard(++parts))) return;
      if (!moved) {
        const told = new Promise<void>((resolve) => (wake = resolve));
        const waited = new AbortController();
        await Promise.race([told, clock.sleep(SILENT_MS, AbortSignal.any([signal, waited.signal])).catch(() => {})]);
        waited.abort();
      }
    }
  } finally {
    unlisten();
  }
}

/** A row that is no longer there cannot be told by itself: then everything is told. */
export function difference(before: Answered['rows'] | null, rows: Answered['rows']): Pick<FollowedPart, 'whole' | 'rows'> {
  if (before === null) return { whole: true, rows };
  const left = new Map<string, Answered['rows'][number]>(before.map((row) => [keyOf(row), row]));
  const changed = rows.filter((row) => {
    const key = keyOf(row);
    const known = left.get(key);
    left.delete(key);
    return known === undefined || !isDeepStrictEqual(known, row);
  });
  return left.size > 0 ? { whole: true, rows } : { whole: false, rows: changed };
}

/** What a row is a value of; a row of the short form is only itself. */
function keyOf(row: Answered['rows'][number]): string {
  return JSON.stringify('dimensions' in row && 'bucket' in row ? [row.bucket, row.dimensions] : row);
}
