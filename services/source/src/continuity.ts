import type { LastBatch } from '@tributary/changelog';
import { type Lsn, ORIGIN } from '@tributary/core';
import type { Slot } from './database.ts';

/**
 * A database that was set back writes LSNs anew that the changelog has already; places in a changelog must rise all the
 * same. So a place is an LSN whose highest 16 bits count how often that happened: 256 TiB of log remain for the rest.
 */
const BRANCH: Lsn = 1n << 48n;

/** The LSN as PostgreSQL knows it. */
export function walOf(place: Lsn): Lsn {
  return place % BRANCH;
}

/** What to add to PostgreSQL's LSN to get a place in the same stretch of history. */
export function branchOf(place: Lsn): Lsn {
  return place - walOf(place);
}

/** The transaction at the end of the changelog. PostgreSQL sends it once more, to show that this is still its history. */
export interface Anchor {
  /** Where its commit stands. */
  readonly commit: Lsn;
  /** It committed no later, microseconds since 1970; null when it was cut and its end is not known. */
  readonly committedBy: number | null;
}

export type Continuity =
  /** Nothing was ever captured. */
  | { readonly kind: 'fresh'; readonly from: Lsn }
  /** Replication goes on at `from`. */
  | { readonly kind: 'follows'; readonly from: Lsn; readonly anchor: Anchor | null }
  | Gap;

/** Something may be missing between changelog and database: it goes on at `from`, and every table is read again. */
export interface Gap {
  readonly kind: 'gap';
  readonly reason: string;
  /** The changelog does not hold what PostgreSQL was told that it holds. */
  readonly lost: boolean;
  readonly from: Lsn;
  /** LSN of the changelog message that says so: beyond everything before it, and before everything that follows. */
  readonly place: Lsn;
}

/**
 * Decides whether the database goes on where the changelog ends.
 *
 * I5 says that PostgreSQL was never told to forget what is not in the changelog. So on the same history the slot's confirmed
 * position is one of the changelog's `restart` positions, and the WAL reaches beyond the last of them. What else can be:
 *
 *   no changelog, but a slot         the changelog was lost
 *   no slot                          dropped, or not part of a restored copy
 *   confirmed beyond the changelog   the changelog lost its end (a store restored from a backup)
 *   the WAL ends before it           the database was set back (restored, or failed over to a standby that was behind)
 *   the anchor is not there          the same, and it has written more since ({@link rewound})
 *
 * Pure.
 */
export function continuity(last: LastBatch | null, slot: Slot, walEnd: Lsn): Continuity {
  if (!last) {
    if (slot.created) return { kind: 'fresh', from: slot.confirmed };
    return { ...gap(null, 'the changelog is empty, but the slot is not new: it was lost', slot.confirmed), lost: true };
  }
  const { position, restart, watermark, more } = last.header;
  if (walEnd < restart) return gap(last, 'the database was set back to before the end of the changelog', walEnd);
  if (slot.created) return gap(last, 'the slot was gone', slot.confirmed);
  if (slot.confirmed > restart) {
    const reason = 'the changelog does not reach up to where the slot begins';
    return { ...gap(last, reason, slot.confirmed), lost: true };
  }
  const commit = walOf(position.lsn);
  // Confirmed to the end, or nothing was streamed since a gap was told of: there is no transaction to ask for.
  if (slot.confirmed === restart || restart <= commit + 1n) return { kind: 'follows', from: restart, anchor: null };
  if (slot.confirmed > commit) return rewound(last, walEnd);
  return { kind: 'follows', from: commit, anchor: { commit, committedBy: more ? null : watermark } };
}

/** The database's history is another one than the changelog's. */
export function rewound(last: LastBatch, walEnd: Lsn): Gap {
  return gap(last, 'the database was set back, and has written another history since', walEnd);
}

function gap(last: LastBatch | null, reason: string, from: Lsn): Gap {
  const end = last?.header.position.lsn ?? ORIGIN.lsn;
  const place = branchOf(end) + from - 1n;
  return { kind: 'gap', reason, lost: false, from, place: place > end ? place : place + BRANCH };
}
