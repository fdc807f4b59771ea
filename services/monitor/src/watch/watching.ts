import { together } from '@tributary/cluster';
import type { FindingKind, ProcessConfig } from '@tributary/config';
import { type Clock, isoMicros } from '@tributary/core';
import { readPlaces } from '../live/place.ts';
import type { ProcessStore } from '../live/store.ts';
import type { Finding } from './finding.ts';
import { findingsOf, LEARNED_KINDS } from './look.ts';
import type { ProcessAlerts } from './process-alerts.ts';
import type { Usual } from './usual.ts';

/** Looks at what is kept are at least so far apart, and as far as they take: where very much is broken, they are half a core at most. Each follows a commit. */
const LOOK_MS = 100;
/** So are looks at what is learned; and so many times as far as they take, so that they never take more than a twentieth of the time. */
const LEARN_MS = 10_000;
const LEARN_SHARE = 20;
/** Also when nothing is committed, as reminders are due by the clock. */
const IDLE_MS = 5_000;

/**
 * Looks at a process after every commit, and has told what there is to tell, until `signal` aborts. What is learned is looked at less often, and
 * beside it, as that takes seconds where there are very many events: in between it is as it was seen last.
 */
export async function watching(
  store: ProcessStore,
  alerts: ProcessAlerts,
  { usual, clock, signal }: { usual: Usual; clock: Clock; signal: AbortSignal },
): Promise<void> {
  await alerts.open();
  const kinds = kindsOf(store.process);
  const learned = LEARNED_KINDS.filter((kind) => kinds.includes(kind));
  const news = new Unseen();
  const unlisten = store.listen(() => news.tell());
  try {
    await together(signal, [
      (end) => alerts.deliver(end),
      (end) => looking(store, alerts, { usual: learned.length === 0 ? null : usual, news, clock, signal: end }),
      ...(learned.length === 0 ? [] : [(end: AbortSignal) => learning(store, learned, { usual, news, clock, signal: end })]),
    ]);
  } finally {
    unlisten();
  }
}

async function learning(
  store: ProcessStore,
  kinds: readonly FindingKind[],
  { usual, news, clock, signal }: { usual: Usual; news: Unseen; clock: Clock; signal: AbortSignal },
): Promise<void> {
  while (!signal.aborted) {
    const began = clock.monotonic();
    const nowUs = clock.now() * 1_000;
    const duck = await store.reader();
    let findings: readonly Finding[];
    try {
      ({ findings } = await findingsOf(duck, store.judging, { kinds, nowUs }));
    } finally {
      duck.close();
    }
    const tookMs = clock.monotonic() - began;
    const pauseMs = Math.max(LEARN_MS, LEARN_SHARE * tookMs);
    // The next one may take longer than this one.
    usual.saw({ kinds, findings, nowUs }, pauseMs + 2 * tookMs + LEARN_MS);
    news.tell();
    await clock.sleep(pauseMs, signal).catch(() => {});
  }
}

async function looking(
  store: ProcessStore,
  alerts: ProcessAlerts,
  { usual, news, clock, signal }: { usual: Usual | null; news: Unseen; clock: Clock; signal: AbortSignal },
): Promise<void> {
  const kinds = kindsOf(store.process).filter((kind) => kind === 'rule' || kind === 'sla');
  while (!signal.aborted) {
    const began = clock.monotonic();
    news.seen();
    // Without it what was told of before would be over.
    const learned = usual ? usual.newest?.findings : [];
    if (learned) await look(store, alerts, { kinds, usual: learned, clock });
    await clock.sleep(Math.max(LOOK_MS, clock.monotonic() - began), signal).catch(() => {});
    await news.wait({ clock, signal, idleMs: IDLE_MS });
  }
}

async function look(
  store: ProcessStore,
  alerts: ProcessAlerts,
  { kinds, usual, clock }: { kinds: readonly FindingKind[]; usual: readonly Finding[]; clock: Clock },
): Promise<void> {
  const duck = await store.reader();
  try {
    const { findings } = await findingsOf(duck, store.judging, { kinds, nowUs: clock.now() * 1_000 });
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
}

/** Is there something that was not looked at yet? */
class Unseen {
  #there = false;
  #wake = () => {};

  tell(): void {
    this.#there = true;
    this.#wake();
  }

  seen(): void {
    this.#there = false;
  }

  /** Waits for news, but no longer than `idleMs`. */
  async wait({ clock, signal, idleMs }: { clock: Clock; signal: AbortSignal; idleMs: number }): Promise<void> {
    if (this.#there) return;
    const woken = new AbortController();
    this.#wake = () => woken.abort(new Error('there is news'));
    await clock.sleep(idleMs, AbortSignal.any([signal, woken.signal])).catch(() => {});
  }
}

function kindsOf({ watch }: ProcessConfig): readonly FindingKind[] {
  return [...new Set(watch.alerts.flatMap(({ on }) => on))];
}
