import { schemaVersion } from '@tributary/changelog';
import {
  askOne,
  type Bus,
  compareSourcePosition,
  Fault,
  Op,
  ORIGIN,
  type Position,
  type Section,
  type SourcePosition,
  type StoredBatch,
  type TableSchema,
  tableName,
} from '@tributary/core';
import type { Group, Projection, Rewind } from '@tributary/projection';
import type { Engine } from './engine.ts';
import { loadFromLake } from './lake-load.ts';
import type { Moment, Place, SourceState } from './source-state.ts';
import type { KpiTable } from './table.ts';

export interface KpiProjectionOptions {
  readonly engine: Engine;
  readonly source: string;
  readonly bus: Bus;
  /** Lake sinks that hold this source. */
  readonly lakes: readonly string[];
  readonly warn: (facts: object, message: string) => void;
}

/** A barrier that is not answered for this long is asked for again. */
const BARRIER_IDLE_MS = 60_000;
const AGAIN_MS = 500;
/** History is let go of this often, ms. */
const TRIM_MS = 60_000;

/**
 * The tables of one source in an engine. Effect, results and position of a group are one transaction (I6, K1).
 * A transaction in parts is staged outside of any until its last part comes, so that no other source waits for it.
 */
export class KpiProjection implements Projection {
  readonly #options: KpiProjectionOptions;
  readonly #engine: Engine;
  readonly #state: SourceState;
  readonly #wanted: ReadonlySet<string>;
  readonly #end = new AbortController();
  #release: (() => void) | null = null;
  #begun = false;
  #pending: Moment[] = [];
  /** Tables that came, or took another shape, in this transaction. */
  #renewed = new Set<string>();
  /** From there on the state is complete; null = a barrier is being waited for. */
  #completeAt: { readonly seq: number; readonly shapes: readonly TableSchema[] } | null = null;
  #asking: AbortController | null = null;
  #trimmedAt: number;

  private constructor(options: KpiProjectionOptions) {
    this.#options = options;
    this.#engine = options.engine;
    this.#state = options.engine.sources.get(options.source) as SourceState;
    this.#wanted = options.engine.wanted(options.source);
    this.#trimmedAt = options.engine.clock.monotonic();
  }

  /** Loads what it has nothing of from the lake. */
  static async open(options: KpiProjectionOptions): Promise<KpiProjection> {
    const projection = new KpiProjection(options);
    await projection.#prepare();
    return projection;
  }

  async position(): Promise<Position> {
    await this.#rollback();
    return this.#state.place.position;
  }

  held(): ReadonlyMap<string, SourcePosition> {
    return this.#state.held;
  }

  wants(table: string): boolean {
    return this.#wanted.has(table);
  }

