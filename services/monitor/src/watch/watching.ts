import { together } from '@tributary/cluster';
import type { FindingKind, ProcessConfig } from '@tributary/config';
import { type Clock, isoMicros } from '@tributary/core';
import { readPlaces } from '../live/place.ts';
import type { ProcessStore } from '../live/store.ts';
import type { Finding } from './finding.ts';
import { findingsOf, LEARNED_KINDS } from './look.ts';
import type { ProcessAlerts } from './process-alerts.ts';

/** Looks at what is kept are at least so far apart; each follows a commit. */
const LOOK_MS = 100;
/** So are looks at what is learned; and so many times as far as they take, so that they never take more than a twentieth of a core. */
const LEARN_MS = 10_000;
const LEARN_SHARE = 20;
/** Also when nothing is committed, as reminders are due by the clock. */
const IDLE_MS = 5_000;

/**
 * Looks at a process after every commit, and has told what there is to tell, until `signal` aborts. What is learned is looked at less often:
 * in between it is as it was seen last.
 */
export async function watching(
  store: ProcessStore,
  alerts: ProcessAlerts,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): Promise<void> {
  await alerts.open();
  await together(signal, [(end) => alerts.deliver(end), (end) => looking(store, alerts, { clock, signal: end })]);
}

async function looking(
  store: ProcessStore,
  alerts: ProcessAlerts,
  { clock, signal }: { clock: Clock; signal: AbortSignal },
): Promise<void> {
  const kinds = kindsOf(store.process);
  const learned = LEARNED_KINDS.filter((kind) => kinds.includes(kind));
  let usual: readonly Finding[] = [];
  let learnAt = -Infinity;
  let changed = false;
  let wake = () => {};
  const unlisten = store.listen(() => {
    changed = true;
    wake();
  });
  signal.addEventListener('abort', unlisten, { once: true });
  while (!signal.aborted) {
    changed = false;
    const duck = await store.reader();
    try {
      const nowUs = clock.now() * 1_000;
      const began = clock.monotonic();
      if (learned.length > 0 && began >= learnAt) {
        usual = (await findingsOf(duck, store.judging, { kinds: learned, nowUs })).findings;
        const took = clock.monotonic() - began;
        learnAt = clock.monotonic() + Math.max(LEARN_MS, LEARN_SHARE * took);
      }
      const { findings } = await findingsOf(duck, store.judging, {
        kinds: kinds.filter((kind) => kind === 'rule' || kind === 'sla'),
        nowUs,
      });
      const places = await readPlaces(duck);
      await alerts.take({
        at: clock.now(),
        places: new Map([...places].map(([source, { position }]) => [source, position])),
        completeTo: places.size === 0 ? null : isoMicros(Math.min(...[...places.values()].map(({ watermark }) => watermark))),
        findings: [...findings, ...usual],
      });
    } finally {
      duck.close();
    }
    await clock.sleep(LOOK_MS, signal).catch(() => {});
    if (changed) continue;
    const woken = new AbortController();
    wake = () => woken.abort(new Error('something was committed'));
    await clock.sleep(IDLE_MS, AbortSignal.any([signal, woken.signal])).catch(() => {});
  }
}

function kindsOf({ watch }: ProcessConfig): readonly FindingKind[] {
  return [...new Set(watch.alerts.flatMap(({ on }) => on))];
}
