import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { EventStreams } from '@tributary/changelog';
import { aborted, type Actor, together } from '@tributary/cluster';
import type { HookConfig, KpiReader } from '@tributary/config';
import { askOne, type Bus, describeError, Fault, type Kv, LIMITS } from '@tributary/core';
import { EVERYTHING, type Scope, scopeOf } from './access.ts';
import { KpiAlerts } from './alerts.ts';
import {
  type Answered,
  type RevisionsQuestion,
  revisionsOf,
  rowsBehind,
  type RowsQuestion,
  snapshot,
  typedValuesAt,
  valuesAt,
  writeParquet,
} from './asked.ts';
import { versionOf } from './definition.ts';
import type { Engine, EngineKpi } from './engine.ts';
import { PublishedFiles } from './files.ts';
import { follow, type FollowedPart } from './follow.ts';
import { lineageOf } from './lineage.ts';
import { Looks } from './looks.ts';
import { ageOf } from './moment.ts';
import { publishing } from './publish.ts';
import type { ValueRow, ValuesQuestion } from './values.ts';
import { Work } from './work.ts';

/** A KPI that is still being read is asked again after so long. */
const UNREADY_MS = 500;
/** A listener that does not answer for so long has gone. */
const LINE_IDLE_MS = 5_000;
/** Of a file, in one part of an answer. */
const PART_BYTES = 512 * 1024;

export interface KpiActorOptions {
  readonly open: () => Promise<Engine>;
  readonly bus: Bus;
  readonly name: string;
  readonly hooks: readonly HookConfig[];
  readonly positions: Kv;
  readonly streams: EventStreams;
  /** Of streams. */
  readonly replicas: number;
  readonly warn: (facts: object, message: string) => void;
  /** Where files of KPIs are published, each KPI's in a folder of its own. */
  readonly folder: string;
}

/** Answers for one KPI on `tributary.kpi.<name>.…`, as long as it runs. A KPI that cannot be computed is failed, with its reason. */
export class KpiActor implements Actor {
  readonly #open: () => Promise<Engine>;
  readonly #bus: Bus;
  readonly #name: string;
  readonly #options: KpiActorOptions;
  #engine: Engine | null = null;
  #alerts: KpiAlerts | null = null;
  #files: PublishedFiles | null = null;
  /** Of the short form: the last answer to the whole question, and when (monotonic ms) it was made. */
  #answered: { readonly position: string; readonly at: number; readonly answer: Answered } | null = null;

  constructor(options: KpiActorOptions) {
    const { open, bus, name } = options;
    this.#options = options;
    this.#open = open;
    this.#bus = bus;
    this.#name = name;
  }

