import { askOne, type Bus } from './bus.ts';
import { Fault } from './fault.ts';

/** Faults that pass by themselves while an actor starts again, or a broker cluster elects a leader. */
const PASSING = new Set([
  'not_found',
  'worker_lost',
  'fenced',
  'broker_unreachable',
  'database_unreachable',
  'slot_in_use',
  'reader_stalled',
]);
const AGAIN_MS = 100;
/** A question or its answer may be lost with a connection or a server on its way: it is asked again after this silence. */
const SILENCE_MS = 5_000;

/** Once it is known that a worker is lost, its lease is over, and another takes its work over within so long, ms. */
const TAKEOVER_MS = 10_000;

/** Does what may be done twice until it succeeds, fails for good, or the deadline (ms since 1970) is over. */
export async function outlasting<T>(deadline: number, work: (leftMs: number) => Promise<T>): Promise<T> {
  for (;;) {
    const left = deadline - Date.now();
    try {
      return await work(Math.max(1, left));
    } catch (error) {
      if (!(error instanceof Fault) || !PASSING.has(error.kind) || left <= AGAIN_MS) throw error;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }
}

/** Asks until somebody answers or the deadline (ms since 1970) is over. For questions that may be asked twice. */
export function askUntil<T>(bus: Pick<Bus, 'ask'>, subject: string, question: unknown, deadline: number): Promise<T> {
  return outlasting(deadline, (leftMs) => askOne<T>(bus, subject, question, { idleMs: Math.min(leftMs, SILENCE_MS) }));
}

/**
 * Asks a worker; where that one is lost, its successor, until there is one. For questions that may be asked twice.
 * @throws Fault as `ask`; after a loss the one of the last try
 */
export async function outlastingLoss<T>(ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof Fault) || error.kind !== 'worker_lost') throw error;
    return outlasting(Date.now() + TAKEOVER_MS, ask);
  }
}
