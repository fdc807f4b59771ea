import { CsvRows, SectionDraft } from '@tributary/changelog';
import { type Cell, keyColumns, Op, type TableSchema, tableName } from '@tributary/core';
import type { Visibility } from '@tributary/postgres';
import { keyText, type Touches } from './touches.ts';

export interface ChunkRows {
  readonly schema: TableSchema;
  /** COPY CSV. */
  readonly csv: Uint8Array;
  readonly rows: number;
  /** What the chunk's transaction saw. */
  readonly snapshot: Visibility;
}

/**
 * I8 What of a chunk may be published, now that everything its snapshot sees has been streamed.
 *
 * Untouched rows go as they are. A row that was touched by a streamed transaction which the snapshot does not see is
 * older than what the changelog says: it is left out, or, when it still exists, named as kept with the values that
 * every such transaction left unchanged.
 * @returns null when nothing is left
 */
export function reconcile(chunk: ChunkRows, touches: Touches): SectionDraft | null {
  const { schema, csv, rows, snapshot } = chunk;
  if (rows === 0) return null;
  const table = tableName(schema);
  if (!touches.any(table, snapshot)) return SectionDraft.fromCsv(schema, csv, rows);
  const columns = new CsvRows(csv, rows, schema.columns.length).columns().map((column) => column.values());
  const key = keyColumns(schema);
  const draft = new SectionDraft(schema);
  let ordinal = 0;
  for (let row = 0; row < rows; row++) {
    const verdict = touches.judge(table, keyText(key.map((c) => columns[c]?.[row])), snapshot);
    if (verdict === 'gone') continue;
    const kept = verdict === 'fresh' ? null : verdict.kept;
    for (let c = 0; c < columns.length; c++) {
      const known = kept === null || kept.has(c) || key.includes(c);
      const cell: Cell = known ? columns[c]?.[row] : undefined;
      draft.cells[c]?.push(cell);
    }
    draft.row(kept === null ? Op.read : Op.kept, 0, ++ordinal);
  }
  return ordinal > 0 ? draft : null;
}
