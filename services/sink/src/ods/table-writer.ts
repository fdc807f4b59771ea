import { type BatchHeader, type Cell, type Column, Op, type Section } from '@tributary/core';
import { type Session, sqlState } from '@tributary/postgres';
import { NetChanges, nulled, oldRows, type NetRow } from '@tributary/projection';
import { copyJoined, copyRows } from './copy-text.ts';
import { HistoryTable } from './history-table.ts';
import { TableStatements } from './table-statements.ts';
import { isMarked, MARKS_UNCHANGED, markOf, UNMARKED } from './marks.ts';
import type { TargetTable } from './target-table.ts';
import type { TargetTypes } from './target-types.ts';
import { groupBy, pattern } from './unnested.ts';
import { type Moment, momentOf } from './versions.ts';

/** From so many rows on, COPY beats a statement with parameters. */
const BULK_ROWS = 200;

/** SQLSTATE of a key that is there already, and of a text that is no value of its type. */
const UNIQUE_VIOLATION = '23505';
const INVALID_TEXT = '22P02';

/**
 * Writes the changes of one table inside the open transaction. Changes of keyed tables are folded to the last one per key
 * and written on `flush`; whatever cannot be folded (COPY CSV of snapshots, moved rows whose values only the target has)
 * flushes first, so that order is kept.
 */
export class TableWriter {
  readonly table: TargetTable;
  readonly #session: Session;
  readonly #side: Session;
  readonly #types: TargetTypes;
  readonly #sql: TableStatements;
  readonly #net: NetChanges;
  readonly #history: HistoryTable | null;
  /** Everything that stood in the table before what is folded is gone. */
  #emptied = false;
  /** Keyless tables: rows to be copied. */
  #added: Cell[][] = [];
  #staged = false;
  /** The first row that is waiting, of a table where deleted rows stay, that was read or made without all of its cells. */
  #lackingSince: Moment | null = null;
  /** Keys whose rows are to go, set apart from what is to be written. */
  #gone: Cell[][] = [];

  constructor(table: TargetTable, { session, side, types }: { session: Session; side: Session; types: TargetTypes }) {
    this.table = table;
    this.#session = session;
    this.#side = side;
    this.#types = types;
    this.#sql = new TableStatements(table, session);
    this.#net = new NetChanges(table.key);
    this.#history = table.history && new HistoryTable(table.history, session);
  }

  async write(section: Section, header: BatchHeader): Promise<void> {
    if (section.csv) return this.#csv(section, header);
    await this.#labels(section.columns);
    await this.#history?.write(section, oldRows(section), (row) => momentOf(header, section, row));
    if (this.#isFresh(section) && (await this.#copyFresh(section))) return;
    const columns = section.columns.map((column) => column.values());
    if (this.table.key.length === 0) return this.#keyless(section, columns, header);
    const ops = section.ops;
    const old = oldRows(section);
    for (let row = 0; row < section.rows; row++) {
      const cells = columns.map((column) => column[row]);
      switch (ops[row]) {
        case Op.deleted:
          this.#delete(cells, () => momentOf(header, section, row));
          break;
        case Op.truncated:
          await this.#truncated(momentOf(header, section, row));
          break;
        case Op.kept:
          this.#net.fill(this.table.marked ? [...cells, ...MARKS_UNCHANGED] : cells);
          break;
        case Op.updated:
          await this.#update(old.get(row), cells, () => momentOf(header, section, row));
          break;
        default:
          this.#net.put(this.#there(this.#whole(cells, () => momentOf(header, section, row))));
      }
    }
  }

  /** Every row is to be read anew. */
  async reset(at: Moment): Promise<void> {
    await this.#history?.flush();
    await this.#history?.endAll(at, 'r');
    // Marked rows stay.
    if (this.table.marked) await this.flush();
    this.#empty();
  }

  #empty(): void {
    this.#net.take();
    this.#added = [];
    this.#emptied = true;
  }

