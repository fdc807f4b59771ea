import type { Changelogs, LastBatch } from '@tributary/changelog';
import { type Cell, keyColumns, Op, type Section, tableName } from '@tributary/core';
import type { SourceState } from './state.ts';
import { keyText } from './touches.ts';

/**
 * Brings the state of unfinished snapshots up to the end of the changelog: the batches behind the one that carries the
 * state tell how far chunks came and which rows arrived incomplete.
 * @returns per table with an unfinished snapshot, the keys to be read again
 */
export async function recoverSnapshots(
  changelogs: Changelogs,
  source: string,
  last: LastBatch | null,
  state: SourceState,
): Promise<Map<string, Set<string>>> {
  const running = Object.entries(state.tables).filter(([, table]) => table.snapshot?.begun);
  const keys = new Map(running.map(([name, table]) => [name, new Set(table.snapshot?.reread)]));
  if (!last?.statePosition || running.length === 0 || last.statePosition.seq === last.seq) return keys;
  const stop = new AbortController();
  for await (const batch of changelogs.read(source, { after: last.statePosition, signal: stop.signal })) {
    const { mark } = batch.header;
    const snapshot = mark ? state.tables[mark.table]?.snapshot : null;
    if (mark?.step === 'chunk' && mark.progress && snapshot && snapshot.generation === mark.generation) {
      const [leaf = '0', block = '0'] = mark.progress.split(':');
      snapshot.leaf = Number(leaf);
      snapshot.block = Number(block);
    }
    for (const section of batch.sections) {
      const into = keys.get(tableName(section.schema));
      if (into) collect(section, into);
    }
    if (batch.seq >= last.seq) break;
  }
  stop.abort();
  return keys;
}

/** Keys of updates that left a column unchanged. */
function collect(section: Section, into: Set<string>): void {
  if (section.csv || !section.columns.some((column) => column.hasUnchanged())) return;
  const columns = section.columns.map((column) => column.values());
  const key = keyColumns(section.schema);
  section.ops.forEach((op, row) => {
    if (op !== Op.updated || !columns.some((cells) => cells[row] === undefined)) return;
    into.add(keyText(key.map((c): Cell => columns[c]?.[row])));
  });
}
