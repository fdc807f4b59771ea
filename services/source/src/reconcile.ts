import { CsvRows, SectionDraft } from '@tributary/changelog';
import { type Cell, keyColumns, Op, type OpCode, type TableSchema, tableName } from '@tributary/core';
import type { Visibility } from '@tributary/postgres';
import { keyCells, keyText, type Touches } from './touches.ts';

export interface Reconciled {
  /** Null when nothing is left. */
  readonly draft: SectionDraft | null;
  /** Keys to be asked for again when the transactions that touched them are visible: nothing tells their rows whole yet. */
  readonly open: readonly string[];
}

export interface ChunkRows {
  readonly schema: TableSchema;
  /** COPY CSV. */
  readonly csv: Uint8Array;
  readonly rows: number;
  /** What the chunk's transaction saw. */
  readonly snapshot: Visibility;
  /** Keys that were asked for one by one; empty where a range was read. */
  readonly asked: readonly string[];
  /** A key that was asked for and has no row is to be named as deleted. */
  readonly sweeps?: boolean;
}

/**
 * I8 What of a chunk may be published, now that everything its snapshot sees has been streamed.
 *
 * Untouched rows go as they are. A row that was touched by a streamed transaction which the snapshot does not see is
 * older than what the changelog says: it is left out, or, when it still exists, named as kept with the values that
 * every such transaction left unchanged. A row that was asked for but is not in the chunk, because such a transaction made
 * it, exists too: it is named as kept, lest it be taken for deleted when the snapshot ends.
 */
export function reconcile(chunk: ChunkRows, touches: Touches): Reconciled {
  const { schema, csv, rows, snapshot, asked } = chunk;
  const table = tableName(schema);
  const sweeps = chunk.sweeps === true && asked.length > 0;
  if (!sweeps && !touches.any(table, snapshot))
    return { draft: rows === 0 ? null : SectionDraft.fromCsv(schema, csv, rows), open: [] };
  const columns = new CsvRows(csv, rows, schema.columns.length).columns().map((column) => column.values());
  const key = keyColumns(schema);
  const draft = new SectionDraft(schema);
  const open: string[] = [];
  let ordinal = 0;
  const put = (op: OpCode, cellOf: (column: number) => Cell) => {
    for (let c = 0; c < columns.length; c++) draft.cells[c]?.push(cellOf(c));
    draft.row(op, 0, ++ordinal);
  };
  const missing = new Set(asked);
  for (let row = 0; row < rows; row++) {
    const text = keyText(key.map((c) => columns[c]?.[row]));
    missing.delete(text);
    const verdict = touches.judge(table, text, snapshot);
    if (verdict === 'gone') continue;
    if (verdict === 'fresh') {
      put(Op.read, (c) => columns[c]?.[row]);
      continue;
    }
    put(Op.kept, (c) => (verdict.kept.has(c) || key.includes(c) ? columns[c]?.[row] : undefined));
    if ([...verdict.open].some((c) => !verdict.kept.has(c))) open.push(text);
  }
  for (const text of missing) {
    const verdict = touches.judge(table, text, snapshot);
    if (verdict === 'gone' || (verdict === 'fresh' && !sweeps)) continue;
    const cells = keyCells(text);
    put(verdict === 'fresh' ? Op.deleted : Op.kept, (c) => (key.includes(c) ? cells[key.indexOf(c)] : undefined));
    if (verdict !== 'fresh' && verdict.open.size > 0) open.push(text);
  }
  return { draft: ordinal > 0 ? draft : null, open };
}
