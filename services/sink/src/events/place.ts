import { formatLsn, type Lsn, type SourcePosition } from '@tributary/core';

/**
 * Where one event stands among all events of its source: totally ordered, the same whoever makes the event and however
 * the changelog is cut. A change of the stream: its commit LSN and ordinal. What a snapshot message holds: the message's
 * position, and which of its rows. `part`: which of several events that one change makes.
 */
export interface EventPlace extends SourcePosition {
  readonly row: number;
  readonly part: number;
}

/** Behind every event of a message, or of a transaction. */
export const LAST_ROW = 2 ** 32 - 1;

export const NOWHERE: EventPlace = { lsn: 0n, ordinal: 0, row: 0, part: 0 };

/** Behind everything at or before a position. */
export function behind({ lsn, ordinal }: SourcePosition): EventPlace {
  return { lsn, ordinal, row: LAST_ROW, part: LAST_ROW };
}

/** @returns negative, zero or positive, as `a` lies before, at or behind `b` */
export function comparePlaces(a: EventPlace, b: EventPlace): number {
  if (a.lsn !== b.lsn) return a.lsn < b.lsn ? -1 : 1;
  return a.ordinal - b.ordinal || a.row - b.row || a.part - b.part;
}

/** `16/B374D848:3`, and `:row:part` behind it where they are not 0: the end of an event's id. */
export function formatPlace({ lsn, ordinal, row, part }: EventPlace): string {
  const rest = part !== 0 ? `:${row}:${part}` : row !== 0 ? `:${row}` : '';
  return `${formatLsn(lsn)}:${ordinal}${rest}`;
}

/** Sorts as text the way places are ordered. */
export function sequenceOf({ lsn, ordinal, row, part }: EventPlace): string {
  const hex = (value: number | bigint, digits: number) => value.toString(16).padStart(digits, '0');
  return `${hex(lsn, 16)}-${hex(ordinal, 9)}-${hex(row, 8)}-${hex(part, 8)}`;
}

/** The inverse of {@link sequenceOf}; null for anything else. */
export function placeOf(sequence: string): EventPlace | null {
  const match = /^([0-9a-f]{16})-([0-9a-f]{9})-([0-9a-f]{8})-([0-9a-f]{8})$/.exec(sequence);
  if (!match) return null;
  const [, lsn, ordinal, row, part] = match as unknown as [string, string, string, string, string];
  const at: Lsn = BigInt(`0x${lsn}`);
  return { lsn: at, ordinal: Number.parseInt(ordinal, 16), row: Number.parseInt(row, 16), part: Number.parseInt(part, 16) };
}