  facts(): Record<string, unknown> {
    const kpi = this.#engine?.kpis.get(this.#name);
    return { kpi: this.#name, computed: kpi?.maintained !== null, alerts: this.#alerts?.facts() ?? [] };
  }

  async run(signal: AbortSignal, ready: () => void, halted: (fault: Fault) => Promise<void>): Promise<void> {
    const engine = await this.#open();
    this.#engine = engine;
    const kpi = engine.kpis.get(this.#name) as EngineKpi;
    const ended = AbortSignal.any([signal, engine.store.invalid]);
    const work = new Work(engine.clock);
    const stops = await this.#serve(engine, kpi, { signal, work });
    const unlisten = work.follow(engine, kpi);
    try {
      await together(ended, [
        (ending) => this.#keep(engine, kpi, { ending, ready, halted }),
        ...(kpi.config.alerts.length === 0 ? [] : [(ending: AbortSignal) => this.#watch(engine, kpi, ending)]),
        ...this.#publishing(engine, kpi),
        ...this.#writing(engine, kpi),
      ]);
    } finally {
      unlisten();
      for (const stop of stops) await stop();
    }
    if (!signal.aborted) throw engine.store.invalid.reason as Error;
  }

  /** Has the KPI computed, and says so when it cannot be. */
  async #keep(
    engine: Engine,
    kpi: EngineKpi,
    { ending, ready, halted }: { ending: AbortSignal; ready: () => void; halted: (fault: Fault) => Promise<void> },
  ): Promise<void> {
    while (!ending.aborted) {
      await this.#define(engine, kpi);
      if (kpi.fault) {
        await Promise.race([halted(kpi.fault), aborted(ending)]);
        if (kpi.config.definition.kind === 'measures') kpi.fault = null;
        continue;
      }
      ready();
      await this.#faulted(engine, kpi, ending);
    }
  }

  #publishing(engine: Engine, kpi: EngineKpi): ((signal: AbortSignal) => Promise<void>)[] {
    const { config } = kpi;
    const { publish } = config;
    if (!publish) return [];
    const { hooks, streams, replicas, warn } = this.#options;
    const parts = (signal: AbortSignal) => this.#published(engine, kpi, publish.ask, signal);
    return publishing({ config, publish, hooks, streams, replicas, clock: engine.clock, warn, parts });
  }

  #writing(engine: Engine, kpi: EngineKpi): ((signal: AbortSignal) => Promise<void>)[] {
    const { publish, name } = kpi.config;
    if (!publish?.files) return [];
    const { warn, folder } = this.#options;
    const files = new PublishedFiles({
      kpi: name,
      files: publish.files,
      folder: join(folder, name),
      clock: engine.clock,
      warn,
      position: () => engine.vector(kpi),
      scratch: () => engine.store.exportPath(),
      snapshot: (grain, to) => {
        if (kpi.fault) throw kpi.fault;
        const ask = grain === null ? publish.ask : { ...publish.ask, grain };
        return engine.store.read((duck) => snapshot(engine, kpi, { duck, ask, ...to }));
      },
    });
    this.#files = files;
    return [(signal) => files.run(signal)];
  }

  /** Waits while the KPI cannot be answered. */
  async *#published(engine: Engine, kpi: EngineKpi, ask: ValuesQuestion, signal: AbortSignal): AsyncGenerator<FollowedPart> {
    while (!signal.aborted) {
      try {
        yield* this.#follow(engine, kpi, { ask, scope: EVERYTHING, signal });
      } catch (error) {
        if (!(error instanceof Fault) || error.kind !== 'not_complete') throw error;
        await engine.clock.sleep(UNREADY_MS, signal).catch(() => {});
      }
    }
  }

