import { type Actor, aborted } from '@tributary/cluster';
import { type HookConfig, type ProcessConfig, sourcesOfProcess } from '@tributary/config';
import { type Bus, type Clock, formatSourcePosition, isoMicros, type Kv, LIMITS } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { type Answering, answerProcess, ofSteps, type ProcessQuestion } from '../answers.ts';
import { ProcessAlerts } from '../watch/process-alerts.ts';
import { whatIf } from '../watch/what-if.ts';
import { Usual } from '../watch/usual.ts';
import { watching } from '../watch/watching.ts';
import { readPlaces } from './place.ts';
import type { ProcessStore } from './store.ts';

/** Violations that a replay shows when nobody says how many. */
const REPLAYED = 100;
/** Characters of an export in one part of an answer. */
const PIECE = 64 * 1024;

export interface ProcessActorOptions {
  readonly open: () => Promise<ProcessStore>;
  readonly process: ProcessConfig;
  /** Those that its alerts name. */
  readonly hooks: readonly HookConfig[];
  readonly positions: Kv;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly warn: (facts: object, message: string) => void;
}

interface ReplayQuestion {
  readonly config: ProcessConfig;
  /** What it is compared with; absent: the running definition. */
  readonly against?: ProcessConfig;
  readonly limit?: number;
}

/** How far the sources of a process are in an answer. */
interface ProcessFreshness {
  /** ISO 8601: everything committed up to then on every source is in it; null = some source was not read yet. */
  readonly completeTo: string | null;
  readonly sources: Readonly<Record<string, { readonly position: string; readonly completeTo: string | null }>>;
}

/**
 * Answers for one process: `tributary.process.<name>.ask` takes a {@link ProcessQuestion} and gives what `answerProcess` gives, of one
 * moment, with how fresh that is; `show` tells of what it is made, `replay` what another
 * definition (`config`) would say beside the running one, or beside a second one (`against`), `alerts` which alerts there are and of which findings; `acknowledge` takes
 * `{alert, by}`. As long as it runs, whoever its alerts name is told what is found.
 */
export class ProcessActor implements Actor {
  readonly #options: ProcessActorOptions;
  #alerts: ProcessAlerts | null = null;

  constructor(options: ProcessActorOptions) {
    this.#options = options;
  }

  facts(): Record<string, unknown> {
    return { process: this.#options.process.name, alerts: this.#alerts?.facts() ?? [] };
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    const store = await this.#options.open();
    const { name, root, objects } = store.process;
    const { process, hooks, positions, bus, clock, warn } = this.#options;
    const alerts = new ProcessAlerts({ process, hooks, positions, clock, warn });
    const usual = new Usual(clock);
    const stops = [
      await bus.serve(`tributary.process.${name}.ask`, (question) =>
        answer(store, question as ProcessQuestion, { clock, usual }),
      ),
      await bus.serve(`tributary.process.${name}.show`, () =>
        reading(store, async function* (duck) {
          const shown = objects.map((type) => ({ object: type.name, table: `${type.source}.${type.table}` }));
          yield { name, root, objects: shown, freshness: await freshnessOf(store, duck) };
        }),
      ),
      await bus.serve(`tributary.process.${name}.replay`, (question) =>
        reading(store, async function* (duck) {
          const { config, against = null, limit = REPLAYED } = question as ReplayQuestion;
          const freshness = await freshnessOf(store, duck);
          const asked = { definition: config, against, limit: Math.min(limit, LIMITS.answerRows) };
          const told = await whatIf(duck, store.process, asked);
          yield { ...told, freshness };
        }),
      ),
      await bus.serve(`tributary.process.${name}.alerts`, async function* () {
        yield { alerts: alerts.details() };
      }),
      await bus.serve(`tributary.process.${name}.acknowledge`, async function* (question) {
        const { alert, by } = question as { readonly alert: string; readonly by: string };
        await alerts.acknowledge(alert, { by, at: clock.now() });
        store.tell();
        yield { process: name, alert, acknowledgedBy: by };
      }),
    ];
    try {
      ready();
      const ended = AbortSignal.any([signal, store.invalid]);
      if (process.watch.alerts.length === 0) await aborted(ended);
      else {
        this.#alerts = alerts;
        await watching(store, alerts, { usual, clock, signal: ended });
      }
    } finally {
      for (const stop of stops) await stop();
    }
    if (!signal.aborted) throw store.invalid.reason as Error;
  }
}

async function* answer(
  store: ProcessStore,
  question: ProcessQuestion,
  { clock, usual }: { readonly clock: Clock; readonly usual: Usual },
): AsyncGenerator<unknown> {
  const answering = (): Answering => ({
    name: store.process.name,
    root: store.process.root,
    declared: { process: store.judging, nowUs: clock.now() * 1_000, usual },
  });
  if (ofSteps(question, answering()))
    // All of it at once: whoever takes it slowly must not keep others from asking.
    return yield* await store.asking(async (steps) => {
      const freshness = await freshnessOf(store, steps.duck);
      const parts: object[] = [];
      for await (const part of answerProcess(steps.duck, question, { ...answering(), steps }))
        parts.push(...pages(part as object, freshness));
      return parts;
    });
  return yield* reading(store, async function* (duck) {
    const freshness = await freshnessOf(store, duck);
    const parts = answerProcess(duck, question, answering());
    if (question.what === 'export') return yield* pieces(parts as AsyncGenerator<{ text: string }>);
    for await (const part of parts) yield* pages(part as object, freshness);
  });
}

/** Long lists go in several parts, of which the first says how fresh all are. */
function* pages(part: object, freshness: ProcessFreshness): Generator<object> {
  const list = Object.entries(part).find(([name]) => name === 'cases' || name === 'variants');
  if (!list || !Array.isArray(list[1])) return yield { ...part, freshness };
  const [name, rows] = list as [string, unknown[]];
  yield { [name]: rows.slice(0, LIMITS.answerRows), freshness };
  for (let at = LIMITS.answerRows; at < rows.length; at += LIMITS.answerRows)
    yield { [name]: rows.slice(at, at + LIMITS.answerRows) };
}

async function* pieces(parts: AsyncIterable<{ readonly text: string }>): AsyncGenerator<{ text: string }> {
  let text = '';
  for await (const part of parts) {
    text += part.text;
    if (text.length < PIECE) continue;
    yield { text };
    text = '';
  }
  if (text !== '') yield { text };
}

async function* reading(store: ProcessStore, work: (duck: Duck) => AsyncGenerator<unknown>): AsyncGenerator<unknown> {
  const duck = await store.reader();
  try {
    yield* work(duck);
  } finally {
    duck.close();
  }
}

async function freshnessOf({ process }: ProcessStore, duck: Duck): Promise<ProcessFreshness> {
  const places = await readPlaces(duck);
  const marks = sourcesOfProcess(process).map((source) => places.get(source)?.watermark ?? 0);
  const iso = (watermark: number) => (watermark > 0 ? isoMicros(watermark) : null);
  const sources = [...places].map(([source, { position, watermark }]) => [
    source,
    { position: formatSourcePosition(position), completeTo: iso(watermark) },
  ]);
  return { completeTo: iso(Math.min(...marks)), sources: Object.fromEntries(sources) };
}
