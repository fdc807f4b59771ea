import { type Cell, type ColumnSchema, formatLsn, isoMicros, type TableSchema } from '@tributary/core';
import type { Moment } from './versions.ts';

const base = (name: string, sqlType: string, type: { oid: number; name: string }): ColumnSchema => ({
  name,
  type: { ...type, schema: 'pg_catalog', kind: 'base' },
  typmod: -1,
  sqlType,
  key: 0,
});

/** The columns that a table has behind the source's where deleted rows stay (`softDelete`); NULL while a row is there. */
const MARKS = [
  base('_deleted_at', 'timestamp with time zone', { oid: 1184, name: 'timestamptz' }),
  base('_deleted_lsn', 'pg_lsn', { oid: 3220, name: 'pg_lsn' }),
  base('_deleted_ordinal', 'bigint', { oid: 20, name: 'int8' }),
];

/** Only rows that are there; `alias` with its dot. */
export const live = (alias = ''): string => `${alias}_deleted_lsn IS NULL`;

/** Rows that went before the place in parameters `from` and the next; a mark that a replay will come to is behind it. `alias` with its dot. */
export const marksBefore = (alias: string, from: number): string =>
  `(${alias}_deleted_lsn, ${alias}_deleted_ordinal) < ($${from}::pg_lsn, $${from + 1}::int8)`;

/** A row that is there, as cells of the marks. */
export const UNMARKED: readonly Cell[] = MARKS.map(() => null);
/** Marks are left as they are. */
export const MARKS_UNCHANGED: readonly Cell[] = MARKS.map(() => undefined);

/** @param cells of a row, with its marks at the end */
export function isMarked(cells: readonly Cell[]): boolean {
  return typeof cells.at(-1) === 'string';
}

/** A row that is gone, as cells of the marks. */
export function markOf({ lsn, ordinal, at }: Moment): string[] {
  return [isoMicros(at), formatLsn(lsn), String(ordinal)];
}

/** Marks every row that a statement chooses, with $1 to $3 from {@link markOf}. */
export const SET_MARK = MARKS.map(({ name, sqlType }, i) => `${name} = $${i + 1}::${sqlType}`).join(', ');

export function withMarks(schema: TableSchema): TableSchema {
  return { ...schema, columns: [...schema.columns, ...MARKS] };
}

/** The source's own columns. */
export function withoutMarks(schema: TableSchema): TableSchema {
  return { ...schema, columns: schema.columns.filter(({ name }) => !isMark(name)) };
}

export function isMark(name: string): boolean {
  return MARKS.some((mark) => mark.name === name);
}

/** Marks belong to a table's shape: with them it has another version. */
const SUFFIX = ' marked';

export function versionWithMarks(version: string): string {
  return `${version}${SUFFIX}`;
}

export function versionWithoutMarks(version: string): string {
  return version.endsWith(SUFFIX) ? version.slice(0, -SUFFIX.length) : version;
}
