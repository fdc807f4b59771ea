import { compareSourcePosition, formatSourcePosition, type Lsn, type Position, type SourcePosition } from '@tributary/core';
import { duckLiteral } from '@tributary/duckdb';
import type { Rewind } from '@tributary/projection';
import type { Manifest, ManifestFile, ManifestTable } from './manifest.ts';

/** What the commit of a rewind says of the tables of the commit before it. */
export async function rewound(
  tables: Manifest['tables'],
  { to, until, kept, begun, foreign }: Rewind,
  {
    held,
    cut,
  }: {
    /** Tables that an earlier rewind keeps, and how far they have come. */
    readonly held: ReadonlyMap<string, SourcePosition>;
    /** Files without the history rows that meet a condition. */
    readonly cut: (name: string, files: readonly ManifestFile[], behind: string) => Promise<readonly ManifestFile[]>;
  },
): Promise<Record<string, ManifestTable>> {
  const result: Record<string, ManifestTable> = {};
  for (const [name, table] of Object.entries(tables)) {
    const earlier = held.get(name);
    const later = !foreign && earlier && compareSourcePosition(earlier, until) > 0;
    const stays = later ? earlier : kept.has(name) ? until : null;
    const changes = stays ? table.changes : await cut(name, table.changes, behindSql(to));
    const seen = !stays && (foreign || begun.has(name)) ? null : (table.exact?.seen ?? null);
    const exact = table.exact && { ...table.exact, seen, held: stays && formatSourcePosition(stays) };
    result[name] = { ...table, changes, exact };
  }
  return result;
}

/**
 * SQL: does a history row lie behind a position? Rows of the stream carry their own place. Rows read by a snapshot carry
 * the LSN of the message they came with, so inside one LSN the sequence decides.
 */
function behindSql({ seq, lsn, ordinal }: Position): string {
  const place = `lpad(split_part(_lsn, '/', 1), 8, '0') || lpad(split_part(_lsn, '/', 2), 8, '0')`;
  const here = duckLiteral(padded(lsn));
  return `${place} > ${here} OR (${place} = ${here} AND CASE WHEN _xid IS NULL THEN _seq > ${seq} ELSE _ordinal > ${ordinal} END)`;
}

function padded(lsn: Lsn): string {
  return lsn.toString(16).toUpperCase().padStart(16, '0');
}
