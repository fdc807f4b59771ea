import { type BatchHeader, type Cell, type Lsn, type Section, SEPARATOR } from '@tributary/core';

/** Where in the source's history something happened, and when. */
export interface Moment {
  readonly lsn: Lsn;
  readonly ordinal: number;
  /** Commit time, microseconds since 1970; of what a snapshot read, up to when the source was complete. */
  readonly at: number;
}

/** The moment of one row of a section, or, without one, of the message. */
export function momentOf(header: BatchHeader, section?: Section, row = 0): Moment {
  const transaction = section && header.transactions[section.transaction[row] as number];
  if (!transaction) return { ...header.position, at: header.watermark };
  return { lsn: transaction.lsn, ordinal: section.ordinal[row] as number, at: transaction.committedAt };
}

/** Right before a moment: for what is done to a table before its first change. */
export function rightBefore({ lsn, ordinal, at }: Moment): Moment {
  return { lsn, ordinal: ordinal - 1, at };
}

/** What ended the version that stood under a key in the target. */
export interface Ended {
  /** Holds the key's cells. */
  readonly row: readonly Cell[];
  readonly to: Moment;
  readonly by: string;
}

/** One state of a row, from one change to the next. */
export interface Version {
  /** Undefined = as in `like`; NULL where there is none. */
  readonly cells: readonly Cell[];
  readonly from: Moment;
  /** The change that made it: `c`, `u`, or `r` for what a snapshot read. */
  readonly op: string;
  /** A version of the target that ended here; it has the values of cells that were left out. */
  readonly like: Ended | null;
  end: { readonly to: Moment; readonly by: string } | null;
}

/** What a version that follows another one takes its unchanged cells from. */
interface Before {
  readonly cells: readonly Cell[];
  readonly like: Ended | null;
}

const NOTHING: Before = { cells: [], like: null };

/**
 * Versions of the rows of one keyed table, made of its changes in their order: every change that makes a row begins one and ends the one before.
 * Nothing is folded, so the versions do not depend on how the changes were grouped. Pure; the target is asked for nothing: of the versions that
 * it holds only those are needed that end here, and a version that lacks cells names the one that has them.
 */
export class Versions {
  readonly #key: readonly number[];
  #list: Version[] = [];
  /** By key, of `#list`. */
  readonly #open = new Map<string, Version>();
  readonly #ended = new Map<string, Ended>();
  #all: Omit<Ended, 'row'> | null = null;

  /** @param key indices of the key's columns */
  constructor(key: readonly number[]) {
    this.#key = key;
  }

  create(cells: readonly Cell[], from: Moment): void {
    this.#end(cells, from, 'c');
    this.#begin(cells, { from, op: 'c', before: NOTHING });
  }

  /** @param old the row before, as far as the stream tells it */
  update(old: readonly Cell[] | undefined, cells: readonly Cell[], from: Moment): void {
    const moved = old !== undefined && this.#keyOf(old) !== this.#keyOf(cells);
    const before = this.#end(moved ? old : cells, from, 'u');
    if (moved) this.#end(cells, from, 'u');
    const known = old ? cells.map((cell, c) => (cell === undefined ? old[c] : cell)) : cells;
    this.#begin(known, { from, op: 'u', before });
  }

  delete(cells: readonly Cell[], to: Moment): void {
    this.#end(cells, to, 'd');
  }

  /** Every row is gone. */
  truncate(to: Moment): void {
    for (const version of this.#open.values()) version.end = { to, by: 't' };
    this.#open.clear();
    this.#all ??= { to, by: 't' };
  }

  /** Everything since the last time, and starts anew. `all` ends what is open in the target beside what `ended` names. */
  take(): { ended: Ended[]; all: Omit<Ended, 'row'> | null; versions: Version[] } {
    const taken = { ended: [...this.#ended.values()], all: this.#all, versions: this.#list };
    this.#list = [];
    this.#open.clear();
    this.#ended.clear();
    this.#all = null;
    return taken;
  }

  #keyOf(cells: readonly Cell[]): string {
    return this.#key.map((c) => cells[c]).join(SEPARATOR);
  }

  #begin(cells: readonly Cell[], { from, op, before }: { from: Moment; op: string; before: Before }): void {
    const complete = cells.map((cell, c) => (cell === undefined ? before.cells[c] : cell));
    const like = complete.includes(undefined) ? before.like : null;
    const version = { cells: complete, from, op, like, end: null };
    this.#list.push(version);
    this.#open.set(this.#keyOf(complete), version);
  }

  /** Ends what stands under the key of a row, here or in the target. */
  #end(row: readonly Cell[], to: Moment, by: string): Before {
    const key = this.#keyOf(row);
    const open = this.#open.get(key);
    if (open) {
      open.end = { to, by };
      this.#open.delete(key);
      return open;
    }
    if (this.#all || this.#ended.has(key)) return NOTHING;
    const ended = { row, to, by };
    this.#ended.set(key, ended);
    return { cells: [], like: ended };
  }
}
