import { assert, type Column, type OpCode, type TableSchema } from '@tributary/core';
import { ColumnDraft } from './column-draft.ts';

/**
 * The changes of one table on their way into a batch. The decoder writes cells straight into
 * `cells[column]`, then calls {@link row}: no row object is ever made.
 */
export class SectionDraft {
  readonly schema: TableSchema;
  /** `cells[c]` is column c; push exactly one cell per row into each. */
  readonly cells: readonly ColumnDraft[];
  #oldCells: readonly ColumnDraft[] | null = null;
  readonly #oldRows: number[] = [];
  readonly #ops: number[] = [];
  readonly #transactions: number[] = [];
  readonly #ordinals: number[] = [];
  #csv: { bytes: Uint8Array; rows: number } | null = null;
  #made: MadeSection | null = null;

  constructor(schema: TableSchema, cells = schema.columns.map(() => new ColumnDraft())) {
    this.schema = schema;
    this.cells = cells;
  }

  /** A section of rows read by a snapshot, as COPY CSV bytes (NULL unquoted and empty, `"` doubled, no header). */
  static fromCsv(schema: TableSchema, bytes: Uint8Array, rows: number): SectionDraft {
    const draft = new SectionDraft(schema);
    draft.#csv = { bytes, rows };
    return draft;
  }

  /** A section of columns that exist already: they are copied as they are, and a joined one is never taken apart. */
  static ofColumns(schema: TableSchema, made: MadeSection): SectionDraft {
    const draft = new SectionDraft(schema, []);
    draft.#made = made;
    return draft;
  }

  get rows(): number {
    return this.#csv?.rows ?? this.#made?.ops.length ?? this.#ops.length;
  }

  /** Ends a row whose cells have been pushed. `transaction` indexes the batch's transactions; `ordinal` < 2^32. */
  row(op: OpCode, transaction: number, ordinal: number): void {
    this.#ops.push(op);
    this.#transactions.push(transaction);
    this.#ordinals.push(ordinal);
  }

  /** Cells of the old row of the row that is about to be ended: push one into each, as with `cells`. */
  oldCells(): readonly ColumnDraft[] {
    this.#oldCells ??= this.schema.columns.map(() => new ColumnDraft());
    this.#oldRows.push(this.#ops.length);
    return this.#oldCells;
  }

  /** The parts as they go on the wire; see codec.ts. */
  parts(): SectionParts {
    if (this.#csv) return { rows: this.#csv.rows, csv: this.#csv.bytes };
    if (this.#made) return partsOf(this.#made);
    const rows = this.#ops.length;
    for (const cells of this.cells) assert(cells.length === rows, `${this.schema.table}: ${cells.length} cells for ${rows} rows`);
    return {
      rows,
      ops: this.#ops,
      transactions: this.#transactions,
      ordinals: this.#ordinals,
      columns: this.cells.map((column) => column.encode()),
      old: this.#oldCells && { rows: this.#oldRows, columns: this.#oldCells.map((column) => column.encode()) },
    };
  }

  /** The parts have been copied: their memory serves the next sections. */
  release(): void {
    for (const column of [...this.cells, ...(this.#oldCells ?? [])]) column.release();
  }
}

/** A section put together from whole columns. */
export interface MadeSection {
  readonly ops: ArrayLike<number>;
  /** Per row: index into the batch's transactions. */
  readonly transactions: ArrayLike<number>;
  readonly ordinals: ArrayLike<number>;
  /** One a column of the schema. */
  readonly columns: readonly Column[];
  readonly old: { readonly rows: ArrayLike<number>; readonly columns: readonly Column[] } | null;
}

function partsOf({ ops, transactions, ordinals, columns, old }: MadeSection): SectionParts {
  return {
    rows: ops.length,
    ops,
    transactions,
    ordinals,
    columns: columns.map(draftOf),
    old: old && { rows: old.rows, columns: old.columns.map(draftOf) },
  };
}

function draftOf(column: Column): DraftColumn {
  const joined = column.joined();
  if (joined !== null) return Buffer.from(joined, 'utf8');
  return column.values().map((cell) => (cell === undefined ? 0 : cell));
}

export type DraftColumn = ReturnType<ColumnDraft['encode']>;
export type WireColumn = string | (string | null | 0)[];

export type SectionParts =
  | { readonly rows: number; readonly csv: Uint8Array }
  | {
      readonly rows: number;
      readonly csv?: undefined;
      readonly ops: ArrayLike<number>;
      readonly transactions: ArrayLike<number>;
      readonly ordinals: ArrayLike<number>;
      readonly columns: readonly DraftColumn[];
      readonly old: { readonly rows: ArrayLike<number>; readonly columns: readonly DraftColumn[] } | null;
    };
