import { type Cell, SEPARATOR } from '@tributary/core';

/** What is left to do about one key after all changes of a group. */
export interface NetRow {
  /** The new row; cells that no change brought are undefined. Null = the row is gone. */
  readonly row: Cell[] | null;
  /** Only fill an existing row, never make one (`k`). */
  readonly fill: boolean;
  /** The first change of the key met a row: one stands in the target, unless a history is applied over a newer state. */
  readonly there: boolean;
}

/**
 * Folds the changes of one keyed table into the last one per key, in the order in which they came.
 * Deletes are then done before writes, which is right whatever keys were swapped inside a transaction.
 */
export class NetChanges {
  readonly #key: readonly number[];
  #rows = new Map<string, NetRow>();

  constructor(key: readonly number[]) {
    this.#key = key;
  }

  get size(): number {
    return this.#rows.size;
  }

  keyOf(cells: readonly Cell[]): string {
    return this.#key.length === 1 ? String(cells[this.#key[0] as number]) : this.#key.map((c) => cells[c]).join(SEPARATOR);
  }

  /** A row as it is now: created or read, or, when it was there before, updated. What a new row under a key that is gone leaves out is null. */
  put(row: Cell[], was = false): void {
    const key = this.keyOf(row);
    const before = this.#rows.get(key);
    const gone = before?.row === null && !was;
    // A kept row that is updated is there; one that is only filled may not be.
    const there = before ? before.there || (before.fill && was) : was;
    this.#rows.set(key, { row: gone ? nulled(row) : before?.row ? merge(row, before.row) : row, fill: false, there });
  }

  /** A row under a new key: unchanged cells come from the row it was. @returns false when that row is not in this group */
  move(oldKey: readonly Cell[], row: Cell[]): boolean {
    const key = this.keyOf(oldKey);
    const before = this.#rows.get(key);
    const complete = before?.row ? merge(row, before.row) : row;
    if (complete.includes(undefined)) return false;
    this.#rows.set(key, { row: null, fill: false, there: before?.there ?? true });
    const there = this.#rows.get(this.keyOf(row))?.there ?? false;
    this.#rows.set(this.keyOf(row), { row: complete, fill: false, there });
    return true;
  }

  /** A row's cells as far as this group knows them; null where it says nothing of the key, or that the row is gone. */
  known(key: readonly Cell[]): readonly Cell[] | null {
    return this.#rows.get(this.keyOf(key))?.row ?? null;
  }

  /** A row that is there gets other cells; never makes a row. */
  amend(row: Cell[]): void {
    const key = this.keyOf(row);
    const before = this.#rows.get(key);
    if (!before) this.#rows.set(key, { row, fill: true, there: false });
    else if (before.row) this.#rows.set(key, { ...before, row: merge(row, before.row) });
  }

  /** Values of a row that the stream left out; never makes a row. */
  fill(row: Cell[]): void {
    const key = this.keyOf(row);
    const before = this.#rows.get(key);
    if (!before) this.#rows.set(key, { row, fill: true, there: false });
    // What the stream brought is newer; only what it left out is filled in.
    else if (before.row) this.#rows.set(key, { ...before, row: merge(before.row, row) });
  }

  /** A whole row that came before everything that is here. */
  putBelow(row: Cell[]): void {
    const key = this.keyOf(row);
    const after = this.#rows.get(key);
    if (!after) this.#rows.set(key, { row, fill: false, there: false });
    else if (after.row) this.#rows.set(key, { ...after, row: merge(after.row, row), fill: false });
  }

  delete(cells: readonly Cell[]): void {
    const key = this.keyOf(cells);
    this.#rows.set(key, { row: null, fill: false, there: this.#rows.get(key)?.there ?? true });
  }

  /** Everything left to do, and starts anew. */
  take(): { deleted: string[]; rows: NetRow[]; keys: string[] } {
    const deleted: string[] = [];
    const rows: NetRow[] = [];
    const keys: string[] = [];
    for (const [key, net] of this.#rows) {
      if (net.row === null) deleted.push(key);
      else {
        rows.push(net);
        keys.push(key);
      }
    }
    this.#rows = new Map();
    return { deleted, rows, keys };
  }

  /** Only the keys that are gone, as rows that hold nothing else; what is left to do is about rows that are there. */
  takeDeleted(): Cell[][] {
    const deleted: Cell[][] = [];
    for (const [key, net] of this.#rows) {
      if (net.row !== null) continue;
      const cells = this.#key.length === 1 ? [key] : key.split(SEPARATOR);
      const row: Cell[] = [];
      for (const [i, c] of this.#key.entries()) row[c] = cells[i];
      deleted.push(row);
      this.#rows.delete(key);
    }
    return deleted;
  }
}

/** A row that nothing was known of before: what it does not say is null. */
export function nulled(row: Cell[]): Cell[] {
  return row.includes(undefined) ? row.map((cell) => cell ?? null) : row;
}

/** `newer`, with what it does not say taken from `older`. */
function merge(newer: Cell[], older: readonly Cell[]): Cell[] {
  if (!newer.includes(undefined)) return newer;
  return newer.map((cell, c) => (cell === undefined ? older[c] : cell));
}
