/**
 * Runs tasks side by side as one: when one fails, the others are told to stop, all are awaited, and the first
 * failure is thrown. Ends without an error once `signal` has aborted and every task has returned.
 */
export async function together(signal: AbortSignal, tasks: readonly ((signal: AbortSignal) => Promise<void>)[]): Promise<void> {
  const stop = new AbortController();
  const all = AbortSignal.any([signal, stop.signal]);
  let failure: { readonly error: unknown } | null = null;
  await Promise.all(
    tasks.map(async (task) => {
      try {
        await task(all);
      } catch (error) {
        // What a task throws because it was told to stop is no failure of its own.
        if (!all.aborted) failure ??= { error };
        stop.abort(new Error('another task failed'));
      }
    }),
  );
  const first = failure as { readonly error: unknown } | null;
  if (first) throw first.error;
}

/** Resolves when `signal` aborts. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

/**
 * Waits for what may be left alone: a question, or the end of something that does no harm.
 * @throws the signal's reason as soon as it aborts; nobody hears then what `work` comes to
 */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let leave = () => {};
  const left = new Promise<never>((_, reject) => (leave = () => reject(signal.reason as Error)));
  signal.addEventListener('abort', leave, { once: true });
  if (signal.aborted) leave();
  try {
    return await Promise.race([left, work]);
  } finally {
    signal.removeEventListener('abort', leave);
    work.catch(() => {});
  }
}
