import { CsvRows, SectionDraft } from '@tributary/changelog';
import { type Cell, keyColumns, Op, type OpCode, tableName } from '@tributary/core';
import type { Visibility } from '@tributary/postgres';
import type { Shape } from './contract.ts';
import { keyCells, keyText, type Touches } from './touches.ts';

export interface Reconciled {
  /** Null when nothing is left. */
  readonly draft: SectionDraft | null;
  /** Keys to be asked for again when the transactions that touched them are visible: nothing tells their rows whole yet. */
  readonly open: readonly string[];
}

export interface ChunkRows {
  readonly shape: Shape;
  /** COPY CSV of the columns of `shape.read`. */
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
 *
 * Columns that the table does not give (`shape.absent`) are left unchanged in every row.
 */
export function reconcile(chunk: ChunkRows, touches: Touches): Reconciled {
  const { shape, csv, rows, snapshot, asked } = chunk;
  const { schema, absent } = shape;
  const table = tableName(schema);
  const sweeps = chunk.sweeps === true && asked.length > 0;
  if (!sweeps && absent.size === 0 && !touches.any(table, snapshot))
    return { draft: rows === 0 ? null : SectionDraft.fromCsv(schema, csv, rows), open: [] };
  const read = new CsvRows(csv, rows, shape.read.columns.length).columns().map((column) => column.values());
  let next = 0;
  const columns = schema.columns.map((_, c) => (absent.has(c) ? [] : (read[next++] as readonly Cell[])));
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
