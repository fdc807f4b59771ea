import type { Changelogs } from '@tributary/changelog';
import {
  type Cell,
  compareSourcePosition,
  keyColumns,
  type Position,
  type Section,
  type SourcePosition,
  tableName,
} from '@tributary/core';

/** What a stretch of history means for a replay over the state at its end. */
export interface Window {
  /** Tables whose changes cannot be applied a second time over newer rows. */
  readonly kept: ReadonlySet<string>;
  /** Tables of which a snapshot begins in it, and where the first one does. */
  readonly begun: ReadonlyMap<string, SourcePosition>;
}

/**
 * Reads the history between two positions and says which tables may be replayed over their newer state.
 *
 * For a keyed table that is exact: after the last change of a key every cell holds what the last change that named it
 * wrote, or what it held all the time; a row that a replayed delete, truncation or sweep removes too early comes whole
 * later, because only a create or a read can have brought it back. Two things break it, and keep the whole table:
 *
 * - no key: rows cannot be told apart, and inserting them again would double them;
 * - a row that moved to another key with cells left unchanged (TOAST): their values are those of the row it was, which
 *   the newer state no longer has.
 */
export async function surveyWindow(
  changelogs: Changelogs,
  source: string,
  { from, to, signal }: { from: Position; to: SourcePosition; signal: AbortSignal },
): Promise<Window> {
  const kept = new Set<string>();
  const begun = new Map<string, SourcePosition>();
  const end = (await changelogs.last(source))?.seq ?? 0;
  if (end <= from.seq) return { kept, begun };
  for await (const batch of changelogs.read(source, { after: from, signal })) {
    const { mark, position } = batch.header;
    const place = compareSourcePosition(position, to);
    if (place > 0) break;
    if (mark?.step === 'begin' && !begun.has(mark.table)) begun.set(mark.table, position);
    for (const section of batch.sections) if (!repeatable(section)) kept.add(tableName(section.schema));
    if (place === 0 || batch.seq >= end) break;
  }
  signal.throwIfAborted();
  return { kept, begun };
}

function repeatable(section: Section): boolean {
  const key = keyColumns(section.schema);
  if (key.length === 0) return false;
  const { old } = section;
  if (!old || !section.columns.some((column) => column.hasUnchanged())) return true;
  const now = section.columns.map((column) => column.values());
  const before = old.columns.map((column) => column.values());
  return old.row.every((row, i) => {
    const cell = (c: number): Cell => now[c]?.[row];
    const moved = key.some((c) => before[c]?.[i] !== cell(c));
    return !moved || now.every((_, c) => cell(c) !== undefined || before[c]?.[i] !== undefined);
  });
}
