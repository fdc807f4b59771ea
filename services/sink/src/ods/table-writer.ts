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

/** What is left to be written of a table, in this order: what is gone altogether, new rows, the last change of every other key. */
export interface Folded {
  /** Everything that stood in the table before is gone. */
  emptied: boolean;
  /** Sections of new rows, as COPY text. */
  readonly fresh: { readonly columns: readonly Column[]; readonly rows: number; readonly text: Buffer }[];
  readonly net: NetChanges;
  /** Keyless tables: rows to be copied. */
  added: Cell[][];
  /** Keys whose rows are to go, set apart from what is to be written. */
  gone: Cell[][];
  /** The first row that is waiting, of a table where deleted rows stay, that was read or made without all of its cells. */
  lackingSince: Moment | null;
}

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
  readonly #history: HistoryTable | null;
  readonly #hasLabels: boolean;
  #folded: Folded;
  #staged = false;

  constructor(table: TargetTable, { session, side, types }: { session: Session; side: Session; types: TargetTypes }) {
    this.table = table;
    this.#session = session;
    this.#side = side;
    this.#types = types;
    this.#sql = new TableStatements(table, session);
    this.#hasLabels = table.schema.columns.some(({ type }) => type.kind === 'enum');
    this.#folded = nothing(table);
    this.#history = table.history && new HistoryTable(table.history, session);
  }

  async write(section: Section, header: BatchHeader): Promise<void> {
    if (section.csv) return this.#csv(section, header);
    await this.#labels(section.columns);
    await this.#history?.write(section, oldRows(section), (row) => momentOf(header, section, row));
    if (this.#isFresh(section) && this.#takeFresh(section)) return;
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
          this.#folded.net.fill(this.table.marked ? [...cells, ...MARKS_UNCHANGED] : cells);
          break;
        case Op.updated:
          await this.#update(old.get(row), cells, () => momentOf(header, section, row));
          break;
        default:
          this.#folded.net.put(this.#there(this.#whole(cells, () => momentOf(header, section, row))));
      }
    }
  }

  /** Can this section be folded without asking the target for anything? */
  foldable(section: Section): boolean {
    const { key, seen, tied, deferrable, marked } = this.table;
    if (section.csv || seen || tied || deferrable || marked || this.#history || this.#hasLabels) return false;
    if (key.length === 0) return section.ops.every((op) => op === Op.created);
    if (!section.ops.every((op) => op === Op.created || op === Op.updated || op === Op.deleted)) return false;
    if (!section.old) return true;
    const cells = key.map((c) => section.columns[c]?.values() ?? []);
    const moves = (row: number, old: readonly Cell[]) => key.some((c, i) => old[c] !== cells[i]?.[row]);
    return [...oldRows(section)].every(([row, old]) => !moves(row, old));
  }

  /** What {@link write} does with a section that is {@link foldable}, at once. */
  fold(section: Section): void {
    if (this.#isFresh(section) && this.#takeFresh(section)) return;
    const { net, added } = this.#folded;
    const columns = section.columns.map((column) => column.values());
    const old = oldRows(section);
    for (let row = 0; row < section.rows; row++) {
      const cells = columns.map((column) => column[row]);
      const op = section.ops[row];
      if (this.table.key.length === 0) added.push(cells);
      else if (op === Op.deleted) net.delete(cells);
      else if (op === Op.updated) net.put(withOld(cells, old.get(row)), !this.#folded.emptied);
      else net.put(cells);
    }
  }

  /** What is folded so far, to be written by {@link flushDeletes} and {@link flushWrites}; what comes now is folded anew. */
  take(): Folded {
    const folded = this.#folded;
    this.#folded = nothing(this.table);
    return folded;
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
    this.#folded = { ...nothing(this.table), emptied: true };
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
    if (isMarked(this.#folded.net.known(cells) ?? UNMARKED)) return nulled(cells);
    this.#folded.lackingSince ??= at();
    return cells;
  }

  #delete(cells: Cell[], at: () => Moment): void {
    if (this.table.marked) this.#folded.net.amend([...cells, ...markOf(at())]);
    else this.#folded.net.delete(cells);
  }

  /** Writes everything folded so far. */
  async flush(): Promise<void> {
    const folded = this.take();
    await this.flushDeletes(folded);
    await this.flushWrites(folded);
  }

  /** Must what is gone go before anything is written here? Else it may also go afterwards, when nothing refers to it any more. */
  get deletesFirst(): boolean {
    return this.#folded.emptied || this.table.unique;
  }

  /** One half of {@link flush}: what is gone goes. */
  async flushDeletes(folded: Folded): Promise<void> {
    if (folded.emptied) await this.#sql.empty();
    folded.emptied = false;
    await this.#copyFresh(folded);
    const deleted = [...folded.gone, ...folded.net.takeDeleted()];
    folded.gone = [];
    if (deleted.length > 0) await this.#sql.delete(deleted);
  }

  /** The other half; what is gone and has not gone before stays until {@link flushDeletes}. */
  async flushWrites(folded: Folded): Promise<void> {
    await this.#history?.flush();
    await this.#copyFresh(folded);
    await this.#copyAdded(folded);
    folded.gone.push(...folded.net.takeDeleted());
    const { rows } = folded.net.take();
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
    for (const part of rest.values()) await this.#patch(part, folded.lackingSince);
    folded.lackingSince = null;
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
    const moved = old !== undefined && this.#folded.net.keyOf(old) !== this.#folded.net.keyOf(cells);
    if (!moved) {
      this.#folded.net.put(this.#there(withOld(cells, old)), !this.#folded.emptied);
    } else if (this.table.marked) {
      await this.#moveMarked(old, cells, at());
    } else if (
      !this.#folded.net.move(
        old,
        cells.map((cell, c) => (cell === undefined && !this.table.key.includes(c) ? old[c] : cell)),
      )
    ) {
      await this.flush();
      if (!(await this.#sql.move(old, cells))) this.#folded.net.put(cells);
      else if (this.table.seen) await this.#sql.see([cells]);
    }
  }

  /** The row under the old key is gone, and stays as it was; the one under the new key has its unchanged cells. */
  async #moveMarked(old: Cell[], cells: Cell[], at: Moment): Promise<void> {
    const before = this.#folded.net.known(old);
    const row = cells.map((cell, c) => (cell !== undefined || this.table.key.includes(c) ? cell : (old[c] ?? before?.[c])));
    if (!row.includes(undefined)) {
      this.#delete(old, () => at);
      this.#folded.net.put(this.#there(row));
      return;
    }
    await this.flush();
    if (!(await this.#sql.moveMarked(old, cells, at))) this.#folded.net.put(this.#there(cells));
    else if (this.table.seen) await this.#sql.see([cells]);
  }

  /** Only inserts, many, and nothing before them that waits for its order. */
  #isFresh(section: Section): boolean {
    const { net, emptied } = this.#folded;
    if (section.rows < BULK_ROWS || net.size > 0 || emptied || this.table.seen || this.table.tied) return false;
    return section.ops.every((op) => op === Op.created);
  }

  /** New rows go straight into the table. @returns false where they cannot be told as text as a whole */
  #takeFresh({ columns, rows }: Section): boolean {
    const text = copyJoined(columns, rows);
    if (text) this.#folded.fresh.push({ columns, rows, text });
    return text !== null;
  }

  async #copyFresh({ fresh, net }: Folded): Promise<void> {
    const taken = fresh.splice(0);
    if (taken.length === 0) return;
    const copy = () => this.#sql.copy(Buffer.concat(taken.map(({ text }) => text)));
    if (this.table.key.length === 0) return copy();
    if (await this.#try(copy, UNIQUE_VIOLATION)) return;
    // Some are there already, as a history is applied over a newer state: they are folded with what came behind them.
    for (const { columns, rows } of taken.toReversed()) {
      const values = columns.map((column) => column.values());
      for (let row = 0; row < rows; row++) net.putBelow(this.#there(values.map((cells) => cells[row])));
    }
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
        this.#folded.added.push(before ? cells.map((cell, c) => (cell === undefined ? before[c] : cell)) : cells);
      } else this.#folded.added.push(cells);
    }
  }

  async #removeOne(cells: readonly Cell[], mark: Moment | null): Promise<void> {
    await this.flush();
    await this.#sql.removeOne(cells, mark);
  }

  async #copyAdded(folded: Folded): Promise<void> {
    if (folded.added.length === 0) return;
    const rows = folded.added;
    folded.added = [];
    await this.#sql.copy(copyRows(rows));
  }

  /** Rows that all lack the same cells, and of which the same is known. A row that is not there is made, unless it only fills. */
  async #patch(part: readonly NetRow[], lackingSince: Moment | null): Promise<void> {
    const rows = part.map((net) => net.row as Cell[]);
    const [{ fill, there }, first] = [part[0] as NetRow, rows[0] as Cell[]];
    const present = this.table.columns.map((_, c) => c).filter((c) => first[c] !== undefined);
    const onlyKey = present.length === this.table.key.length;
    if (fill) await this.#sql.update(rows, present);
    // An UPDATE leaves indexes alone (HOT) where deleting and copying writes them anew: measured, see RESULTS.md.
    else if (!there || onlyKey || (await this.#sql.update(rows, present)) < rows.length)
      await this.#sql.upsert(rows, present, lackingSince);
  }
}

function nothing({ key }: TargetTable): Folded {
  return { emptied: false, fresh: [], net: new NetChanges(key), added: [], gone: [], lackingSince: null };
}

/** Under identity full the old row says what the new one leaves out. */
function withOld(cells: Cell[], old: readonly Cell[] | undefined): Cell[] {
  return old ? cells.map((cell, c) => (cell === undefined ? old[c] : cell)) : cells;
}
