import type { KpiConfig, KpiDefinition } from '@tributary/config';
import { type Clock, Fault } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { type Compiled, compile, versionOf } from './definition.ts';
import { Maintained } from './maintain.ts';
import { type NamedTable, tablesOfQuery } from './query-kpi.ts';
import type { Changed } from './relations.ts';
import { SourceState } from './source-state.ts';
import type { KpiStore } from './store.ts';
import type { KpiTable } from './table.ts';
import type { Estate } from './upstream.ts';
import { formatVector } from './vector.ts';

export interface EngineOptions {
  readonly name: string;
  readonly kpis: readonly KpiConfig[];
  readonly sources: readonly string[];
  /** What there is beside it, to say where its tables come from; default: sources alone. */
  readonly estate?: Estate;
  readonly store: KpiStore;
  readonly clock: Clock;
  readonly warn: (facts: object, message: string) => void;
}

/** Rows that a KPI reads stay exact only together with what is kept of it: it is computed anew this often, and compared, ms. */
const CHECK_MS = 24 * 3_600_000;

/** Definitions of which it is remembered what was made of them. */
const COMPILED_MAX = 200;

/** One KPI in the engine. */
export interface EngineKpi {
  readonly config: KpiConfig;
  readonly tables: readonly NamedTable[];
  /** Null: not computed (yet), or of the short form, of which nothing is kept. */
  maintained: Maintained | null;
  /** Why it cannot be computed; only another definition, or another try, mends it. */
  fault: Fault | null;
  checkedAt: number;
  /** Rows of what is kept that differed at checks, since the engine was opened. */
  differing: number;
}

/** The tables of some KPIs, from several sources, and what is kept of the KPIs. Whoever calls has the store's lock, unless a method says otherwise. */
export class Engine {
  readonly store: KpiStore;
  readonly clock: Clock;
  readonly name: string;
  readonly kpis: ReadonlyMap<string, EngineKpi>;
  readonly sources: ReadonlyMap<string, SourceState>;
  readonly estate: Estate;
  readonly #warn: EngineOptions['warn'];
  readonly #listeners = new Set<() => void>();
  /** By definition and shapes of its tables: binding costs more than answering. */
  readonly #compiled = new Map<string, Compiled>();
  #tick = 0;

  private constructor(
    { store, clock, name, warn, estate = { sources: [], transforms: [] } }: EngineOptions,
    kpis: ReadonlyMap<string, EngineKpi>,
    sources: ReadonlyMap<string, SourceState>,
  ) {
    this.store = store;
    this.clock = clock;
    this.name = name;
    this.estate = estate;
    this.#warn = warn;
    this.kpis = kpis;
    this.sources = sources;
  }

  /** Takes the lock itself. */
  static async open(options: EngineOptions): Promise<Engine> {
    const release = await options.store.lock();
    try {
      const duck = options.store.writer;
      const kpis = new Map<string, EngineKpi>();
      for (const config of options.kpis) kpis.set(config.name, await engineKpi(duck, config, options.sources));
      const sources = new Map(options.sources.map((name) => [name, new SourceState(name)]));
      for (const state of sources.values()) await state.read(duck);
      const engine = new Engine(options, kpis, sources);
      const [last] = await duck.rows<{ tick: number }>('SELECT coalesce(max(tick), 0) AS tick FROM _meta.position');
      engine.#tick = last?.tick ?? 0;
      await engine.#forgetUnknown(duck);
      return engine;
    } finally {
      release();
    }
  }

  nextTick(): number {
    return ++this.#tick;
  }

  /** Tables of a source that some KPI reads. */
  wanted(source: string): ReadonlySet<string> {
    return new Set(
      [...this.kpis.values()].flatMap(({ tables }) => tables.filter((one) => one.source === source).map(({ table }) => table)),
    );
  }

  /** The longest history that a KPI asks for, ms. */
  get historyMs(): number {
    return Math.max(0, ...[...this.kpis.values()].map(({ config }) => config.historyMs));
  }

