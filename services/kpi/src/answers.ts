import { isDeepStrictEqual } from 'node:util';
import { aborted, type Actor } from '@tributary/cluster';
import type { KpiConfig } from '@tributary/config';
import { type Bus, describeError, Fault, formatLsn, LIMITS } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { type Compiled, versionOf } from './definition.ts';
import type { Engine, EngineKpi } from './engine.ts';
import { Maintained } from './maintain.ts';
import { queryOver } from './query-kpi.ts';
import { asOf, now, type View } from './relations.ts';
import { SourceState } from './source-state.ts';
import { type ValueRow, ValuesReader, type ValuesQuestion } from './values.ts';
import { formatVector, momentOf } from './vector.ts';

/** How far the answer is, so that anyone can compute it anew at the same place and compare. */
export interface KpiFreshness {
  /** Age of what is complete, ms. */
  readonly lagMs: number;
  readonly sources: Readonly<Record<string, { readonly lsn: string; readonly committedAt: string | null }>>;
  /** Everything that was committed up to then, on every source, is in the answer; null = not known. */
  readonly completeTo: string | null;
  readonly definitionVersion: string;
  /** The highest of any row. */
  readonly revision: number;
  /** Where each source stands, in one word: what `asOf` takes. */
  readonly position: string;
  /** Columns that were sent values which their type cannot hold: these count as NULL. */
  readonly inexact: readonly string[];
}

interface Answered {
  readonly rows: readonly (ValueRow | Readonly<Record<string, unknown>>)[];
  readonly freshness: KpiFreshness;
}

const STREAM_SILENT_MS = 10_000;

/** Answers for one KPI on `tributary.kpi.<name>.…`, as long as it runs. A KPI that cannot be computed is failed, with its reason. */
export class KpiActor implements Actor {
  readonly #open: () => Promise<Engine>;
  readonly #bus: Bus;
  readonly #name: string;
  #engine: Engine | null = null;
  /** Of the short form: the last answer to the whole question, and when (monotonic ms) it was made. */
  #answered: { readonly position: string; readonly at: number; readonly answer: Answered } | null = null;

  constructor({ open, bus, name }: { open: () => Promise<Engine>; bus: Bus; name: string }) {
    this.#open = open;
    this.#bus = bus;
    this.#name = name;
  }

  facts(): Record<string, unknown> {
    const kpi = this.#engine?.kpis.get(this.#name);
    return { kpi: this.#name, computed: kpi?.maintained !== null };
  }

  async run(signal: AbortSignal, ready: () => void, halted: (fault: Fault) => Promise<void>): Promise<void> {
    const engine = await this.#open();
    this.#engine = engine;
    const kpi = engine.kpis.get(this.#name) as EngineKpi;
    const ended = AbortSignal.any([signal, engine.store.invalid]);
    const stops = await this.#serve(engine, kpi, signal);
    try {
      while (!ended.aborted) {
        await this.#define(engine, kpi);
        if (kpi.fault) {
          await Promise.race([halted(kpi.fault), aborted(ended)]);
          if (kpi.config.definition.kind === 'measures') kpi.fault = null;
          continue;
        }
        ready();
        await this.#faulted(engine, kpi, ended);
      }
    } finally {
      for (const stop of stops) await stop();
    }
    if (!signal.aborted) throw engine.store.invalid.reason as Error;
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

  async #serve(engine: Engine, kpi: EngineKpi, signal: AbortSignal): Promise<(() => Promise<void>)[]> {
    const subject = (what: string) => `tributary.kpi.${this.#name}.${what}`;
    const answer = (ask: ValuesQuestion) => this.#answer(engine, kpi, ask);
    const shown = () => shownKpi(engine, kpi);
    const follow = (ask: ValuesQuestion) => this.#follow(engine, kpi, { ask, signal });
    return [
      await this.#bus.serve(subject('values'), async function* (question) {
        const { rows, freshness } = await answer(question as ValuesQuestion);
        yield { rows: rows.slice(0, LIMITS.answerRows), freshness };
        for (let at = LIMITS.answerRows; at < rows.length; at += LIMITS.answerRows)
          yield { rows: rows.slice(at, at + LIMITS.answerRows) };
      }),
      await this.#bus.serve(subject('show'), async function* () {
        yield await shown();
      }),
      await this.#bus.serve(subject('stream'), (question) => follow(question as ValuesQuestion)),
      await this.#bus.serve(subject('backfill'), async function* () {
        yield { done: true, kpi: kpi.config.name, ...(await computedAnew(engine, kpi)) };
      }),
    ];
  }

  async #answer(engine: Engine, kpi: EngineKpi, ask: ValuesQuestion): Promise<Answered> {
    if (kpi.fault) throw kpi.fault;
    const { definition } = kpi.config;
    if (definition.kind === 'measures')
      return engine.store.read((duck) => answerOf(engine, kpi.config, { duck, ask, kept: true }));
    const known = this.#answered;
    const plain = ask.asOf === undefined;
    if (plain && known && (known.position === engine.vector(kpi) || engine.clock.monotonic() - known.at < definition.everyMs))
      return known.answer;
    const answer = await engine.store.read((duck) => queryAnswer(engine, kpi, { duck, ask }));
    if (plain) this.#answered = { position: answer.freshness.position, at: engine.clock.monotonic(), answer };
    return answer;
  }

  /** The values, and again whenever they changed; in between, how far they are. */
  async *#follow(
    engine: Engine,
    kpi: EngineKpi,
    { ask, signal }: { ask: ValuesQuestion; signal: AbortSignal },
  ): AsyncGenerator<unknown> {
    let before: readonly unknown[] | null = null;
    let moved = true;
    let wake: () => void = () => {};
    const unlisten = engine.listen(() => {
      moved = true;
      wake();
    });
    try {
      while (!signal.aborted) {
        if (moved) {
          moved = false;
          const { rows, freshness } = await this.#answer(engine, kpi, ask);
          const known = before;
          const changed = known === null ? rows : rows.filter((row) => !known.some((one) => isDeepStrictEqual(one, row)));
          const gone = known === null ? 0 : known.filter((row) => !rows.some((one) => sameKey(one, row))).length;
          // A bucket that is no longer there cannot be told by its row: then everything is told.
          if (known === null || changed.length > 0 || gone > 0)
            yield { whole: known === null || gone > 0, rows: gone > 0 ? rows : changed, freshness };
          else yield { whole: false, rows: [], freshness };
          before = rows;
        }
        const heard = new Promise<void>((resolve) => (wake = resolve));
        if (!moved) await Promise.race([heard, engine.clock.sleep(STREAM_SILENT_MS, signal).catch(() => {})]);
        moved = true;
      }
    } finally {
      unlisten();
    }
  }
}

