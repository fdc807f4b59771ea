import { duckIdent, type TypedColumn } from '@tributary/duckdb';

/** Text behind a typed column, where it has one: `<column>__text`. */
export function exactName(column: string): string {
  return `${column}__text`;
}

/** The select list of a table as people see it, over its text columns. `exact`: lossy columns that hold such a value. */
export function typedList(columns: readonly TypedColumn[], exact: ReadonlySet<string>): string {
  return columns
    .flatMap((column) => {
      const text = duckIdent(column.name);
      const typed = `${column.typed(text)} AS ${text}`;
      return exact.has(column.name)
        ? [
            typed,
            `CASE WHEN ${text} IS NOT NULL AND ${column.typed(text)} IS NULL THEN ${text} END AS ${duckIdent(exactName(column.name))}`,
          ]
        : [typed];
    })
    .join(', ');
}
