import { rename, rm } from 'node:fs/promises';
import { describeError, Fault } from '@tributary/core';

/**
 * Opens a file that can be made anew. One that DuckDB cannot read (a disk that was full while it was made leaves one) is put aside as
 * `.unreadable`, and a new one takes its place.
 * @param warn told of that
 * @throws what `open` throws otherwise
 */
export async function openDisposable<T>(
  path: string,
  open: () => Promise<T>,
  warn: (facts: { readonly path: string; readonly error: string }) => void,
): Promise<T> {
  try {
    return await open();
  } catch (error) {
    if (!(error instanceof Fault) || error.facts['unreadable'] !== true) throw error;
    warn({ path, error: describeError(error) });
    await rename(path, `${path}.unreadable`);
    await rm(`${path}.wal`, { force: true });
    return open();
  }
}
