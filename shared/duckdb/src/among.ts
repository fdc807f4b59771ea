import { type DuckDBValue, listValue } from '@duckdb/node-api';

const SEPARATOR = '\x1f';

/**
 * A list of texts on its way into a statement, such as the keys of an IN. As one text that DuckDB cuts it costs 0.5 µs a value, as a list
 * 4 µs: a list it is only where a value holds the separator, or where there is none.
 * @param parameter number of the parameter, from 1
 * @returns `each`: SQL that gives a row a value, in their order; `value`: what the parameter is
 */
export function among(texts: readonly string[], parameter: number): { readonly each: string; readonly value: DuckDBValue } {
  if (texts.length === 0 || texts.some((text) => text.includes(SEPARATOR)))
    return { each: `unnest($${parameter}::VARCHAR[])`, value: texts.length === 0 ? null : listValue(texts) };
  return { each: `unnest(string_split($${parameter}, chr(31)))`, value: texts.join(SEPARATOR) };
}
