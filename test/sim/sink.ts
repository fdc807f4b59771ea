import {
  type Cell,
  compareSourcePosition,
  Fault,
  keyColumns,
  Op,
  ORIGIN,
  type Position,
  type Section,
  type SourcePosition,
  type StoredBatch,
  tableName,
} from '@tributary/core';
import type { Visibility } from '@tributary/postgres';
import type { Group, Projection } from '@tributary/projection';
import { Link, type Weather } from './link.ts';
import { skipsOf } from './ledger.ts';
import { addDigest, rowDigest } from './pg-model.ts';
import type { Process } from './scheduler.ts';
import type { World } from './world.ts';

interface SinkTable {
  /** By key; where there is none by content, and a number among equal ones. */
  readonly rows: Map<string, readonly Cell[]>;
  /** Without key: how many rows have this content. */
  readonly equal: Map<string, number>;
  digest: number;
  /** A snapshot is under way: rows named since it began. */
  seen: Set<string> | null;
  /** Some snapshot of it has ended: from now on it equals the source's table. */
  whole: boolean;
  /** A table that is read in one piece: what its last snapshot saw. */
  snapshot: Visibility | null;
}

/** A database that keeps one projection: rows and position, written together. */
export class SinkModel {
  position: Position = ORIGIN;
  readonly tables = new Map<string, SinkTable>();
  /** Changes of tables with a key that the stream brought and that were applied: what a sink that sums or tells would have seen. */
  applied = 0;
  #epoch = '';
  /** Epochs of the slot that it has met. */
  epochs = 0;
  readonly #world: World;
  /** Called after each commit. */
  committed: (sink: SinkModel) => void = () => {};
  /** What the next commits meet. */
  trouble: 'none' | 'reject' | 'fail after write' | 'hold' | 'slow' = 'none';

  constructor(world: World) {
    this.#world = world;
  }

  table(name: string): SinkTable {
    let table = this.tables.get(name);
    if (!table) {
      table = { rows: new Map(), equal: new Map(), digest: 0, seen: null, whole: false, snapshot: null };
      this.tables.set(name, table);
    }
    return table;
  }

  /** One transaction: moves on only from where the projection says that it stands. */
  commit(expected: Position, batches: readonly StoredBatch[], after: Position): void {
    if (this.position.seq !== expected.seq || compareSourcePosition(this.position, expected) !== 0) {
      throw new Fault('fenced', `the sink stands at ${this.position.seq}, not ${expected.seq}`);
    }
    this.apply(batches);
    this.move(after);
  }

  move(after: Position): void {
    this.position = after;
    this.#world.tell(`sink at ${after.seq} ${after.lsn}+${after.ordinal}`);
    this.committed(this);
  }

  apply(batches: readonly StoredBatch[]): void {
    for (const { header, sections } of batches) {
      const { mark } = header;
      // After a gap no table is whole until it has been read again.
      if (header.epoch !== this.#epoch) {
        for (const table of this.tables.values()) table.whole = false;
        this.epochs++;
      }
      this.#epoch = header.epoch;
      if (mark?.step === 'begin') this.#begin(mark.table, mark.reset);
      for (const section of sections) {
        if (keyColumns(section.schema).length === 0) this.#keyless(section);
        else {
          if (header.kind === 'stream') this.applied += section.rows;
          this.#section(section);
        }
      }
      if (mark?.step === 'end') this.#end(mark.table, skipsOf(header.state).get(mark.table) ?? null);
    }
  }