/** Answers what concerns no KPI that runs: how another definition would differ. */
export class EngineActor implements Actor {
  readonly #open: () => Promise<Engine>;
  readonly #bus: Bus;
  readonly #engine: string;

  constructor({ open, bus, engine }: { open: () => Promise<Engine>; bus: Bus; engine: string }) {
    this.#open = open;
    this.#bus = bus;
    this.#engine = engine;
  }

  facts(): Record<string, unknown> {
    return {};
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    const engine = await this.#open();
    const stop = await this.#bus.serve(`tributary.kpi-engine.${this.#engine}.preview`, async function* (question) {
      const { config, ask } = question as { config: KpiConfig; ask: ValuesQuestion };
      yield await engine.store.read((duck) => previewed(engine, config, { duck, ask }));
    });
    ready();
    await aborted(AbortSignal.any([signal, engine.store.invalid]));
    await stop();
    if (!signal.aborted) throw engine.store.invalid.reason as Error;
  }
}

function sameKey(one: unknown, other: unknown): boolean {
  const key = (row: unknown) => [(row as ValueRow).bucket, (row as ValueRow).dimensions];
  return isDeepStrictEqual(key(one), key(other));
}

async function shownKpi(engine: Engine, kpi: EngineKpi): Promise<object> {
  const { places: _places, ...config } = kpi.config;
  const lack = engine.lack(kpi);
  const state = kpi.fault ? 'failed' : lack ? 'loading' : 'ready';
  const tables = kpi.tables.map(({ source, table }) => `${source}.${table}`);
  return { ...config, state, reason: lack ? describeError(lack) : null, tables, position: engine.vector(kpi) };
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

interface Asked {
  readonly duck: Duck;
  readonly ask: ValuesQuestion;
}

/** Shapes and places of the sources, as of the reader's moment. */
async function sourcesAt(engine: Engine, duck: Duck, names: ReadonlySet<string>): Promise<Map<string, SourceState>> {
  const states = new Map<string, SourceState>();
  for (const name of [...names].toSorted()) {
    if (!engine.sources.has(name))
      throw new Fault('config_invalid', `engine ${engine.name} holds no table of ${name}; apply the Kpi to have it read`);
    const state = new SourceState(name);
    await state.read(duck);
    states.set(name, state);
  }
  return states;
}

/** @param kept answer from what is kept of the KPI, else from the rows alone */
async function answerOf(engine: Engine, config: KpiConfig, { duck, ask, kept }: Asked & { kept: boolean }): Promise<Answered> {
  const { definition } = config;
  if (definition.kind !== 'measures') throw new Fault('config_invalid', `Kpi ${config.name} has no measures`);
  const states = await sourcesAt(engine, duck, new Set(definition.from.map(({ source }) => source)));
  for (const { source, table } of definition.from) {
    const state = states.get(source) as SourceState;
    const known = state.tables.get(table);
    if (known?.complete && !known.held) continue;
    throw new Fault('not_complete', `Kpi ${config.name}: ${source}.${table} is still being read`, { kpi: config.name });
  }
  const compiled = await engine.compile(duck, config, states);
  if (kept) await assertKept(duck, compiled);
  const moment = await viewed(duck, ask.asOf, states);
  const maintained = new Maintained(compiled);
  const reader = new ValuesReader(duck, compiled, {
    view: moment.view,
    kept: kept && ask.asOf === undefined ? maintained : null,
    ask,
  });
  const rows = await reader.rows(moment.completeTo);
  const revision = rows.reduce((highest, row) => Math.max(highest, row.revision), 0);
  const inexact = compiled.from.flatMap(({ table }) =>
    [...table.inexact].map((column) => `${table.source}.${table.name}.${column}`),
  );
  return {
    rows,
    freshness: freshnessOf(engine, moment, { version: compiled.version, revision, inexact: [...new Set(inexact)] }),
  };
}

async function assertKept(duck: Duck, { config, version }: Compiled): Promise<void> {
  const [row] = await duck.rows<{ version: string; stale: boolean }>('SELECT version, stale FROM _meta.kpis WHERE name = $1', [
    config.name,
  ]);
  if (row?.version === version && !row.stale) return;
  throw new Fault('not_complete', `Kpi ${config.name} is still being computed`, { kpi: config.name });
}

interface Viewed {
  readonly view: View;
  readonly completeTo: number;
  readonly position: string;
  readonly sources: KpiFreshness['sources'];
}

/** The newest moment, or one of the past. */
async function viewed(duck: Duck, text: string | undefined, states: ReadonlyMap<string, SourceState>): Promise<Viewed> {
  const places = new Map([...states].map(([name, { place }]) => [name, place]));
  if (text === undefined) {
    const sources = [...places].map(
      ([name, { position, committedAt }]) => [name, { lsn: formatLsn(position.lsn), committedAt: isoOf(committedAt) }] as const,
    );
    const completeTo = Math.min(...[...places.values()].map(({ watermark }) => watermark));
    return { view: now, completeTo, position: formatVector(places), sources: Object.fromEntries(sources) };
  }
  const { ticks, sources } = await momentOf(duck, text, places);
  const told = [...sources].map(([name, { lsn, watermark }]) => [name, { lsn, committedAt: isoOf(watermark) }] as const);
  return {
    view: asOf((source) => ticks.get(source) ?? 0),
    completeTo: Math.min(...[...sources.values()].map(({ watermark }) => watermark)),
    position: [...sources]
      .map(([name, { place }]) => `${name}:${place}`)
      .toSorted()
      .join(','),
    sources: Object.fromEntries(told),
  };
}

function freshnessOf(
  engine: Engine,
  { completeTo, position, sources }: Viewed,
  rest: { version: string; revision: number; inexact: string[] },
): KpiFreshness {
  const lagMs = Math.max(0, Math.round(engine.clock.now() - completeTo / 1_000));
  const { version: definitionVersion, ...others } = rest;
  return { lagMs, sources, completeTo: isoOf(completeTo), definitionVersion, ...others, position };
}

function isoOf(micros: number): string | null {
  return micros > 0 ? new Date(micros / 1_000).toISOString() : null;
}

async function queryAnswer(engine: Engine, kpi: EngineKpi, { duck, ask }: Asked): Promise<Answered> {
  const states = await sourcesAt(engine, duck, new Set(kpi.tables.map(({ source }) => source)));
  const moment = await viewed(duck, ask.asOf, states);
  const inexact: string[] = [];
  const sql = await queryOver(duck, kpi.config, ({ source, table: name }) => {
    const table = states.get(source)?.tables.get(name);
    if (!table?.complete || table.held)
      throw new Fault('not_complete', `Kpi ${kpi.config.name}: ${source}.${name} is still being read`, { kpi: kpi.config.name });
    inexact.push(...[...table.inexact].map((column) => `${source}.${name}.${column}`));
    return { table, select: moment.view(table) };
  });
  const { rows } = await duck.query(sql);
  return { rows, freshness: freshnessOf(engine, moment, { version: versionOf(kpi.config), revision: 0, inexact }) };
}

/** What a definition would say beside what the running one of that name says, at one moment, where they differ. */
async function previewed(engine: Engine, config: KpiConfig, { duck, ask }: Asked): Promise<object> {
  const after = await answerOf(engine, config, { duck, ask, kept: false });
  const running = engine.kpis.get(config.name);
  const before = running ? await answerOf(engine, running.config, { duck, ask, kept: false }) : null;
  const key = (row: unknown) => JSON.stringify([(row as ValueRow).bucket, (row as ValueRow).dimensions]);
  const valuesOf = (answered: Answered | null) => new Map((answered?.rows ?? []).map((row) => [key(row), row as ValueRow]));
  const [old, fresh] = [valuesOf(before), valuesOf(after)];
  const differences = [...new Set([...old.keys(), ...fresh.keys()])].flatMap((one) => {
    const [was, is] = [old.get(one), fresh.get(one)];
    if (isDeepStrictEqual(was?.values, is?.values)) return [];
    const { bucket, dimensions } = (is ?? was) as ValueRow;
    return [{ bucket, dimensions, before: was?.values ?? null, after: is?.values ?? null }];
  });
  return { kpi: config.name, running: running !== undefined, rows: after.rows.length, differences, freshness: after.freshness };
}
