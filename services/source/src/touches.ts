import { type Cell, SEPARATOR } from '@tributary/core';
import type { Visibility } from '@tributary/postgres';

/** What a streamed transaction did to one row. */
interface Touch {
  /** 64-bit. */
  readonly xid: bigint;
  readonly deleted: boolean;
  /** Columns of the new row that the WAL left out (unchanged TOAST); null = the row came whole. */
  readonly unchanged: ReadonlySet<number> | null;
}

/**
 * What is known of a row of a chunk: `fresh` = no streamed transaction that the snapshot does not see touched it; `gone` =
 * such a transaction deleted it; else the stream brought something newer.
 */
export type Verdict = 'fresh' | 'gone' | Newer;

export interface Newer {
  /** Columns of the chunk's row that all of them left unchanged. */
  readonly kept: ReadonlySet<number>;
  /** Columns that the stream did not bring for the row as it is now; those not in `kept` no snapshot of this age tells. */
  readonly open: ReadonlySet<number>;
}

interface TableTouches {
  readonly rows: Map<string, Touch[]>;
  truncations: bigint[];
}

/** A snapshot that is taken, or used: what it may not see is remembered until it has landed. */
export interface Flight {
  /** Until the snapshot is known: what it will see at least. */
  seen: Visibility;
}

const TOUCHES_MAX = 200_000;

/** The key of a row as one string. Keys are never NULL. */
export function keyText(key: readonly Cell[]): string {
  return key.length === 1 ? String(key[0]) : key.join(SEPARATOR);
}

export function keyCells(text: string): string[] {
  return text.split(SEPARATOR);
}

/**
 * Remembers which rows streamed transactions touched, for as long as some snapshot might not see those transactions (I8).
 *
 * Bounded: past `TOUCHES_MAX` everything is dropped and `untrackedBelow` rises, and a snapshot waits until all
 * transactions below it are visible. The same holds for whatever was streamed before this tracking began.
 */
export class Touches {
  readonly #tables = new Map<string, TableTouches>();
  #count = 0;
  /** Rises whenever touches were dropped: a chunk read before that cannot be reconciled. */
  epoch = 0;
  /** Every streamed transaction below this xid may have touched rows that nobody remembers. */
  untrackedBelow: bigint;
  #latest: Visibility;
  readonly #flights = new Set<Flight>();

  /** @param untrackedBelow above every transaction that may have been streamed before */
  constructor(atStart: Visibility, untrackedBelow: bigint) {
    this.#latest = atStart;
    this.untrackedBelow = untrackedBelow;
  }

  /** @returns the 64-bit xid to note touches under, or null when every snapshot in flight or to come sees it anyway */
  begin(xid: number): bigint | null {
    const wide = this.#latest.widen(xid);
    return this.#seenByAll(wide) ? null : wide;
  }

  /**
   * Call before a snapshot is asked for: it may be older than what is learnt of visibility before its answer comes.
   * Whatever it does not see stays remembered until {@link land}.
   */
  takeOff(): Flight {
    const flight = { seen: this.#latest };
    this.#flights.add(flight);
    return flight;
  }

  land(flight: Flight): void {
    this.#flights.delete(flight);
  }

  #seenByAll(xid: bigint): boolean {
    if (!this.#latest.sees(xid)) return false;
    for (const { seen } of this.#flights) if (!seen.sees(xid)) return false;
    return true;
  }

  note(table: string, key: string, touch: Touch): void {
    const touches = this.#table(table);
    const known = touches.rows.get(key);
    if (known) known.push(touch);
    else touches.rows.set(key, [touch]);
    if (++this.#count > TOUCHES_MAX) this.#drop(touch.xid);
  }

  truncated(table: string, xid: bigint): void {
    const touches = this.#table(table);
    touches.truncations.push(xid);
    this.#count++;
  }

  /** Is there any touch of a table that this snapshot does not see? */
  any(table: string, snapshot: Visibility): boolean {
    const touches = this.#tables.get(table);
    if (!touches) return false;
    if (touches.truncations.some((xid) => !snapshot.sees(xid))) return true;
    for (const row of touches.rows.values()) if (row.some((touch) => !snapshot.sees(touch.xid))) return true;
    return false;
  }

  /** Judges one row of a chunk. */
  judge(table: string, key: string, snapshot: Visibility): Verdict {
    const touches = this.#tables.get(table);
    if (!touches) return 'fresh';
    if (touches.truncations.some((xid) => !snapshot.sees(xid))) return 'gone';
    const invisible = (touches.rows.get(key) ?? []).filter((touch) => !snapshot.sees(touch.xid));
    const last = invisible.at(-1);
    if (!last) return 'fresh';
    if (last.deleted) return 'gone';
    let kept: ReadonlySet<number> | null = null;
    // What is not known of the row; null = there is none, or it is the one that the snapshot sees.
    let open: ReadonlySet<number> | null = null;
    for (const { deleted, unchanged } of invisible) {
      const same: ReadonlySet<number> = deleted ? new Set() : (unchanged ?? new Set());
      kept = both(kept, same);
      open = deleted ? null : both(open, same);
    }
    return { kept: kept ?? new Set(), open: open ?? new Set() };
  }

  /** Keys of a table with remembered touches. */
  keys(table: string): string[] {
    return [...(this.#tables.get(table)?.rows.keys() ?? [])];
  }

  /** Forgets what `latest` and every snapshot in flight see. */
  prune(latest: Visibility): void {
    this.#latest = latest;
    const seen = (xid: bigint) => this.#seenByAll(xid);
    let count = 0;
    for (const [name, touches] of this.#tables) {
      for (const [key, row] of touches.rows) {
        const left = row.filter((touch) => !seen(touch.xid));
        if (left.length === 0) touches.rows.delete(key);
        else if (left.length < row.length) touches.rows.set(key, left);
        count += left.length;
      }
      touches.truncations = touches.truncations.filter((xid) => !seen(xid));
      count += touches.truncations.length;
      if (touches.rows.size === 0 && touches.truncations.length === 0) this.#tables.delete(name);
    }
    this.#count = count;
  }

  #table(name: string): TableTouches {
    let touches = this.#tables.get(name);
    if (!touches) {
      touches = { rows: new Map(), truncations: [] };
      this.#tables.set(name, touches);
    }
    return touches;
  }

  #drop(current: bigint): void {
    let highest = current;
    for (const touches of this.#tables.values()) {
      for (const row of touches.rows.values()) for (const touch of row) if (touch.xid > highest) highest = touch.xid;
      for (const xid of touches.truncations) if (xid > highest) highest = xid;
    }
    this.#tables.clear();
    this.#count = 0;
    this.epoch++;
    this.untrackedBelow = highest + 1n;
  }
}

/** What is in both; null = everything. */
function both(one: ReadonlySet<number> | null, other: ReadonlySet<number>): ReadonlySet<number> {
  return one === null ? other : new Set([...one].filter((column) => other.has(column)));
}
