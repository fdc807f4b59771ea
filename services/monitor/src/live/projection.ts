import type { ObjectType, ProcessConfig } from '@tributary/config';
import {
  compareSourcePosition,
  Op,
  type Position,
  type SourcePosition,
  type SnapshotMark,
  type StoredBatch,
} from '@tributary/core';
import { type Duck, duckLiteral } from '@tributary/duckdb';
import type { Group, Projection, Rewind } from '@tributary/projection';
import type { ProcessEvent } from '../state.ts';
import { Ticks } from '../ticks.ts';
import { live, type Reading } from './life.ts';
import { Lives, type Occasion } from './lives.ts';
import { type Place, readPlace, readReadings, type TableReading, writePlace, writeReading } from './place.ts';
import { marks, type RowChange, rowChanges } from './row-changes.ts';
import { joinTransactions, settleCases } from './settle.ts';
import type { ProcessStore } from './store.ts';

/** Rows that are looked at together: as many objects are read at once. */
const ROWS_AT_ONCE = 20_000;
/** Events of one transaction that are held until its end. */
const ADDED_MAX = 100_000;

/**
 * The objects and events of one source in a process. Effect and position of a group are one transaction of its file (I6); a
 * transaction in parts is one too, and the other sources of the process wait for its end.
 */
export class ProcessProjection implements Projection {
  readonly #store: ProcessStore;
  readonly #process: ProcessConfig;
  readonly #source: string;
  #place: Place;
  #readings: Map<string, TableReading>;
  #ticks: Ticks;
  /** While a transaction is open: ends its turn. */
  #release: (() => void) | null = null;
  /** Events of the transaction that is open, when all is said of them; null = they are to be settled, joined and read. */
  #added: ProcessEvent[] | null = null;
  /** Cases stand in `_recast`. */
  #recast = false;

  private constructor(
    store: ProcessStore,
    source: string,
    { place, readings }: { place: Place; readings: Map<string, TableReading> },
  ) {
    this.#store = store;
    this.#process = store.process;
    this.#source = source;
    this.#place = place;
    this.#readings = readings;
    this.#ticks = new Ticks(place.tick);
  }

  static async open(store: ProcessStore, source: string): Promise<ProcessProjection> {
    const release = await store.lock();
    try {
      const state = { place: await readPlace(store.writer, source), readings: await readReadings(store.writer, source) };
      return new ProcessProjection(store, source, state);
    } finally {
      release();
    }
  }

  async position(): Promise<Position> {
    await this.#rollback();
    return this.#place.position;
  }

