import { askOne, type Bus, Fault } from '@tributary/core';

/** A source that starts again answers a moment later, ms. */
const [AGAIN_MS, DEADLINE_MS] = [100, 60_000];

/**
 * Waits until a projection holds everything that its source had committed before the call. One that is halted stands where it is.
 * @throws Fault `not_found` when nobody leads the source for a minute
 */
export async function caughtUp(bus: Pick<Bus, 'ask'>, source: string, reached: (seq: number) => Promise<void>): Promise<void> {
  const seq = await barrier(bus, source);
  try {
    await reached(seq);
  } catch (error) {
    if (!(error instanceof Fault) || error.reaction !== 'operator') throw error;
  }
}

async function barrier(bus: Pick<Bus, 'ask'>, source: string): Promise<number> {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    try {
      return (await askOne<{ seq: number }>(bus, `tributary.source.${source}.barrier`, {})).seq;
    } catch (error) {
      if (!(error instanceof Fault) || !['not_found', 'fenced'].includes(error.kind) || Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }
}
