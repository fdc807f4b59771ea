import { type TableSchema, tableName } from '@tributary/core';
import { duckIdent } from '@tributary/duckdb';
import { stateColumns, type StateColumn } from './columns.ts';

/** Names of our own columns; no captured column is called like that. */
export const FROM = '_tributary_from';
export const TO = '_tributary_to';

/** A captured table as definitions of KPIs see it: where its rows stand, and what their columns are. */
export interface ShownTable {
  readonly source: string;
  readonly name: string;
  readonly version: string;
  readonly columns: readonly StateColumn[];
  /** Quoted names. */
  readonly current: string;
  readonly history: string;
  readonly old: string;
  /** Select list: every column as KPIs see it. */
  readonly shown: string;
  /** Columns that were sent values which their type cannot hold. */
  readonly inexact: ReadonlySet<string>;
}

export function shownTable(source: string, { schema, version }: { schema: TableSchema; version: string }): ShownTable {
  const name = tableName(schema);
  const columns = stateColumns(schema);
  const named = (place: string, kind = '') => `${place}.${duckIdent(`${kind}${source}.${name}`)}`;
  return {
    source,
    name,
    version,
    columns,
    current: named('_cur'),
    history: named('_hist'),
    old: named('temp', 'old '),
    shown: columns.map((column) => column.shown).join(', '),
    inexact: new Set(),
  };
}