  /** Looks at the alerts again and again, and has told what there is to tell. */
  async #watch(engine: Engine, kpi: EngineKpi, ending: AbortSignal): Promise<void> {
    const { positions, hooks, warn } = this.#options;
    const { config } = kpi;
    const alerts = new KpiAlerts({ config, hooks, positions, clock: engine.clock, warn });
    await alerts.open();
    this.#alerts = alerts;
    const looks = new Looks(engine, kpi);
    const everyMs = Math.min(...config.alerts.map((alert) => alert.everyMs));
    await together(ending, [
      (end) => alerts.deliver(end),
      async (end) => {
        while (!end.aborted) {
          await alerts.take(await looks.look());
          await engine.clock.sleep(everyMs, end).catch(() => {});
        }
      },
    ]);
  }

  async #define(engine: Engine, kpi: EngineKpi): Promise<void> {
    const release = await engine.store.lock();
    try {
      await engine.define(kpi);
    } catch (error) {
      if (!(error instanceof Fault) || error.kind !== 'kpi_put_aside') throw error;
    } finally {
      release();
    }
  }

  /** Resolves when the KPI was put aside, or `ended`. */
  async #faulted(engine: Engine, kpi: EngineKpi, ended: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => {
      const look = () => {
        if (!kpi.fault && !ended.aborted) return;
        unlisten();
        resolve();
      };
      const unlisten = engine.listen(look);
      ended.addEventListener('abort', look, { once: true });
      look();
    });
  }

  async #serve(
    engine: Engine,
    kpi: EngineKpi,
    { signal, work }: { signal: AbortSignal; work: Work },
  ): Promise<(() => Promise<void>)[]> {
    const subject = (what: string) => `tributary.kpi.${this.#name}.${what}`;
    const files = () => this.#files?.shown() ?? [];
    const answer = (ask: ValuesQuestion, scope: Scope) => work.query(() => this.#answer(engine, kpi, ask, scope));
    const scoped = <Question extends object>(question: unknown): { ask: Question; scope: Scope } => {
      const { reader, ...ask } = question as Question & { readonly reader?: KpiReader };
      return { ask: ask as Question, scope: scopeOf(kpi.config, reader) };
    };
    const followed = (question: unknown) => {
      const { ask: asked, scope } = scoped<ValuesQuestion & { readonly line?: string }>(question);
      const { line, ...ask } = asked;
      return this.#follow(engine, kpi, {
        ask,
        scope,
        signal,
        ...(line === undefined ? {} : { heard: (parts: number) => this.#listens(line, parts) }),
      });
    };
    return [
      await this.#bus.serve(subject('values'), async function* (question) {
        const { ask: asked, scope } = scoped<ValuesQuestion & { readonly flat?: boolean }>(question);
        const { flat, ...ask } = asked;
        const { rows: told, freshness } = await answer(ask, scope);
        const rows = flat ? told.map(flatRow) : told;
        yield { rows: rows.slice(0, LIMITS.answerRows), freshness, scope: scope.tag };
        for (let at = LIMITS.answerRows; at < rows.length; at += LIMITS.answerRows)
          yield { rows: rows.slice(at, at + LIMITS.answerRows) };
      }),
      await this.#bus.serve(subject('typed'), async function* (question) {
        if (kpi.fault) throw kpi.fault;
        const asked = scoped<ValuesQuestion>(question);
        const { columns, rows, freshness } = await engine.store.read((duck) => typedValuesAt(engine, kpi, { duck, ...asked }));
        yield { columns, rows: rows.slice(0, LIMITS.answerRows), freshness, scope: asked.scope.tag };
        for (let at = LIMITS.answerRows; at < rows.length; at += LIMITS.answerRows)
          yield { rows: rows.slice(at, at + LIMITS.answerRows) };
      }),
      await this.#bus.serve(subject('parquet'), (question) => parquetOf(engine, kpi, scoped<ValuesQuestion>(question))),
      await this.#bus.serve(subject('rows'), async function* (question) {
        const asked = scoped<RowsQuestion>(question);
        yield await engine.store.read((duck) => rowsBehind(engine, kpi, { duck, ...asked }));
      }),
      await this.#bus.serve(subject('revisions'), async function* (question) {
        const { ask } = scoped<RevisionsQuestion>(question);
        yield await engine.store.read((duck) => revisionsOf(kpi, { duck, ask }));
      }),
      await this.#bus.serve(subject('show'), async function* (question) {
        yield { ...(await shownKpi(engine, kpi)), files: files(), work: work.told(kpi), scope: scoped(question).scope.tag };
      }),
      await this.#bus.serve(subject('stream'), (question) => followed(question)),
      await this.#bus.serve(subject('acknowledge'), (question) => this.#acknowledged(engine, question as Acknowledging)),
      await this.#bus.serve(subject('backfill'), async function* () {
        yield { done: true, kpi: kpi.config.name, ...(await computedAnew(engine, kpi)) };
      }),
    ];
  }

  async #answer(engine: Engine, kpi: EngineKpi, ask: ValuesQuestion, scope: Scope): Promise<Answered> {
    if (kpi.fault) throw kpi.fault;
    const { definition } = kpi.config;
    if (definition.kind === 'measures') return engine.store.read((duck) => valuesAt(engine, kpi, { duck, ask, scope }));
    const known = this.#answered;
    const plain = ask.asOf === undefined;
    if (plain && known) {
      const unmoved = known.position === engine.vector(kpi);
      // The rows are those of then; what they are complete to, and how old that is, goes on.
      if (unmoved || engine.clock.monotonic() - known.at < definition.everyMs)
        return aged(known.answer, engine, kpi, unmoved ? engine.completeTo(kpi) : null);
    }
    const answer = await engine.store.read((duck) => valuesAt(engine, kpi, { duck, ask }));
    if (plain) this.#answered = { position: answer.freshness.position, at: engine.clock.monotonic(), answer };
    return answer;
  }

  async *#acknowledged(engine: Engine, { alert, by }: Acknowledging): AsyncGenerator<object> {
    if (!this.#alerts) throw new Fault('not_found', `Kpi ${this.#name} has no alerts`);
    await this.#alerts.acknowledge(alert, { by, at: engine.clock.now() });
    yield { kpi: this.#name, alert, acknowledgedBy: by };
  }

  #follow(engine: Engine, kpi: EngineKpi, { ask, scope, signal, heard }: Following): AsyncGenerator<FollowedPart> {
    const listen = (told: () => void) => engine.listen(told);
    const answer = () => this.#answer(engine, kpi, ask, scope);
    return follow({ answer, listen, clock: engine.clock, signal, ...(heard ? { heard } : {}) });
  }

  /** Resolves when whoever asked for a stream has read so many parts of it; he says so on its line, and meanwhile that he is there. */
  async #listens(line: string, parts: number): Promise<boolean> {
    try {
      await askOne(this.#bus, line, { parts }, { idleMs: LINE_IDLE_MS });
      return true;
    } catch (error) {
      if (error instanceof Fault) return false;
      throw error;
    }
  }
}