  held(): ReadonlyMap<string, SourcePosition> {
    const { held } = this.#place;
    return new Map(held ? this.#types.map(({ table }) => [table, held]) : []);
  }

  wants(table: string): boolean {
    return this.#types.some((type) => type.table === table) || marks(this.#process, this.#source, table);
  }

  async apply(group: Group): Promise<void> {
    try {
      const begins = !this.#release;
      this.#release ??= await this.#store.lock();
      const changes = group.batches.map((batch) => rowChanges(batch, this.#process, this.#source));
      if (begins) {
        const nothing = !group.partial && changes.flat().length === 0 && !group.batches.some(({ header }) => header.mark);
        if (nothing && (await this.#moveOn(group))) return;
        await this.#store.writer.run('BEGIN');
        this.#added = [];
        this.#recast = false;
      }
      const lives = this.#lives();
      // All at once: a statement a message would bound it at some tens of messages a second where the machine is busy.
      await this.#load(changes.flat(), lives);
      for (const [i, batch] of group.batches.entries()) await this.#take(batch, changes[i] ?? [], lives);
      this.#flushed(await lives.flush());
      if (!group.partial) await this.#commit(group);
    } catch (error) {
      await this.#rollback();
      throw error;
    }
  }

  /** What other sources' objects had from this one's they lose; it comes again. */
  async reset(): Promise<void> {
    await this.#alone(async (duck) => {
      await duck.run('INSERT INTO _dirty SELECT object, key FROM object WHERE source = $1', [this.#source]);
      const own = `object IN (${this.#types.map(({ name }) => duckLiteral(name)).join(', ')})`;
      await duck.run(
        `INSERT INTO _recast SELECT "case" FROM (SELECT "case" FROM event WHERE ${own} UNION SELECT "case" FROM object WHERE ${own})`,
      );
      for (const table of ['event', 'object', 'link']) await duck.run(`DELETE FROM ${table} WHERE ${own}`);
      for (const table of ['place', 'snapshot']) await duck.run(`DELETE FROM ${table} WHERE source = $1`, [this.#source]);
      await settleCases(duck, this.#process);
      await this.#store.recast('all');
      await this.#store.verdicts.follow(duck, null);
    });
  }

  /**
   * Events are never told twice: what is here stays, and what follows up to where it stood is left out. Of another history every table
   * is read again: that mends the objects, and what they have done is here already.
   */
  async rewind({ to, until, watermark, foreign }: Rewind): Promise<void> {
    await this.#alone(async (duck) => {
      const { held, tick } = this.#place;
      const later = held && compareSourcePosition(held, until) > 0 ? held : { lsn: until.lsn, ordinal: until.ordinal };
      const after = { position: to, watermark, tick, held: foreign ? null : later };
      await writePlace(duck, this.#source, { before: this.#place, after });
      if (foreign) await duck.run('UPDATE snapshot SET generation = NULL WHERE source = $1', [this.#source]);
    });
  }

  async close(): Promise<void> {
    await this.#rollback();
  }

  get #types(): readonly ObjectType[] {
    return this.#process.objects.filter(({ source }) => source === this.#source);
  }

  #lives(): Lives {
    return new Lives(this.#store.writer, { process: this.#process, source: this.#source, ticks: this.#ticks });
  }

  async #take(batch: StoredBatch, changes: readonly RowChange[], lives: Lives): Promise<void> {
    const { mark } = batch.header;
    const type = mark && this.#types.find(({ table }) => table === mark.table);
    if (type && mark.step === 'begin') await this.#read(type, { ...this.#readingOf(type.table), generation: mark.generation });
    let part = 0;
    for (let from = 0; from < changes.length; ) {
      const truncated = changes.findIndex(({ op }, i) => i >= from && op === Op.truncated);
      const end = Math.min(from + ROWS_AT_ONCE, truncated < 0 ? changes.length : truncated);
      const some = changes.slice(from, end);
      await this.#load(some, lives);
      for (const change of some) part = this.#follow(change, lives, batch.header.kind === 'read' ? part : 0);
      await this.#mark(some);
      from = end;
      if (end !== truncated) continue;
      const change = changes[truncated] as RowChange;
      if (change.type) await this.#remove(change.type, lives, { occasion: { ...change, part: 0 }, found: null });
      from++;
    }
    if (type && mark.step === 'end') await this.#ended(type, lives, { batch, mark });
  }

  /** What is not known yet of the objects of these changes. */
  async #load(changes: readonly RowChange[], lives: Lives): Promise<void> {
    for (const type of this.#types) {
      const own = changes.filter((change) => change.type === type && change.key !== null);
      await lives.load(
        type,
        own.flatMap(({ key, movedFrom }) => [key as string, ...(movedFrom === null ? [] : [movedFrom])]),
      );
    }
  }

  /** @returns the part behind those of its events */
  #follow({ type, key, movedFrom, change, lsn, ordinal, atUs }: RowChange, lives: Lives, part: number): number {
    if (!type || key === null || !change) return part;
    if (movedFrom !== null && lives.get(type, movedFrom)) lives.move(type, movedFrom, key);
    const before = lives.get(type, key);
    const { after, events } = live(type, before, change, this.#readingOf(type.table));
    if (after !== before) lives.put(type, key, after);
    for (const happening of events) {
      lives.happened(type, key, { happening, occasion: { lsn, ordinal, atUs, part: part++ } });
    }
    return part;
  }

  /** Tables without objects only say that something happened to them in a transaction. */
  async #mark(changes: readonly RowChange[]): Promise<void> {
    const ops = new Map<number, string>([
      [Op.created, 'insert'],
      [Op.updated, 'update'],
      [Op.deleted, 'delete'],
    ]);
    const seen = new Map<string, { lsn: bigint; table: string; op: string }>();
    for (const { type, op, lsn, table } of changes) {
      const what = ops.get(op);
      if (!type && what) seen.set(`${lsn} ${table} ${what}`, { lsn, table, op: what });
    }
    const all = [...seen.values()];
    if (all.length > 0) this.#added = null;
    await this.#store.writer.append('_mark', MARK_COLUMNS, {
      lsn: all.map(({ lsn }) => lsn),
      table: all.map(({ table }) => table),
      op: all.map(({ op }) => op),
    });
  }

  async #ended(type: ObjectType, lives: Lives, { batch, mark }: { batch: StoredBatch; mark: SnapshotMark }): Promise<void> {
    const { generation } = this.#readingOf(type.table);
    // Its beginning was not met.
    if (generation !== mark.generation) return;
    const { position, watermark } = batch.header;
    const occasion = { ...position, atUs: watermark, part: 0 };
    await this.#remove(type, lives, { occasion, found: generation });
    await this.#read(type, { generation: null, complete: true });
  }

  /** Everything is gone, or (`found`) everything that the snapshot of this generation did not name; in the order of the keys. */
  async #remove(
    type: ObjectType,
    lives: Lives,
    { occasion, found }: { occasion: Occasion; found: number | null },
  ): Promise<void> {
    await lives.flush();
    this.#added = null;
    this.#recast = true;
    const duck = this.#store.writer;
    const gone = `object = ${duckLiteral(type.name)} AND alive${found === null ? '' : ` AND named <> ${found}`}`;
    const [counted] = await duck.rows<{ n: number }>(`SELECT count(*) AS n FROM object WHERE ${gone}`);
    const first = this.#ticks.take(occasion.atUs, counted?.n ?? 0);
    const nth = 'row_number() OVER (ORDER BY key) - 1';
    const activity = duckLiteral(`${type.name} deleted`);
    await duck.run(
      `INSERT INTO event SELECT "case", ${activity}, ${occasion.atUs}, ${first} + ${nth}, source, ${occasion.lsn}, ${occasion.ordinal},
         ${nth}, object, key, '${found === null ? 'deleted' : 'found'}', state, NULL, NULL FROM object WHERE ${gone} ORDER BY key`,
    );
    await duck.run(`INSERT INTO _recast SELECT DISTINCT "case" FROM object WHERE ${gone}`);
    await duck.run(`UPDATE object SET alive = false WHERE ${gone}`);
  }

  #readingOf(table: string): Reading {
    return this.#readings.get(table) ?? { generation: null, complete: false };
  }

