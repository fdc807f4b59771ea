import { askUntil, type Bus, Fault } from '@tributary/core';

/** A source that starts again answers a moment later, ms. */
const ANSWER_MS = 60_000;

/**
 * Waits until a projection holds everything that its source had committed before the call. One that is halted stands where it is.
 * @throws Fault `not_found` when nobody leads the source for a minute
 */
export async function caughtUp(bus: Pick<Bus, 'ask'>, source: string, reached: (seq: number) => Promise<void>): Promise<void> {
  const { seq } = await askUntil<{ seq: number }>(bus, `tributary.source.${source}.barrier`, {}, Date.now() + ANSWER_MS);
  try {
    await reached(seq);
  } catch (error) {
    if (!(error instanceof Fault) || error.reaction !== 'operator') throw error;
  }
}