/** @param completeTo µs since 1970; null: what it was when the answer was made */
function aged(answer: Answered, { clock }: Engine, { config }: EngineKpi, completeTo: number | null): Answered {
  const { freshness } = answer;
  const to = completeTo ?? Date.parse(freshness.completeTo ?? '') * 1_000;
  return { ...answer, freshness: { ...freshness, ...ageOf(config, { clock, completeTo: to || 0 }) } };
}

/** A person takes note of an alert. */
interface Acknowledging {
  readonly alert: string;
  readonly by: string;
}

interface Following {
  readonly ask: ValuesQuestion;
  readonly scope: Scope;
  readonly signal: AbortSignal;
  readonly heard?: (parts: number) => Promise<boolean>;
}

/** A value with its bucket and dimensions beside each other, as tables have it. */
function flatRow(row: Answered['rows'][number]): Readonly<Record<string, unknown>> {
  if (!('values' in row && 'dimensions' in row)) return row;
  const { bucket, dimensions, values, revision, closed } = row as ValueRow;
  return { ...(bucket === null ? {} : { bucket }), ...dimensions, ...values, revision, closed };
}

/** How far the values are, then the bytes of their file. */
async function* parquetOf(
  engine: Engine,
  kpi: EngineKpi,
  asked: { readonly ask: ValuesQuestion; readonly scope: Scope },
): AsyncGenerator<unknown> {
  if (kpi.fault) throw kpi.fault;
  const path = engine.store.exportPath();
  try {
    // The folder of such files is emptied by whoever opens the engine next: not before this has been read.
    const { freshness, bytes } = await engine.store.read(async (duck) => {
      const told = await writeParquet(engine, kpi, { duck, ...asked, path });
      return { freshness: told, bytes: await readFile(path) };
    });
    yield { freshness, scope: asked.scope.tag };
    for (let at = 0; at < bytes.length; at += PART_BYTES) yield { bytes: bytes.subarray(at, at + PART_BYTES) };
  } finally {
    await rm(path, { force: true });
  }
}

async function shownKpi(engine: Engine, kpi: EngineKpi): Promise<object> {
  const { places: _places, ...config } = kpi.config;
  const lack = engine.lack(kpi);
  const state = kpi.fault ? 'failed' : lack ? 'loading' : 'ready';
  const tables = kpi.tables.map(({ source, table }) => `${source}.${table}`);
  return {
    ...config,
    version: versionOf(config),
    state,
    reason: lack ? describeError(lack) : null,
    tables,
    lineage: await lineageOf(engine, kpi),
    position: engine.vector(kpi),
    freshness: lack ? null : ageOf(config, { clock: engine.clock, completeTo: engine.completeTo(kpi) }),
  };
}

/** Computes what is kept of a KPI from scratch, in one transaction: what is there is answered until then. */
async function computedAnew(engine: Engine, kpi: EngineKpi): Promise<{ differing: number }> {
  const release = await engine.store.lock();
  try {
    kpi.fault = null;
    await engine.define(kpi);
    const lack = engine.lack(kpi);
    if (lack) throw lack;
    return { differing: await engine.check(kpi, true) };
  } finally {
    release();
  }
}