  #begin(name: string, reset: boolean): void {
    const table = this.table(name);
    if (reset) this.#clear(table);
    table.seen = new Set();
  }

  #end(name: string, snapshot: Visibility | null): void {
    const table = this.table(name);
    const { seen } = table;
    if (seen && !snapshot) for (const key of table.rows.keys()) if (!seen.has(key)) this.#put(name, key, null);
    table.snapshot = snapshot;
    table.seen = null;
    table.whole = true;
  }

  #clear(table: SinkTable): void {
    table.rows.clear();
    table.equal.clear();
    table.digest = 0;
  }

  #keyless(section: Section): void {
    const name = tableName(section.schema);
    const columns = section.columns.map((column) => column.values());
    const old = section.old?.columns.map((column) => column.values());
    for (let row = 0; row < section.rows; row++) {
      const op = section.ops[row] as number;
      const cells = columns.map((column) => column[row]);
      const at = section.old?.row.indexOf(row) ?? -1;
      const before = at === -1 ? null : (old ?? []).map((column) => column[at]);
      if (op === Op.truncated) this.#clear(this.table(name));
      else if (op === Op.deleted) this.#takeOne(name, cells);
      else {
        if (before) this.#takeOne(name, before);
        else if (op === Op.updated) this.#world.broke('content', `an update of ${name} that does not tell the old row`);
        this.#addOne(name, before ? cells.map((cell, index) => (cell === undefined ? before[index] : cell)) : cells);
      }
    }
  }

  /** One row more of this content. */
  #addOne(name: string, cells: readonly Cell[]): void {
    const { equal } = this.table(name);
    const text = contentOf(cells);
    const count = (equal.get(text) ?? 0) + 1;
    equal.set(text, count);
    this.#put(name, `${text} ${count}`, cells);
  }

  /** One row less. Between `begin` and `end`, and before a first snapshot, it need not be there. */
  #takeOne(name: string, cells: readonly Cell[]): void {
    const { equal, whole, seen } = this.table(name);
    const text = contentOf(cells);
    const count = equal.get(text) ?? 0;
    if (count > 0) {
      equal.set(text, count - 1);
      this.#put(name, `${text} ${count}`, null);
    } else if (whole && !seen) this.#world.broke('projection', `a change of ${name} names a row that is not there`);
  }

  #section(section: Section): void {
    const name = tableName(section.schema);
    const key = keyColumns(section.schema);
    const columns = section.columns.map((column) => column.values());
    const old = section.old && { row: [...section.old.row], columns: section.old.columns.map((column) => column.values()) };
    const textOf = (cells: readonly Cell[]) => key.map((c) => cells[c]).join('\x1f');
    for (let row = 0; row < section.rows; row++) {
      const cells = columns.map((column) => column[row]);
      const at = old ? old.row.indexOf(row) : -1;
      const before = old && at !== -1 ? old.columns.map((column) => column[at]) : null;
      this.#change(name, section.ops[row] as number, { key: textOf(cells), cells, before: before && textOf(before) });
    }
  }

  #change(name: string, op: number, change: { key: string; cells: readonly Cell[]; before: string | null }): void {
    const table = this.table(name);
    const { key, cells, before } = change;
    if (op === Op.truncated) return this.#clear(table);
    table.seen?.add(key);
    if (op === Op.deleted) return this.#put(name, key, null);
    const known = table.rows.get(before ?? key);
    if (op === Op.kept && !known) return;
    const row = cells.map((cell, index) => (cell === undefined ? known?.[index] : cell));
    // A row the stream brought incomplete already holds what is newer; `kept` only fills what is not known.
    if (before !== null && before !== key) this.#put(name, before, null);
    this.#put(name, key, row);
  }

  #put(name: string, key: string, cells: readonly Cell[] | null): void {
    const table = this.table(name);
    const known = table.rows.get(key);
    if (known) table.digest = addDigest(table.digest, -rowDigest(name, known));
    if (cells) {
      table.digest = addDigest(table.digest, rowDigest(name, cells));
      table.rows.set(key, cells);
    } else table.rows.delete(key);
  }
}

function contentOf(cells: readonly Cell[]): string {
  return cells.map((cell) => cell ?? '\0').join('\x1f');
}

export interface SinkOptions {
  readonly world: World;
  readonly process: Process;
  readonly model: SinkModel;
  readonly weather: Weather;
  /** How a group is written; other than by {@link commitOnce} only where a test breaks it on purpose. */
  readonly write: SinkWrite;
}

export interface SinkWriting {
  readonly model: SinkModel;
  /** Runs one statement, atomically, at the sink's database. */
  readonly statement: (run: () => void) => Promise<void>;
  readonly expected: Position;
  readonly batches: readonly StoredBatch[];
  readonly after: Position;
}

export type SinkWrite = (writing: SinkWriting) => Promise<void>;

/** Effect and position in one atomic write. */
export const commitOnce: SinkWrite = ({ model, statement, expected, batches, after }) =>
  statement(() => model.commit(expected, batches, after));

/** One process's session with the sink's database. */
export class SimProjection implements Projection {
  readonly #options: SinkOptions;
  readonly link: Link;
  #position: Position = ORIGIN;
  /** Parts of a transaction whose end has not come yet. */
  #parts: StoredBatch[] = [];

  constructor(options: SinkOptions) {
    this.#options = options;
    const unreachable = (why: string) => new Fault('database_unreachable', why);
    this.link = new Link(options.world, options.process, { weather: options.weather, unreachable, reconnects: false });
  }

  async position(): Promise<Position> {
    this.#position = await this.link.call(() => this.#options.model.position);
    return this.#position;
  }

  async apply({ batches, after, partial }: Group): Promise<void> {
    this.#parts.push(...batches);
    if (partial) return;
    const parts = this.#parts;
    this.#parts = [];
    const { model, write } = this.#options;
    const statement = (run: () => void) => this.link.call(() => this.#statement(run));
    await write({ model, statement, expected: this.#position, batches: parts, after });
    this.#position = after;
  }

  async #statement(run: () => void): Promise<void> {
    const { model, world } = this.#options;
    const { trouble } = model;
    if (trouble === 'reject') throw new Fault('database_unreachable', 'the sink refused');
    if (trouble === 'slow') await new Promise<void>((resolve) => world.after(world.random.between(50, 800), resolve));
    if (trouble === 'hold') await new Promise<void>((resolve) => world.after(world.random.between(3_000, 25_000), resolve));
    run();
    if (trouble === 'fail after write') throw new Fault('database_unreachable', 'the sink failed after it wrote');
  }

  async reset(): Promise<void> {
    throw new Fault('not_found', 'nothing is replayed in this world');
  }

  async rewind(): Promise<void> {
    throw new Fault('not_found', 'nothing is replayed in this world');
  }

  held(): ReadonlyMap<string, SourcePosition> {
    return new Map();
  }

  async close(): Promise<void> {
    this.link.close();
  }
}
