import { type Column, formatSourcePosition, type Section, type StoredBatch, type TableSchema, tableName } from '@tributary/core';
import { concat } from './pick.ts';
import type { InTransaction, OutMessage } from './output.ts';

/** The changes of one table in one shape, out of several messages of one input, in order. */
export interface Piece {
  readonly schema: TableSchema;
  readonly version: string;
  readonly rows: number;
  readonly ops: Uint8Array;
  /** Per row: index into the transactions of the run. */
  readonly transactions: Uint32Array;
  readonly ordinals: Uint32Array;
  readonly columns: readonly Column[];
  readonly old: Section['old'];
  /** Rows that somebody asked for, outside of any snapshot: no sweep follows. */
  readonly chosen: boolean;
  /** Where a row stands in its changelog, for people. */
  readonly placeOf: (row: number) => string;
}

/** Messages of one input that go out as one. */
export interface Run extends Pick<OutMessage, 'continues' | 'more'> {
  readonly kind: 'stream' | 'read';
  readonly batches: readonly StoredBatch[];
  readonly transactions: readonly InTransaction[];
  readonly pieces: readonly Piece[];
}

/** Cuts a group into runs: messages of the stream together, every snapshot message by itself. */
export function runsOf(batches: readonly StoredBatch[], wants: (table: string) => boolean): Run[] {
  const runs: StoredBatch[][] = [];
  for (const batch of batches) {
    const before = runs.at(-1);
    const joins = before && batch.header.kind === 'stream' && before[0]?.header.kind === 'stream';
    if (joins) before.push(batch);
    else runs.push([batch]);
  }
  return runs.map((run) => runOf(run, wants));
}

interface Part {
  readonly section: Section;
  readonly batch: StoredBatch;
  /** Per transaction of the batch, its index in the run. */
  readonly transactions: readonly number[];
}

function runOf(batches: readonly StoredBatch[], wants: (table: string) => boolean): Run {
  const transactions: InTransaction[] = [];
  const parts: Part[][] = [];
  const latest = new Map<string, Part[]>();
  for (const batch of batches) {
    const { header } = batch;
    const places = header.transactions.map((transaction, i) => {
      const same = i === 0 && header.continues && transactions.length > 0;
      if (!same) transactions.push(transaction);
      return transactions.length - 1;
    });
    for (const section of batch.sections) {
      const table = tableName(section.schema);
      // A mark tells the columns of its table, which may have no rows.
      if (!wants(table) || (section.rows === 0 && header.mark === null)) continue;
      const part = { section, batch, transactions: places };
      const open = latest.get(table);
      if (open?.[0]?.section.schemaVersion === section.schemaVersion) open.push(part);
      else {
        const begun = [part];
        latest.set(table, begun);
        parts.push(begun);
      }
    }
  }
  const [first, last] = [batches[0] as StoredBatch, batches.at(-1) as StoredBatch];
  return {
    kind: first.header.kind,
    batches,
    transactions,
    pieces: parts.map(pieceOf),
    continues: first.header.continues,
    more: last.header.more,
  };
}

function pieceOf(parts: readonly Part[]): Piece {
  const { section: first, batch } = parts[0] as Part;
  const counts = parts.map(({ section }) => section.rows);
  const rows = counts.reduce((sum, count) => sum + count, 0);
  const ops = new Uint8Array(rows);
  const transactions = new Uint32Array(rows);
  const ordinals = new Uint32Array(rows);
  const starts: number[] = [];
  let at = 0;
  for (const { section, transactions: places } of parts) {
    starts.push(at);
    ops.set(section.ops, at);
    ordinals.set(section.ordinal, at);
    const { transaction } = section;
    for (let row = 0; row < section.rows; row++) transactions[at + row] = places[transaction[row] as number] ?? 0;
    at += section.rows;
  }
  return {
    schema: first.schema,
    version: first.schemaVersion,
    rows,
    ops,
    transactions,
    ordinals,
    columns: first.columns.map((_, c) =>
      concat(
        parts.map(({ section }) => section.columns[c] as Column),
        counts,
      ),
    ),
    old: oldOf(parts, starts),
    chosen: batch.header.kind === 'read' && batch.header.mark === null,
    placeOf: (row) => placeOf(parts, starts, row),
  };
}

function oldOf(parts: readonly Part[], starts: readonly number[]): Section['old'] {
  const olds = parts.flatMap(({ section }, i) => (section.old ? [{ old: section.old, start: starts[i] as number }] : []));
  const [first] = olds;
  if (!first) return null;
  return {
    row: Uint32Array.from(olds.flatMap(({ old, start }) => [...old.row].map((row) => row + start))),
    columns: first.old.columns.map((_, c) =>
      concat(
        olds.map(({ old }) => old.columns[c] as Column),
        olds.map(({ old }) => old.row.length),
      ),
    ),
  };
}

function placeOf(parts: readonly Part[], starts: readonly number[], row: number): string {
  const i = starts.findLastIndex((start) => start <= row);
  const { section, batch } = parts[i] as Part;
  const own = row - (starts[i] as number);
  const { header } = batch;
  const lsn = header.transactions[section.transaction[own] as number]?.lsn ?? header.position.lsn;
  return formatSourcePosition({ lsn, ordinal: section.ordinal[own] as number });
}
