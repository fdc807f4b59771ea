import type { arrowWriting } from '@tributary/console';

/** Writes Arrow; loaded by the commands that are asked for it. */
export async function arrow(): ReturnType<typeof arrowWriting> {
  return (await import('@tributary/console')).arrowWriting();
}
