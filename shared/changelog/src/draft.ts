import { assert, type Cell, NULL_MARK, type OpCode, SEPARATOR, type TableSchema, UNCHANGED_MARK } from '@tributary/core';

/** A column being filled: cells in row order. */
class ColumnDraft {
  readonly cells: Cell[] = [];

  /**
   * One string joined by 0x1F where no value holds a marker character, else the array itself
   * (NULL as null, unchanged as 0). Costs one join and one scan for separators.
   */
  encode(): string | (string | null | 0)[] {
    const cells = this.cells;
    let nulls = 0;
    let unchanged = 0;
    let plain: (string | null)[] = cells as (string | null)[];
    for (let i = 0; i < cells.length; i++) {
      const cell = cells[i];
      if (typeof cell === 'string') continue;
      if (plain === cells) plain = cells.slice() as (string | null)[];
      if (cell === null) nulls++;
      else unchanged++;
      plain[i] = cell === null ? NULL_MARK : UNCHANGED_MARK;
    }
    const joined = plain.join(SEPARATOR);
    if (
      occurrences(joined, SEPARATOR) === cells.length - 1 &&
      occurrences(joined, NULL_MARK) === nulls &&
      occurrences(joined, UNCHANGED_MARK) === unchanged
    ) {
      return joined;
    }
    return cells.map((cell) => (cell === undefined ? 0 : cell));
  }
}

function occurrences(text: string, character: string): number {
  let count = 0;
  for (let at = text.indexOf(character); at !== -1; at = text.indexOf(character, at + 1)) count++;
  return count;
}

/**
 * The changes of one table on their way into a batch. The decoder writes cells straight into
 * `cells[column]`, then calls {@link row}: no row object is ever made.
 */
export class SectionDraft {
  readonly schema: TableSchema;
  /** `cells[c]` is the array of column c; push exactly one cell per row into each. */
  readonly cells: Cell[][];
  readonly #columns: ColumnDraft[];
  #oldCells: Cell[][] | null = null;
  #oldColumns: ColumnDraft[] = [];
  readonly #oldRows: number[] = [];
  readonly #ops: number[] = [];
  readonly #transactions: number[] = [];
  readonly #ordinals: number[] = [];
  #csv: { bytes: Uint8Array; rows: number } | null = null;

  constructor(schema: TableSchema) {
    this.schema = schema;
    this.#columns = schema.columns.map(() => new ColumnDraft());
    this.cells = this.#columns.map((column) => column.cells);
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
  oldCells(): Cell[][] {
    if (!this.#oldCells) {
      this.#oldColumns = this.schema.columns.map(() => new ColumnDraft());
      this.#oldCells = this.#oldColumns.map((column) => column.cells);
    }
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
      columns: this.#columns.map((column) => column.encode()),
      old: this.#oldCells ? { rows: this.#oldRows, columns: this.#oldColumns.map((column) => column.encode()) } : null,
    };
  }
}

export type WireColumn = string | (string | null | 0)[];

export type SectionParts =
  | { readonly rows: number; readonly csv: Uint8Array }
  | {
      readonly rows: number;
      readonly csv?: undefined;
      readonly ops: readonly number[];
      readonly transactions: readonly number[];
      readonly ordinals: readonly number[];
      readonly columns: readonly WireColumn[];
      readonly old: { readonly rows: readonly number[]; readonly columns: readonly WireColumn[] } | null;
    };
