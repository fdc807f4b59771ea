import { formatLsn, type Lsn, parseLsn, type Position, type SourcePosition } from '@tributary/core';
import { duckLiteral } from '@tributary/duckdb';
import type { Rewind } from '@tributary/projection';

/** A rewind as it is noted before the first of its steps, so that one that was interrupted is finished. JSON. */
export interface NotedRewind {
  readonly to: { readonly seq: number; readonly lsn: string; readonly ordinal: number };
  readonly watermark: number;
  readonly until: string;
  readonly kept: readonly string[];
  readonly begun: readonly string[];
}

export function noteRewind({ to, watermark, until, kept, begun }: Rewind): NotedRewind {
  return {
    to: { seq: to.seq, lsn: formatLsn(to.lsn), ordinal: to.ordinal },
    watermark,
    until: heldText(until),
    kept: [...kept],
    begun: [...begun],
  };
}

export function positionOf({ to }: NotedRewind): Position {
  return { seq: to.seq, lsn: parseLsn(to.lsn), ordinal: to.ordinal };
}

export function heldText({ lsn, ordinal }: SourcePosition): string {
  return `${formatLsn(lsn)}+${ordinal}`;
}

/**
 * SQL: does a history row lie behind a position? Rows of the stream carry their own place. Rows read by a snapshot carry
 * the LSN of the message they came with, so inside one LSN the sequence decides.
 */
export function behindSql({ seq, lsn, ordinal }: Position): string {
  const place = `lpad(split_part(_lsn, '/', 1), 8, '0') || lpad(split_part(_lsn, '/', 2), 8, '0')`;
  const here = duckLiteral(padded(lsn));
  return `${place} > ${here} OR (${place} = ${here} AND CASE WHEN _op IN ('r', 'k') THEN _seq > ${seq} ELSE _ordinal > ${ordinal} END)`;
}

function padded(lsn: Lsn): string {
  return lsn.toString(16).toUpperCase().padStart(16, '0');
}
