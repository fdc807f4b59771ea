import type { Bus, Cell, Position, TableSchema } from '@tributary/core';

/** Rows of one table of a transform's result, column by column, as its changelog has them. */
export interface ResultRows {
  readonly schema: TableSchema;
  readonly rows: number;
  readonly columns: readonly (readonly Cell[])[];
}

/** A transform may have to read its whole changelog before it answers. */
const ANSWER_MS = 600_000;

/**
 * What a transform's changelog holds at a place of it: no database holds these rows. A table without rows is not told of.
 * @throws Fault `not_found` when nobody runs the transform, `history_trimmed` where its changelog does not reach back to its beginning
 */
export async function* resultRows(
  bus: Pick<Bus, 'ask'>,
  transform: string,
  question: { readonly tables: readonly string[]; readonly at: Position },
): AsyncGenerator<ResultRows> {
  for await (const part of bus.ask(`tributary.source.${transform}.rows`, question, { idleMs: ANSWER_MS }))
    yield part as ResultRows;
}
