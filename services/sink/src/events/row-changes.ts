import type { EventOp } from '@tributary/config';
import {
  assert,
  type Cell,
  Op,
  type OpCode,
  type Section,
  type SnapshotMark,
  type StoredBatch,
  type TableSchema,
  type Transaction,
} from '@tributary/core';
import { type EventPlace, LAST_ROW } from './place.ts';

/** What a batch tells, one thing after the other. */
export type Told = RowChange | { readonly kind: 'mark'; readonly place: EventPlace; readonly mark: SnapshotMark };

/** One change of one row (or of a whole table), before it is anybody's event. Cells that were not sent are undefined. */
export interface RowChange {
  readonly kind: 'row';
  readonly place: EventPlace;
  readonly op: EventOp;
  readonly schema: TableSchema;
  readonly schemaVersion: string;
  /** The row as it is now; null for deleted and truncated. */
  readonly after: readonly Cell[] | null;
  /** The row as it was, as far as its identity tells; null where nothing of it was sent. */
  readonly before: readonly Cell[] | null;
  /** Null for what a snapshot read. */
  readonly transaction: Transaction | null;
  /** The changelog's storing time, ms since 1970: all that is known of when a snapshot read a row. */
  readonly storedAt: number;
}

const OPS: Readonly<Record<OpCode, EventOp>> = {
  [Op.created]: 'create',
  [Op.updated]: 'update',
  [Op.deleted]: 'delete',
  [Op.read]: 'read',
  [Op.kept]: 'read',
  [Op.truncated]: 'truncate',
};

/** In commit order, across tables; a snapshot's beginning before its rows, and its end behind them. */
export function* told(batch: StoredBatch): Iterable<Told> {
  const { header } = batch;
  const { mark, position } = header;
  if (mark?.step === 'begin') yield { kind: 'mark', place: { ...position, row: 0, part: 0 }, mark };
  if (header.kind === 'stream') yield* streamed(batch);
  else yield* readRows(batch);
  if (mark?.step === 'end') yield { kind: 'mark', place: { ...position, row: LAST_ROW, part: 0 }, mark };
}

/** Sections hold their rows in order; they are merged by transaction and ordinal. */
function* streamed(batch: StoredBatch): Iterable<RowChange> {
  const heads = batch.sections.map((section) => ({ reader: new SectionReader(section), section, row: 0 }));
  for (;;) {
    let first: (typeof heads)[number] | null = null;
    for (const head of heads) {
      if (head.row >= head.section.rows) continue;
      if (first === null || precedes(head, first)) first = head;
    }
    if (first === null) return;
    const { section, row, reader } = first;
    const transaction = batch.header.transactions[section.transaction[row] as number];
    assert(transaction, `a row of ${section.schema.table} names a transaction that its batch lacks`);
    const place = { lsn: transaction.lsn, ordinal: section.ordinal[row] as number, row: 0, part: 0 };
    yield reader.at(row, { place, transaction, storedAt: batch.storedAt });
    first.row++;
  }
}

function precedes(a: { section: Section; row: number }, b: { section: Section; row: number }): boolean {
  const transactions = (a.section.transaction[a.row] as number) - (b.section.transaction[b.row] as number);
  return transactions < 0 || (transactions === 0 && (a.section.ordinal[a.row] as number) < (b.section.ordinal[b.row] as number));
}

function* readRows(batch: StoredBatch): Iterable<RowChange> {
  const { position } = batch.header;
  let number = 0;
  for (const section of batch.sections) {
    const reader = new SectionReader(section);
    for (let row = 0; row < section.rows; row++) {
      yield reader.at(row, { place: { ...position, row: ++number, part: 0 }, transaction: null, storedAt: batch.storedAt });
    }
  }
}

/** Takes rows out of a section; its columns are decoded once. */
class SectionReader {
  readonly #section: Section;
  #columns: (readonly Cell[])[] | null = null;
  #old: { readonly columns: (readonly Cell[])[]; readonly index: ReadonlyMap<number, number> } | null = null;

  constructor(section: Section) {
    this.#section = section;
  }

  at(row: number, rest: Pick<RowChange, 'place' | 'transaction' | 'storedAt'>): RowChange {
    const { schema, schemaVersion, ops } = this.#section;
    const op = OPS[ops[row] as OpCode];
    const shared = { kind: 'row', op, schema, schemaVersion, ...rest } as const;
    if (op === 'truncate') return { ...shared, after: null, before: null };
    this.#columns ??= this.#section.columns.map((column) => column.values());
    const cells = this.#columns.map((column) => column[row]);
    if (op === 'delete') return { ...shared, after: null, before: cells };
    const before = this.#before(row);
    // A value that did not change is that of the former row, where that was sent.
    const after = before && cells.includes(undefined) ? cells.map((cell, c) => (cell === undefined ? before[c] : cell)) : cells;
    return { ...shared, after, before };
  }

  #before(row: number): readonly Cell[] | null {
    const { old } = this.#section;
    if (!old) return null;
    this.#old ??= {
      columns: old.columns.map((column) => column.values()),
      index: new Map([...old.row].map((of, i) => [of, i])),
    };
    const at = this.#old.index.get(row);
    return at === undefined ? null : this.#old.columns.map((column) => column[at]);
  }
}
