import type { Blow, Fault } from './faults.ts';

/** Quiet between two blows of one lane, ms. */
const QUIET_MIN_MS = 2_000;
const QUIET_MAX_MS = 8_000;

/**
 * Deals blows until `signal` aborts. Each lane goes through its faults in random order, each once before any comes again,
 * so that also a short run sees all of them. Ends when everything that was broken is whole again.
 * @throws what a fault could not mend, at once
 */
export async function chaos(
  lanes: readonly (readonly Fault[])[],
  blow: Omit<Blow, 'hold' | 'ending'>,
  signal: AbortSignal,
): Promise<number> {
  const over = new AbortController();
  const all = AbortSignal.any([signal, over.signal]);
  const hold = (ms: number) => pause(ms, all);
  let blows = 0;
  await Promise.all(
    lanes.map(async (lane) => {
      try {
        for (let deck: Fault[] = []; ; ) {
          if (deck.length === 0) deck = shuffled(lane, blow.random);
          await hold(QUIET_MIN_MS + blow.random() * (QUIET_MAX_MS - QUIET_MIN_MS));
          if (all.aborted) return;
          await (deck.pop() as Fault)({ ...blow, hold, ending: all });
          blows++;
        }
      } catch (error) {
        over.abort();
        throw error;
      }
    }),
  );
  return blows;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done, { once: true });
  });
}

function shuffled<T>(all: readonly T[], random: () => number): T[] {
  const deck = [...all];
  for (let i = deck.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [deck[i], deck[j]] = [deck[j] as T, deck[i] as T];
  }
  return deck;
}
