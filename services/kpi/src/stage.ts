import { type Cell, Op, type Section, SEPARATOR } from '@tributary/core';
import { oldRows } from '@tributary/projection';

/** One change of a row, as it is staged. */
export interface Staged {
  /** `w`rite the row, `d`elete it, `k`eep: fill a row that is there. */
  readonly op: 'w' | 'd' | 'k';
  readonly cells: readonly Cell[];
  /** Key of the current row that cells left open come from, where it is another one. */
  readonly base: readonly Cell[] | null;
}

/** Rows of a section, from `from` until before `to`. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

interface Known {
  readonly cells: readonly Cell[];
  readonly base: readonly Cell[] | null;
  readonly gone: boolean;
}

/**
 * Follows the rows of a table through the changes of a group, for those that do not say everything: an update that leaves
 * cells unchanged (TOAST), moves a row to another key, or fills one that the stream brought first (`k`). What an earlier
 * change of the group said is filled in here; what is still open then comes from the current row, in SQL.
 */
export class RowTracker {
  readonly #key: readonly number[];
  readonly #known = new Map<string, Known>();

  constructor(key: readonly number[]) {
    this.#key = key;
  }

  get size(): number {
    return this.#known.size;
  }

  /** The changes of a section, complete as far as this group knows. */
  *follow(section: Section, range: Range | null): Iterable<Staged> {
    const columns = section.columns.map((column) => column.values());
    const old = oldRows(section);
    for (let row = range?.from ?? 0; row < (range?.to ?? section.rows); row++) {
      const cells = columns.map((column) => column[row]);
      const op = section.ops[row];
      if (op === Op.deleted) yield this.#delete(cells);
      else if (op === Op.kept) yield* this.#keep(cells);
      else yield* this.#put(cells, old.get(row));
    }
  }

  #delete(cells: readonly Cell[]): Staged {
    this.#known.set(this.#keyOf(cells), { cells, base: null, gone: true });
    return { op: 'd', cells, base: null };
  }

  *#put(cells: readonly Cell[], before: readonly Cell[] | undefined): Iterable<Staged> {
    const key = this.#keyOf(cells);
    const from = before ? this.#keyOf(before) : key;
    const known = this.#known.get(from);
    const open = known && !known.gone ? filled(cells, known.cells) : cells;
    const complete = before ? filled(open, before) : open;
    const moved = before !== undefined && from !== key;
    // What an earlier change of the group left open is with the row under the key that it had then.
    const base = (known && !known.gone ? known.base : null) ?? (moved ? this.#key.map((c) => before[c]) : null);
    if (moved) yield this.#delete(before);
    this.#known.set(key, { cells: complete, base, gone: false });
    yield { op: 'w', cells: complete, base };
  }

  *#keep(cells: readonly Cell[]): Iterable<Staged> {
    const key = this.#keyOf(cells);
    const known = this.#known.get(key);
    if (known?.gone) return;
    // What the stream brought is newer; only what it left open is filled in.
    const complete = known ? filled(known.cells, cells) : cells;
    const base = known?.base ?? null;
    this.#known.set(key, { cells: complete, base, gone: false });
    yield { op: known ? 'w' : 'k', cells: complete, base };
  }

  #keyOf(cells: readonly Cell[]): string {
    return this.#key.map((c) => cells[c]).join(SEPARATOR);
  }
}

/** Does every change of a section name its whole row, under the key that it had? Then nobody needs to look at its cells. */
export function isPlain(section: Section, key: readonly number[]): boolean {
  if (section.csv !== null) return true;
  const { ops, old } = section;
  if (ops.includes(Op.kept)) return false;
  if (old) {
    for (const c of key) {
      const before = old.columns[c]?.values() ?? [];
      const now = section.columns[c]?.values() ?? [];
      if (old.row.some((row, i) => before[i] !== now[row])) return false;
    }
  }
  const someDeleted = ops.includes(Op.deleted);
  for (const column of section.columns) {
    if (!column.hasUnchanged()) continue;
    if (!someDeleted) return false;
    const cells = column.values();
    // Of a deleted row only the key is told.
    if (ops.some((op, row) => op !== Op.deleted && cells[row] === undefined)) return false;
  }
  return true;
}

function filled(newer: readonly Cell[], older: readonly Cell[]): readonly Cell[] {
  if (!newer.includes(undefined)) return newer;
  return newer.map((cell, c) => (cell === undefined ? older[c] : cell));
}
