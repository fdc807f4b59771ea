import { assert, type OpCode, type TableSchema } from '@tributary/core';
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

  constructor(schema: TableSchema) {
    this.schema = schema;
    this.cells = schema.columns.map(() => new ColumnDraft());
  }

  /** A section of rows read by a snapshot, as COPY CSV bytes (NULL unquoted and empty, `"` doubled, no header). */
  static fromCsv(schema: TableSchema, bytes: Uint8Array, rows: number): SectionDraft {
    const draft = new SectionDraft(schema);
    draft.#csv = { bytes, rows };
    return draft;
  }

  get rows(): number {
    return this.#csv ? this.#csv.rows : this.#ops.length;
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

export type DraftColumn = ReturnType<ColumnDraft['encode']>;
export type WireColumn = string | (string | null | 0)[];

export type SectionParts =
  | { readonly rows: number; readonly csv: Uint8Array }
  | {
      readonly rows: number;
      readonly csv?: undefined;
      readonly ops: readonly number[];
      readonly transactions: readonly number[];
      readonly ordinals: readonly number[];
      readonly columns: readonly DraftColumn[];
      readonly old: { readonly rows: readonly number[]; readonly columns: readonly DraftColumn[] } | null;
    };
