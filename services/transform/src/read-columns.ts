import { ArrayColumn, JoinedColumn } from '@tributary/changelog';
import { type Column, NULL_MARK, SEPARATOR, UNCHANGED_MARK } from '@tributary/core';
import type { Duck, DuckDBValue } from '@tributary/duckdb';

/** What DuckDB gives for a column: its values joined by 0x1F with NULL as a lone 0x1E, and how many NULLs it has. */
export function joinedSql(text: string, order = ''): readonly [string, string] {
  return [`string_agg(coalesce(${text}, chr(30)), chr(31)${order})`, `count(*) - count(${text})`];
}

/** Null when some value holds a character that would be taken for a separator or a marker: then it is asked for as a list. */
export function joinedColumn(joined: unknown, rows: number, nulls: unknown): JoinedColumn | null {
  if (rows === 0) return new JoinedColumn('', 0);
  if (typeof joined !== 'string') return null;
  if (occurrences(joined, SEPARATOR) !== rows - 1 || occurrences(joined, NULL_MARK) !== Number(nulls)) return null;
  return joined.includes(UNCHANGED_MARK) ? null : new JoinedColumn(joined, rows);
}

export function listColumn(list: unknown): Column {
  return new ArrayColumn((list as { items: (string | null)[] } | null)?.items ?? []);
}

/** The columns of a relation as text, in the order of one of them. */
export async function readColumns(
  duck: Duck,
  { from, order, texts }: { from: string; order: string; texts: readonly string[] },
): Promise<{ rows: number; columns: Column[] }> {
  const by = ` ORDER BY ${order}`;
  const joined = texts.flatMap((text) => joinedSql(text, by));
  const [count, ...cells] = await first(duck, `SELECT ${['count(*)', ...joined].join(', ')} FROM ${from}`);
  const rows = Number(count);
  const columns = texts.map((_, i) => joinedColumn(cells[2 * i], rows, cells[2 * i + 1]));
  if (!columns.includes(null)) return { rows, columns: columns as Column[] };
  const lists = await first(duck, `SELECT ${texts.map((text) => `list(${text}${by})`).join(', ')} FROM ${from}`);
  return { rows, columns: lists.map(listColumn) };
}

async function first(duck: Duck, sql: string): Promise<readonly DuckDBValue[]> {
  const prepared = await duck.prepare(sql);
  try {
    return await prepared.first({});
  } finally {
    prepared.close();
  }
}

function occurrences(text: string, mark: string): number {
  let count = 0;
  for (let at = text.indexOf(mark); at !== -1; at = text.indexOf(mark, at + 1)) count++;
  return count;
}
