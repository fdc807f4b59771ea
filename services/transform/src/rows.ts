import { type Cell, Fault, type Position, type TableSchema, tableName } from '@tributary/core';
import { held, type PreviewOptions } from './preview.ts';

export interface RowsQuestion {
  /** `schema.table` */
  readonly tables: readonly string[];
  /** A place of the transform's changelog. */
  readonly at: Position;
}

/** Rows of one table, column by column, as the transform's changelog has them. */
export interface RowsPart {
  readonly schema: TableSchema;
  readonly rows: number;
  readonly columns: readonly (readonly Cell[])[];
}

/** Characters of the values of one part, about. */
const PART_LENGTH = 128 * 1024;

/**
 * The rows that a transform's changelog holds at a place of it, for those who hold a copy of them. Reads all of it. A table without rows is not told of.
 * @throws Fault `history_trimmed` where the changelog no longer reaches back to its beginning
 */
export async function* rowsAt(
  options: Pick<PreviewOptions, 'config' | 'broker' | 'signal'>,
  { tables, at }: RowsQuestion,
): AsyncGenerator<RowsPart> {
  const { results, trimmed, close } = await held(options, at.seq > 0 ? at : null);
  try {
    if (trimmed.length > 0)
      throw new Fault('history_trimmed', `the changelog of ${options.config.name} does not reach back to its beginning`);
    for (const result of results) {
      if (!tables.includes(tableName(result.schema))) continue;
      for await (const { rows, section } of result.all()) {
        const columns = section.columns.map((column) => column.values());
        const pieces = Math.ceil(lengthOf(columns) / PART_LENGTH);
        const size = Math.ceil(rows / Math.max(1, pieces));
        for (let from = 0; from < rows; from += size) {
          const part = columns.map((cells) => cells.slice(from, from + size));
          yield { schema: section.schema, rows: Math.min(size, rows - from), columns: part };
        }
      }
    }
  } finally {
    await close();
  }
}

function lengthOf(columns: readonly (readonly Cell[])[]): number {
  return columns.reduce((sum, cells) => sum + cells.reduce((all, cell) => all + (cell?.length ?? 1), 0), 0);
}
