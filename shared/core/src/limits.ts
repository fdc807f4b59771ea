/** Every bound of the system in one place; a hidden limit is a bug. */
export const LIMITS = {
  /** A batch is cut at this size (or at `lingerMs`), at a transaction end where one is near. */
  batchBytes: 256 * 1024,
  /** A transaction that outgrows this is sent in parts marked `more`. */
  transactionBytes: 512 * 1024,
  /** Longest wait before a batch that is not full goes out. */
  lingerMs: 5,
  /** Published and not yet acknowledged; beyond it the source stops reading. */
  pendingBytes: 8 * 1024 * 1024,
  /** Bytes a changelog reader asks for ahead, per reader; 64 MB make the broker drop the connection. */
  readAheadBytes: 4 * 1024 * 1024,
  /** A reader that hears nothing for this long, no heartbeat either, is opened anew: its server died, or forgot it. */
  readerStallMs: 4_000,
  /** Rows per answer part of a query. */
  answerRows: 1_000,
} as const;
