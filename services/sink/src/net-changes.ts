import { type Cell, SEPARATOR } from '@tributary/core';

/** What is left to do about one key after all changes of a group. */
export interface NetRow {
  /** The new row; cells that no change brought are undefined. Null = the row is gone. */
  readonly row: Cell[] | null;
  /** Only fill an existing row, never make one (`k`). */
  readonly fill: boolean;
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

  /** A row as it is now: created, read, or updated. */
  put(row: Cell[]): void {
    const key = this.keyOf(row);
    const before = this.#rows.get(key);
    this.#rows.set(key, { row: before?.row ? merge(row, before.row) : row, fill: false });
  }

  /** A row under a new key: unchanged cells come from the row it was. @returns false when that row is not in this group */
  move(oldKey: readonly Cell[], row: Cell[]): boolean {
    const key = this.keyOf(oldKey);
    const before = this.#rows.get(key);
    const complete = before?.row ? merge(row, before.row) : row;
    if (complete.includes(undefined)) return false;
    this.#rows.set(key, { row: null, fill: false });
    this.#rows.set(this.keyOf(row), { row: complete, fill: false });
    return true;
  }

  /** Values of a row that the stream left out; never makes a row. */
  fill(row: Cell[]): void {
    const key = this.keyOf(row);
    const before = this.#rows.get(key);
    if (!before) this.#rows.set(key, { row, fill: true });
    // What the stream brought is newer; only what it left out is filled in.
    else if (before.row) this.#rows.set(key, { row: merge(before.row, row), fill: before.fill });
  }

  delete(cells: readonly Cell[]): void {
    this.#rows.set(this.keyOf(cells), { row: null, fill: false });
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
}

/** `newer`, with what it does not say taken from `older`. */
function merge(newer: Cell[], older: readonly Cell[]): Cell[] {
  if (!newer.includes(undefined)) return newer;
  return newer.map((cell, c) => (cell === undefined ? older[c] : cell));
}
