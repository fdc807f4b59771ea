import type { Lsn } from './lsn.ts';
import type { SourcePosition } from './position.ts';
import type { TableSchema } from './schema.ts';

/**
 * What happened to a row, as the byte that stands in a section:
 * `c`reated, `u`pdated, `d`eleted, `r`ead by a snapshot, `t`runcated (the whole table), and
 * `k`ept: a snapshot met the row but the stream already brought a newer version; columns that carry a value
 * fill what the stream left unchanged, the others stay, and a row that no longer exists stays away.
 */
export const Op = { created: 0x63, updated: 0x75, deleted: 0x64, read: 0x72, truncated: 0x74, kept: 0x6b } as const;
export type OpCode = (typeof Op)[keyof typeof Op];

/** A value in PostgreSQL's own text form; `null` = NULL; `undefined` = unchanged TOAST (or not sent by the identity). */
export type Cell = string | null | undefined;

/** Separator and lone markers of a joined column. A column holding one of them in a value travels as an array. */
export const SEPARATOR = '\x1f';
export const NULL_MARK = '\x1e';
export const UNCHANGED_MARK = '\x1d';

/** The values of one column of a section, decoded only as far as the reader asks. */
export interface Column {
  /** All values in one string, joined by {@link SEPARATOR}; null where a value holds a marker character. */
  joined(): string | null;
  /** One cell a row. */
  values(): readonly Cell[];
  /** True when some cell is unchanged TOAST (or absent). */
  hasUnchanged(): boolean;
}

/**
 * The changes of one table in one batch, column by column, in commit order.
 * `c u r k`: the new row. `d`: the old row, cells outside the identity are undefined. `t`: all cells null.
 */
export interface Section {
  readonly schema: TableSchema;
  /** Fingerprint of `schema`: equal for equal shapes, over all sources. */
  readonly schemaVersion: string;
  readonly rows: number;
  readonly ops: Uint8Array;
  /** Per row: index into the batch's transactions (0 in a snapshot message). */
  readonly transaction: Uint32Array;
  /** Per row: ordinal inside its transaction, across tables. */
  readonly ordinal: Uint32Array;
  readonly columns: readonly Column[];
  /** Old rows of updates that carry one (key changed, or identity full); `row` indexes this section. */
  readonly old: { readonly row: Uint32Array; readonly columns: readonly Column[] } | null;
  /** The rows as PostgreSQL's COPY CSV bytes, for snapshot chunks that no reader needs to take apart. */
  readonly csv: Uint8Array | null;
}

export interface Transaction {
  /** LSN of the commit record: what the source position of its changes names. */
  readonly lsn: Lsn;
  /** End of the commit record: replication starts here to go on after it. */
  readonly endLsn: Lsn;
  /** 32-bit transaction id. */
  readonly xid: number;
  /** Commit time, microseconds since 1970. */
  readonly committedAt: number;
}

/**
 * A step of a snapshot of one table.
 * - `begin`: rows of the table that neither a later `read` nor a streamed change names before `end` are gone.
 *   `reset` says that the table is to be emptied at once (keyless tables, first captures). With `progress` the table is read
 *   in one piece, and its rows hold changes of transactions up to that LSN, which the stream leaves out: a reader that keeps
 *   rows and position may stand before this message, or behind both the `end` and that LSN, but not in between.
 * - `chunk`: this message holds rows of it.   - `end`: every row has been seen; sweep.
 * - `gap`: of no table: an epoch begins here that does not follow what is before. A snapshot of every table comes behind
 *   the LSN in `progress`, so a reader that stands no further goes on, wherever it comes from, and is right at their end.
 */
export interface SnapshotMark {
  readonly step: 'gap' | 'begin' | 'chunk' | 'end';
  readonly table: string;
  /** Rises with every snapshot of the source. */
  readonly generation: number;
  readonly reset: boolean;
  /** `chunk`: how far it brought the snapshot; only the next leader reads it. `begin`, `gap`: see there. */
  readonly progress?: string;
}

/** Everything a reader must know before it decodes any row. */
export interface BatchHeader {
  readonly source: string;
  /** Slot epoch: random id given when the slot was made. */
  readonly epoch: string;
  readonly kind: 'stream' | 'read';
  /** Chain: the place of the message before this one. */
  readonly follows: SourcePosition;
  /** The place of this message. */
  readonly position: SourcePosition;
  /** Replication may start here: everything before it is in the changelog up to this message. */
  readonly restart: Lsn;
  /** Everything committed up to this time (microseconds since 1970, the source's clock) is in the changelog. */
  readonly watermark: number;
  /** The first transaction began in an earlier message. */
  readonly continues: boolean;
  /** The last transaction goes on in the next stream message. */
  readonly more: boolean;
  readonly transactions: readonly Transaction[];
  readonly mark: SnapshotMark | null;
  /** What the next leader must know of tables and snapshots (opaque to readers), or null: see `stateSeq`. */
  readonly state: unknown;
  /** Sequence of the newest message that holds `state`; 0 = this one, or none yet. */
  readonly stateSeq: number;
}

export interface Batch {
  readonly header: BatchHeader;
  /** One per table, in the order in which the tables first appear. Decoded on access to their rows. */
  readonly sections: readonly Section[];
  /** Size on the wire. */
  readonly bytes: number;
  /** The message as it was stored, with every table. */
  readonly wire: Uint8Array;
}

/** A batch with its place in the stream. */
export interface StoredBatch extends Batch {
  readonly seq: number;
  /** Milliseconds since 1970, the broker's clock. */
  readonly storedAt: number;
}