  async #read({ table }: ObjectType, reading: TableReading): Promise<void> {
    this.#readings.set(table, reading);
    await writeReading(this.#store.writer, { source: this.#source, table }, reading);
  }

  /** Nothing happened up to there: one statement, as there is such a group every second. @returns is that all there is to do? */
  async #moveOn(group: Group): Promise<boolean> {
    const { verdicts, writer } = this.#store;
    if (!(await verdicts.idle(writer, this.#source, group.watermark))) return false;
    const place = this.#placeAfter(group);
    await writePlace(writer, this.#source, { before: this.#place, after: place });
    await this.#done(place);
    return true;
  }

  async #commit(group: Group): Promise<void> {
    const duck = this.#store.writer;
    if (!this.#added) {
      await settleCases(duck, this.#process);
      await joinTransactions(duck, this.#process, this.#source);
      this.#recast = true;
    }
    if (this.#recast) await this.#store.recast('noted');
    const place = this.#placeAfter(group);
    await writePlace(duck, this.#source, { before: this.#place, after: place });
    await this.#store.verdicts.follow(duck, {
      source: this.#source,
      watermark: place.watermark,
      behind: this.#place.tick,
      events: this.#added,
      recast: this.#recast,
    });
    await duck.run('COMMIT');
    await this.#done(place);
  }

  #placeAfter({ after, watermark }: Group): Place {
    const { held } = this.#place;
    return {
      position: after,
      watermark,
      tick: this.#ticks.last,
      held: held && compareSourcePosition(after, held) < 0 ? held : null,
    };
  }

  async #done(place: Place): Promise<void> {
    this.#place = place;
    await this.#store.learn();
    this.#unlock();
    this.#store.tell();
  }

  /** A transaction of very many events is not held in memory. */
  #flushed({ events, recast }: Awaited<ReturnType<Lives['flush']>>): void {
    this.#recast ||= recast;
    if (!events || !this.#added || this.#added.length + events.length > ADDED_MAX) this.#added = null;
    else for (const event of events) this.#added.push(event);
  }

  #unlock(): void {
    this.#release?.();
    this.#release = null;
  }

  /** A transaction of its own. */
  async #alone(work: (duck: Duck) => Promise<void>): Promise<void> {
    await this.#rollback();
    const release = await this.#store.lock();
    try {
      // Places change in it that are not told to them.
      this.#store.verdicts.forget();
      await this.#store.transaction(work);
      await this.#reload();
    } finally {
      release();
    }
    this.#store.tell();
  }

  async #rollback(): Promise<void> {
    if (!this.#release) return;
    try {
      await this.#store.rollback();
      await this.#reload();
    } finally {
      this.#unlock();
    }
  }

  async #reload(): Promise<void> {
    this.#place = await readPlace(this.#store.writer, this.#source);
    this.#readings = await readReadings(this.#store.writer, this.#source);
    this.#ticks = new Ticks(this.#place.tick);
  }
}

const MARK_COLUMNS = { lsn: 'UBIGINT', table: 'VARCHAR', op: 'VARCHAR' } as const;