  async #truncated(at: Moment): Promise<void> {
    if (!this.table.marked) return this.#empty();
    await this.flush();
    await this.#sql.markAll(at);
  }

  /** Where deleted rows stay, being there is a value of a row like any other. */
  #there(cells: Cell[]): Cell[] {
    return this.table.marked ? [...cells, ...UNMARKED] : cells;
  }

  /** A new row, or one that was read. Where rows stay that are gone it takes nothing from such a one under its key. */
  #whole(cells: Cell[], at: () => Moment): Cell[] {
    if (!this.table.marked || !cells.includes(undefined)) return cells;
    if (isMarked(this.#net.known(cells) ?? UNMARKED)) return nulled(cells);
    this.#lackingSince ??= at();
    return cells;
  }

  #delete(cells: Cell[], at: () => Moment): void {
    if (this.table.marked) this.#net.amend([...cells, ...markOf(at())]);
    else this.#net.delete(cells);
  }

  /** Writes everything folded so far. */
  async flush(): Promise<void> {
    await this.flushDeletes();
    await this.flushWrites();
  }

  /** Must what is gone go before anything is written here? Else it may also go afterwards, when nothing refers to it any more. */
  get deletesFirst(): boolean {
    return this.#emptied || this.table.unique;
  }

  /** One half of {@link flush}: what is gone goes. */
  async flushDeletes(): Promise<void> {
    if (this.#emptied) await this.#sql.empty();
    this.#emptied = false;
    const deleted = [...this.#gone, ...this.#net.takeDeleted()];
    this.#gone = [];
    if (deleted.length > 0) await this.#sql.delete(deleted);
  }

  /** The other half; what is gone and has not gone before stays until {@link flushDeletes}. */
  async flushWrites(): Promise<void> {
    await this.#history?.flush();
    await this.#flushAdded();
    this.#gone.push(...this.#net.takeDeleted());
    const { rows } = this.#net.take();
    if (rows.length === 0) return;
    const fresh: Cell[][] = [];
    const known: NetRow[] = [];
    for (const net of rows) {
      const row = net.row as Cell[];
      if (!net.fill && !net.there && !row.includes(undefined)) fresh.push(row);
      else known.push(net);
    }
    const rest = groupBy(known, ({ fill, there, row }) => `${fill} ${there} ${pattern(row as Cell[])}`);
    // Where rows refer to others of the same table new ones come first: rows that are there may refer to them.
    if (this.table.tied) await this.#writeFresh(fresh);
    for (const part of rest.values()) await this.#patch(part);
    this.#lackingSince = null;
    if (!this.table.tied) await this.#writeFresh(fresh);
    if (this.table.seen) await this.#sql.see(rows.map(({ row }) => row as Cell[]));
  }

  async #writeFresh(rows: readonly Cell[][]): Promise<void> {
    const bulk = rows.length >= BULK_ROWS && !this.table.seen;
    const all = this.table.columns.map((_, c) => c);
    const copied = bulk && (await this.#try(() => this.#sql.copy(copyRows(rows), { width: all.length }), UNIQUE_VIOLATION));
    if (!copied && rows.length > 0) await this.#sql.upsert(rows, all);
  }

  /** Rows that neither the snapshot nor the stream named since it began are gone. */
  async sweep(at: Moment): Promise<void> {
    await this.flush();
    await this.#sql.sweep(at);
    if (this.table.seen) await this.#history?.sweep(this.table.seen, at);
  }

  async #update(old: Cell[] | undefined, cells: Cell[], at: () => Moment): Promise<void> {
    const moved = old !== undefined && this.#net.keyOf(old) !== this.#net.keyOf(cells);
    if (!moved) {
      // Under identity full the old row says what the new one leaves out.
      const known = old ? cells.map((cell, c) => (cell === undefined ? old[c] : cell)) : cells;
      this.#net.put(this.#there(known), !this.#emptied);
    } else if (this.table.marked) {
      await this.#moveMarked(old, cells, at());
    } else if (
      !this.#net.move(
        old,
        cells.map((cell, c) => (cell === undefined && !this.table.key.includes(c) ? old[c] : cell)),
      )
    ) {
      await this.flush();
      if (!(await this.#sql.move(old, cells))) this.#net.put(cells);
      else if (this.table.seen) await this.#sql.see([cells]);
    }
  }

  /** The row under the old key is gone, and stays as it was; the one under the new key has its unchanged cells. */
  async #moveMarked(old: Cell[], cells: Cell[], at: Moment): Promise<void> {
    const before = this.#net.known(old);
    const row = cells.map((cell, c) => (cell !== undefined || this.table.key.includes(c) ? cell : (old[c] ?? before?.[c])));
    if (!row.includes(undefined)) {
      this.#delete(old, () => at);
      this.#net.put(this.#there(row));
      return;
    }
    await this.flush();
    if (!(await this.#sql.moveMarked(old, cells, at))) this.#net.put(this.#there(cells));
    else if (this.table.seen) await this.#sql.see([cells]);
  }

  /** Only inserts, many, and nothing before them that waits for its order. */
  #isFresh(section: Section): boolean {
    if (section.rows < BULK_ROWS || this.#net.size > 0 || this.#emptied || this.table.seen || this.table.tied) return false;
    return section.ops.every((op) => op === Op.created);
  }

  /** New rows straight into the table. @returns false when some key was there already: then nothing was written */
  async #copyFresh({ columns, rows }: Section): Promise<boolean> {
    const text = copyJoined(columns, rows);
    if (!text) return false;
    await this.#flushAdded();
    if (this.table.key.length > 0) return this.#try(() => this.#sql.copy(text), UNIQUE_VIOLATION);
    await this.#sql.copy(text);
    return true;
  }

  /** Runs `work` so that a failure of the given kinds leaves the transaction as it was. */
  async #try(work: () => Promise<void>, ...states: string[]): Promise<boolean> {
    await this.#session.run('SAVEPOINT fresh');
    try {
      await work();
    } catch (error) {
      if (!states.includes(sqlState(error))) throw error;
      await this.#session.run('ROLLBACK TO SAVEPOINT fresh; RELEASE SAVEPOINT fresh');
      return false;
    }
    await this.#session.run('RELEASE SAVEPOINT fresh');
    return true;
  }

  async #csv(section: Section, header: BatchHeader): Promise<void> {
    await this.flush();
    const csv = section.csv as Uint8Array;
    const direct = !this.#staged && !this.table.seen && !this.#history;
    if (direct && (await this.#try(() => this.#sql.copy(csv, { format: 'csv' }), UNIQUE_VIOLATION, INVALID_TEXT))) return;
    await this.#labels(section.columns);
    if (this.table.key.length === 0 && !this.#history) return this.#sql.copy(csv, { format: 'csv' });
    this.#staged = true;
    await this.#sql.stage(csv, async (stage) => this.#history?.read({ rows: stage, values: [] }, momentOf(header, section)));
  }

  /** Values of an enum may be newer than what the batch's schema knew of it. */
  async #labels(columns: readonly Column[]): Promise<void> {
    for (const [c, column] of this.table.schema.columns.entries()) {
      if (column.type.kind !== 'enum') continue;
      const values = new Set(columns[c]?.values());
      await this.#types.addLabels(
        this.#session,
        this.#side,
        column.type,
        [...values].filter((value): value is string => typeof value === 'string'),
      );
    }
  }

  async #keyless(section: Section, columns: readonly (readonly Cell[])[], header: BatchHeader): Promise<void> {
    const old = oldRows(section);
    for (let row = 0; row < section.rows; row++) {
      const cells = columns.map((column) => column[row]);
      const op = section.ops[row];
      const at = () => momentOf(header, section, row);
      if (op === Op.truncated) await this.#truncated(at());
      else if (op === Op.deleted) await this.#removeOne(cells, this.table.marked ? at() : null);
      else if (op === Op.updated) {
        const before = old.get(row);
        if (before) await this.#removeOne(before, null);
        this.#added.push(before ? cells.map((cell, c) => (cell === undefined ? before[c] : cell)) : cells);
      } else this.#added.push(cells);
    }
  }

  async #removeOne(cells: readonly Cell[], mark: Moment | null): Promise<void> {
    await this.flush();
    await this.#sql.removeOne(cells, mark);
  }

  async #flushAdded(): Promise<void> {
    if (this.#added.length === 0) return;
    const rows = this.#added;
    this.#added = [];
    await this.#sql.copy(copyRows(rows));
  }

  /** Rows that all lack the same cells, and of which the same is known. A row that is not there is made, unless it only fills. */
  async #patch(part: readonly NetRow[]): Promise<void> {
    const rows = part.map((net) => net.row as Cell[]);
    const [{ fill, there }, first] = [part[0] as NetRow, rows[0] as Cell[]];
    const present = this.table.columns.map((_, c) => c).filter((c) => first[c] !== undefined);
    const onlyKey = present.length === this.table.key.length;
    if (fill) await this.#sql.update(rows, present);
    // An UPDATE leaves indexes alone (HOT) where deleting and copying writes them anew: measured, see RESULTS.md.
    else if (!there || onlyKey || (await this.#sql.update(rows, present)) < rows.length)
      await this.#sql.upsert(rows, present, this.#lackingSince);
  }
}
