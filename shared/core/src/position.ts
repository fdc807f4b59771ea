import type { Lsn } from './lsn.ts';
import { formatLsn, parseLsn } from './lsn.ts';

/**
 * Where in one source's history: a commit LSN and the ordinal of a change inside that transaction.
 *
 * Totally ordered, and strictly rising from message to message of a changelog:
 * - a row change has ordinal 1, 2, … inside its transaction (I1: ordinals depend on the WAL alone);
 * - an empty message that only moves the watermark has the LSN it covers and ordinal 0;
 * - a snapshot message takes the LSN of the message before it and an ordinal from {@link READ_ORDINAL_MIN} up,
 *   so it sorts after the transaction it follows and before the next one.
 */
export interface SourcePosition {
  readonly lsn: Lsn;
  readonly ordinal: number;
}

/** Ordinals of snapshot messages start here; no transaction has 2^32 changes in one LSN (asserted by the reader). */
export const READ_ORDINAL_MIN = 2 ** 32;

/** Where a reader stands in a changelog: the stream sequence of the last message it holds, and that message's place. */
export interface Position extends SourcePosition {
  /** JetStream stream sequence of the last message held; 0 = nothing yet. */
  readonly seq: number;
  /** Slot epoch of that message: positions of two epochs do not compare. Absent = not known (kept before it was noted). */
  readonly epoch?: string;
}

export const ORIGIN: Position = { seq: 0, lsn: 0n, ordinal: 0 };

/** @returns negative, zero or positive, as `a` lies before, at or after `b` */
export function compareSourcePosition(a: SourcePosition, b: SourcePosition): number {
  if (a.lsn !== b.lsn) return a.lsn < b.lsn ? -1 : 1;
  return a.ordinal - b.ordinal;
}

/** `16/B374D848+3`, the form that people and `--from` use. */
export function formatSourcePosition(position: SourcePosition): string {
  return `${formatLsn(position.lsn)}+${position.ordinal}`;
}

/** Reads `LSN` or `LSN+ORDINAL`. @throws RangeError on anything else */
export function parseSourcePosition(text: string): SourcePosition {
  const [lsn = '', ordinal = '0'] = text.split('+');
  if (!/^\d+$/.test(ordinal)) throw new RangeError(`not a position: "${text}" (expected LSN or LSN+ORDINAL)`);
  return { lsn: parseLsn(lsn), ordinal: Number(ordinal) };
}