  async apply(group: Group): Promise<void> {
    try {
      this.#release ??= await this.#engine.store.lock();
      for (const batch of group.batches) await this.#stage(batch);
      if (!group.partial) await this.#commit();
      // Staged parts wait for the last one without the lock, unless they had to be written already.
      if (!this.#begun) this.#unlock();
    } catch (error) {
      await this.#rollback();
      throw error;
    }
  }

  async reset(): Promise<void> {
    await this.#rollback();
    await this.#locked(async () => {
      await this.#engine.transaction(async (duck) => {
        await this.#state.clear(duck);
        await this.#engine.forget(duck, this.#options.source);
        await this.#state.save(duck, { ...this.#state.place, wanted: [...this.#wanted] });
      });
    });
    this.#awaitComplete();
  }

  /** Keeps the rows: what follows is applied over them once more. They are no state of the source until it has come as far again. */
  async rewind(rewind: Rewind): Promise<void> {
    await this.#rollback();
    await this.#locked(async () => {
      await this.#engine.transaction(async (duck) => {
        const { place, tables } = this.#state;
        for (const table of tables.values()) {
          await table.forgetHistory(duck);
          table.complete = false;
          const later = !rewind.foreign && table.held && compareSourcePosition(table.held, rewind.until) > 0;
          if (!later) table.held = rewind.kept.has(table.name) ? rewind.until : null;
          if (!table.held && (rewind.foreign || rewind.begun.has(table.name))) await table.forgetSnapshot(duck);
        }
        await duck.run('DELETE FROM _meta.moments WHERE source = $1', [this.#options.source]);
        await this.#engine.forget(duck, this.#options.source);
        await this.#state.saveTables(duck);
        await this.#state.save(duck, {
          ...place,
          position: rewind.to,
          watermark: rewind.watermark,
          floor: place.tick,
          complete: false,
        });
      });
    });
    this.#awaitComplete();
  }

  async close(): Promise<void> {
    this.#end.abort(new Error('the projection stops'));
    await this.#rollback();
  }

  facts(): Record<string, unknown> {
    const { tables, place } = this.#state;
    return { tables: tables.size, complete: place.complete };
  }

  async #prepare(): Promise<void> {
    const { source, bus, lakes, warn } = this.#options;
    await this.#locked(async () => {
      await this.#engine.transaction((duck) => this.#state.read(duck));
      const { place } = this.#state;
      const begun = place.position.seq > 0 || place.position.lsn > 0n;
      const before = new Set(place.wanted);
      // A table that is wanted since now has a past: it is read from the start, with the others, to be right at one position.
      if (begun && [...this.#wanted].every((name) => before.has(name))) return;
      const loaded = await loadFromLake({ source, bus, lakes, wanted: this.#wanted, warn });
      await this.#engine.transaction(async (duck) => {
        await this.#state.clear(duck);
        await this.#engine.forget(duck, source);
        const tick = this.#engine.nextTick();
        if (loaded) {
          for (const one of loaded.tables) {
            const { table } = await this.#state.shape(duck, one.schema, one.version);
            await table.load(duck, one.path, tick);
          }
          await this.#state.saveTables(duck);
        }
        const position = loaded?.position ?? ORIGIN;
        await this.#state.save(duck, {
          ...this.#state.place,
          position,
          watermark: loaded?.watermark ?? 0,
          tick,
          floor: tick,
          wanted: [...this.#wanted],
        });
      });
    });
    if (this.#incomplete) this.#awaitComplete();
  }

  get #incomplete(): boolean {
    return !this.#state.place.complete || [...this.#state.tables.values()].some((table) => !table.complete);
  }

  async #stage(batch: StoredBatch): Promise<void> {
    const { store } = this.#engine;
    const tick = this.#engine.nextTick();
    const { mark } = batch.header;
    this.#pending.push({ seq: batch.seq, header: batch.header, tick });
    store.staging.add(this.#options.source);
    if (mark && this.#wanted.has(mark.table) && mark.step === 'begin') {
      await this.#begin();
      const table = this.#state.tables.get(mark.table);
      if (table) {
        await this.#fold(table);
        await table.forgetSnapshot(store.writer);
        await table.begin(store.writer);
      }
    }
    for (const section of batch.sections) {
      const name = tableName(section.schema);
      if (!this.#wanted.has(name)) continue;
      const table = await this.#shaped(section.schema, section.schemaVersion);
      await this.#changes(table, section, tick);
    }
    const ended = mark?.step === 'end' ? this.#state.tables.get(mark.table) : undefined;
    if (ended) {
      await this.#begin();
      await this.#fold(ended);
      if (!ended.complete) this.#renewed.add(ended.name);
      const complete = ended.complete || this.#state.place.complete;
      await ended.end(store.writer, { ...this.#how, tick });
      ended.complete = complete;
    }
  }

  /** The table in this shape; a new shape is given to what was staged in the old one too. */
  async #shaped(schema: TableSchema, version: string): Promise<KpiTable> {
    const known = this.#state.tables.get(tableName(schema));
    if (known?.version === version) return known;
    await this.#begin();
    if (known) await this.#fold(known);
    const { table } = await this.#state.shape(this.#engine.store.writer, schema, version);
    this.#renewed.add(table.name);
    return table;
  }

  async #changes(table: KpiTable, section: Section, tick: number): Promise<void> {
    const duck = this.#engine.store.writer;
    if (table.needsFold(section) || table.full) {
      await this.#begin();
      await this.#fold(table);
    }
    if (!section.ops.includes(Op.truncated)) return table.stage(duck, section, { tick, range: null });
    await this.#begin();
    let from = 0;
    for (let row = 0; row <= section.rows; row++) {
      const truncated = section.ops[row] === Op.truncated;
      if (!truncated && row < section.rows) continue;
      if (row > from) await table.stage(duck, section, { tick, range: { from, to: row } });
      if (truncated) {
        await this.#fold(table);
        await table.empty(duck, { ...this.#how, tick });
      }
      from = row + 1;
    }
  }

  async #commit(): Promise<void> {
    const { store } = this.#engine;
    const { source } = this.#options;
    await this.#begin();
    const duck = store.writer;
    const before = this.#state.place;
    const last = this.#pending.at(-1) as Moment;
    for (const table of this.#state.tables.values()) if (table.touched) await this.#fold(table);
    const tables = new Set([...this.#state.tables.values()].filter((table) => table.touched));
    const place = this.#placeAfter(before, last);
    const completed = this.#completeAt !== null && last.seq >= this.#completeAt.seq;
    if (completed) await this.#complete(place);
    if (completed || this.#renewed.size > 0 || tables.size > 0) {
      this.#releaseHeld(place);
      await this.#state.saveTables(duck);
      await this.#engine.settle(duck, { source, before: before.tick, tables }, completed ? this.#wanted : this.#renewed);
    }
    await this.#state.noteMoments(duck, this.#pending);
    await this.#state.save(duck, { ...place, complete: this.#state.place.complete });
    await duck.run('COMMIT');
    this.#begun = false;
    this.#settled();
    if (this.#incomplete && !this.#asking && !this.#completeAt) this.#awaitComplete();
    await this.#maintain();
    this.#engine.told();
  }

  #placeAfter(before: Place, { seq, header, tick }: Moment): Place {
    const committedAt = this.#pending.reduce(
      (newest, one) => one.header.transactions.at(-1)?.committedAt ?? newest,
      before.committedAt,
    );
    const position = { seq, ...header.position, epoch: header.epoch };
    return { ...before, position, watermark: header.watermark, committedAt, tick };
  }

  /** The barrier is passed: what is here is a state that the source had. Tables that it has no row of are known by their shape. */
  async #complete(place: Place): Promise<void> {
    const duck = this.#engine.store.writer;
    for (const schema of this.#completeAt?.shapes ?? []) {
      if (this.#wanted.has(tableName(schema)) && !this.#state.tables.has(tableName(schema)))
        await this.#state.shape(duck, schema, schemaVersion(schema));
    }
    for (const table of this.#state.tables.values()) table.complete = true;
    this.#state.place = { ...place, complete: true };
    this.#completeAt = null;
  }

  /** A table that a replay kept is level again. */
  #releaseHeld({ position }: Place): void {
    for (const table of this.#state.tables.values())
      if (table.held && compareSourcePosition(position, table.held) >= 0) {
        table.held = null;
        this.#renewed.add(table.name);
      }
  }

  get #how(): { before: number; keepHistory: boolean } {
    return { before: this.#state.place.tick, keepHistory: this.#state.place.complete && this.#engine.historyMs > 0 };
  }

  async #fold(table: KpiTable): Promise<void> {
    const duck = this.#engine.store.writer;
    const { before, keepHistory } = this.#how;
    await table.fold(duck, before, keepHistory);
    await table.remove(duck, { before, keepHistory });
  }

  async #begin(): Promise<void> {
    if (this.#begun) return;
    await this.#engine.store.writer.run('BEGIN');
    this.#begun = true;
  }

  #settled(): void {
    for (const table of this.#state.tables.values()) table.close();
    this.#pending = [];
    this.#renewed = new Set();
    this.#engine.store.staging.delete(this.#options.source);
  }

  #unlock(): void {
    this.#release?.();
    this.#release = null;
  }

  async #rollback(): Promise<void> {
    if (!this.#release && this.#pending.length === 0) return;
    this.#release ??= await this.#engine.store.lock();
    try {
      if (this.#begun) await this.#engine.store.writer.run('ROLLBACK').catch(() => {});
      this.#begun = false;
      this.#settled();
      await this.#state.read(this.#engine.store.writer);
    } finally {
      this.#unlock();
    }
  }

  async #locked(work: () => Promise<void>): Promise<void> {
    const release = await this.#engine.store.lock();
    try {
      await work();
    } finally {
      release();
    }
  }

  /** Between two groups, with the lock: old history, the check of the day, the file. */
  async #maintain(): Promise<void> {
    const { clock, historyMs, store, kpis } = this.#engine;
    if (clock.monotonic() - this.#trimmedAt >= TRIM_MS) {
      this.#trimmedAt = clock.monotonic();
      await this.#trim((clock.now() - historyMs) * 1_000);
    }
    for (const kpi of kpis.values()) await this.#engine.check(kpi);
    await store.maintain();
  }

  /** @param until µs since 1970 */
  async #trim(until: number): Promise<void> {
    await this.#engine.transaction(async (duck) => {
      const { source } = this.#options;
      const [row] = await duck.rows<{ tick: number | null }>(
        'SELECT max(tick) AS tick FROM _meta.moments WHERE source = $1 AND watermark <= $2::BIGINT',
        [source, String(until)],
      );
      const floor = row?.tick ?? 0;
      if (floor <= this.#state.place.floor) return;
      for (const table of this.#state.tables.values()) await table.trimHistory(duck, floor);
      await duck.run('DELETE FROM _meta.moments WHERE source = $1 AND tick < $2::BIGINT', [source, String(floor)]);
      await this.#state.save(duck, { ...this.#state.place, floor });
    });
  }

  /** Asks the source for a barrier until it answers: from there on everything that was due is here. */
  #awaitComplete(): void {
    this.#asking?.abort(new Error('asked anew'));
    const asking = new AbortController();
    this.#asking = asking;
    this.#completeAt = null;
    const signal = AbortSignal.any([this.#end.signal, asking.signal]);
    void this.#ask(signal)
      .catch((error: unknown) => {
        if (!signal.aborted) this.#options.warn({ source: this.#options.source, error: String(error) }, 'the barrier failed');
      })
      .finally(() => {
        if (this.#asking === asking) this.#asking = null;
      });
  }

  async #ask(signal: AbortSignal): Promise<void> {
    const { bus, source } = this.#options;
    while (!signal.aborted) {
      try {
        const question = { shapes: [...this.#wanted] };
        const options = { idleMs: BARRIER_IDLE_MS, signal };
        const told = await askOne<{ seq: number; shapes?: readonly TableSchema[] }>(
          bus,
          `tributary.source.${source}.barrier`,
          question,
          options,
        );
        if (!signal.aborted) this.#completeAt = { seq: told.seq, shapes: told.shapes ?? [] };
        return;
      } catch (error) {
        if (signal.aborted || !(error instanceof Fault)) throw error;
        await this.#engine.clock.sleep(AGAIN_MS, signal);
      }
    }
  }
}