  /** Told after every commit. @returns the function that ends it */
  listen(heard: () => void): () => void {
    this.#listeners.add(heard);
    return () => this.#listeners.delete(heard);
  }

  told(): void {
    for (const heard of this.#listeners) heard();
  }

  /** What keeps a KPI from being answered; null = nothing does. */
  lack(kpi: EngineKpi): Fault | null {
    if (kpi.fault) return kpi.fault;
    for (const { source, table } of kpi.tables) {
      const state = this.sources.get(source);
      const known = state?.tables.get(table);
      if (known?.complete && !known.held) continue;
      if (state?.place.complete && !known)
        return new Fault('config_invalid', `Kpi ${kpi.config.name}: source ${source} captures no table ${table}`, {
          kpi: kpi.config.name,
        });
      return new Fault('not_complete', `Kpi ${kpi.config.name}: ${source}.${table} is still being read`, {
        kpi: kpi.config.name,
      });
    }
    return null;
  }

  /**
   * Brings what is kept of every KPI along with a change of tables. Inside its transaction.
   * @param renewed tables that came, were completed, or took another shape: their KPIs are computed from scratch
   */
  async settle(duck: Duck, changed: Changed, renewed: ReadonlySet<string>): Promise<void> {
    for (const kpi of this.kpis.values()) {
      const names = kpi.tables.filter(({ source }) => source === changed.source).map(({ table }) => table);
      if (names.length === 0 || kpi.config.definition.kind === 'query') continue;
      if (this.lack(kpi)) await this.#stale(duck, kpi);
      else {
        const anew = names.some((name) => renewed.has(name));
        if (anew || kpi.maintained === null) await this.#build(duck, kpi, anew);
        if (!anew && kpi.maintained) await this.#change(duck, kpi, changed);
      }
    }
  }

  /** Computes a KPI that is not, where its tables are there; a definition that was computed before is taken as it is. */
  async define(kpi: EngineKpi): Promise<void> {
    if (kpi.config.definition.kind === 'query' || kpi.maintained || this.lack(kpi)) return;
    await this.transaction((duck) => this.#build(duck, kpi, false));
  }

  /** One transaction on the writer. */
  async transaction<T>(work: (duck: Duck) => Promise<T>): Promise<T> {
    const duck = this.store.writer;
    await duck.run('BEGIN');
    try {
      const result = await work(duck);
      await duck.run('COMMIT');
      return result;
    } catch (error) {
      await duck.run('ROLLBACK').catch(() => {});
      throw error;
    }
  }

  /** Compares what is kept with what the definition says, for KPIs whose day is over. A difference is a fault, and mended. */
  async check(kpi: EngineKpi, always = false): Promise<number> {
    const now = this.clock.monotonic();
    if (!kpi.maintained || (!always && now - kpi.checkedAt < CHECK_MS)) return 0;
    kpi.checkedAt = now;
    const { maintained } = kpi;
    const differing = await maintained.differences(this.store.writer);
    kpi.differing += differing;
    if (differing > 0) {
      this.#warn({ kpi: kpi.config.name, differing }, 'a KPI differs from what its definition says: it is computed anew');
      await this.transaction((duck) => maintained.rebuild(duck));
    }
    return differing;
  }

  /** Compiles a definition against the tables as they are. */
  async compile(duck: Duck, config: KpiConfig, sources: ReadonlyMap<string, SourceState> = this.sources): Promise<Compiled> {
    const { definition } = config;
    if (definition.kind !== 'measures') throw new Fault('config_invalid', `Kpi ${config.name} has no measures`);
    const tableOf = (source: string, table: string) => sources.get(source)?.tables.get(table) ?? null;
    const shapes = definition.from.map(({ source, table }) => tableOf(source, table)?.version ?? null);
    const key = JSON.stringify([config.name, versionOf(config), shapes]);
    const known = this.#compiled.get(key);
    if (known) {
      const from = known.from.map((one) => ({ ...one, table: tableOf(one.table.source, one.table.name) as KpiTable }));
      return { ...known, config, from };
    }
    const compiled = await compile(duck, { ...config, definition }, tableOf);
    if (this.#compiled.size >= COMPILED_MAX) this.#compiled.clear();
    this.#compiled.set(key, compiled);
    return compiled;
  }

  vector(kpi: EngineKpi): string {
    const names = new Set(kpi.tables.map(({ source }) => source));
    return formatVector(new Map([...this.sources].filter(([name]) => names.has(name)).map(([name, { place }]) => [name, place])));
  }

  async #change(duck: Duck, kpi: EngineKpi, changed: Changed): Promise<void> {
    await this.#guarded(kpi, () => (kpi.maintained as Maintained).change(duck, changed, this.#closing(kpi)));
  }

  async #stale(duck: Duck, kpi: EngineKpi): Promise<void> {
    kpi.maintained = null;
    await duck.run('UPDATE _meta.kpis SET stale = true WHERE name = $1 AND NOT stale', [kpi.config.name]);
  }

  /** @param anew what is kept of it, if anything, does not belong to the rows */
  async #build(duck: Duck, kpi: EngineKpi, anew: boolean): Promise<void> {
    await this.#guarded(kpi, async () => {
      const maintained = new Maintained(await this.compile(duck, kpi.config));
      const [row] = await duck.rows<{ version: string; stale: boolean }>(
        'SELECT version, stale FROM _meta.kpis WHERE name = $1',
        [kpi.config.name],
      );
      const kept = !anew && row?.version === maintained.compiled.version && !row.stale;
      if (!kept) await maintained.rebuild(duck);
      kpi.maintained = maintained;
      kpi.checkedAt = this.clock.monotonic();
    });
  }

  /** A KPI that cannot be computed must not hold up the others: it is put out of the way, and its projection starts again. */
  async #guarded(kpi: EngineKpi, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Fault) || !['config_invalid', 'database_rejected'].includes(error.kind)) throw error;
      kpi.fault =
        error.kind === 'config_invalid'
          ? error
          : new Fault('config_invalid', `Kpi ${kpi.config.name} fails on a row: ${error.message}`, { kpi: kpi.config.name });
      kpi.maintained = null;
      throw new Fault('kpi_put_aside', kpi.fault.message, { kpi: kpi.config.name });
    }
  }

  /** Everything up to then is in its tables, µs since 1970; 0 = not known. */
  completeTo(kpi: EngineKpi): number {
    return Math.min(...kpi.tables.map(({ source }) => this.sources.get(source)?.place.watermark ?? 0));
  }

  #closing(kpi: EngineKpi) {
    return { completeTo: this.completeTo(kpi), vector: this.vector(kpi) };
  }

  /** Notes that what is kept of these KPIs no longer belongs to the rows. Inside a transaction. */
  async forget(duck: Duck, source: string): Promise<void> {
    for (const kpi of this.kpis.values()) {
      if (!kpi.tables.some((one) => one.source === source)) continue;
      await this.#stale(duck, kpi);
    }
  }

  /** What is kept of KPIs that are no longer wanted goes. */
  async #forgetUnknown(duck: Duck): Promise<void> {
    for (const { name } of await duck.rows<{ name: string }>('SELECT name FROM _meta.kpis')) {
      if (this.kpis.has(name)) continue;
      for (const schema of ['_agg', '_val']) await duck.run(`DROP TABLE IF EXISTS ${schema}."${name}"`);
      for (const [table, column] of [
        ['kpis', 'name'],
        ['revisions', 'kpi'],
      ])
        await duck.run(`DELETE FROM _meta.${table} WHERE ${column} = $1`, [name]);
    }
  }
}

async function engineKpi(duck: Duck, config: KpiConfig, sources: readonly string[]): Promise<EngineKpi> {
  const none = { config, maintained: null, fault: null, checkedAt: 0, differing: 0 };
  if (config.definition.kind === 'measures') {
    const tables = (config.definition as KpiDefinition).from.map(({ source, table }) => ({ source, table }));
    return { ...none, tables };
  }
  try {
    return { ...none, tables: await tablesOfQuery(duck, config, sources) };
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    return { ...none, tables: [], fault: error };
  }
}
