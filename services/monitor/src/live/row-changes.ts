import type { ObjectType, ProcessConfig } from '@tributary/config';
import {
  type Cell,
  Fault,
  keyColumns,
  Op,
  type OpCode,
  type Section,
  type StoredBatch,
  tableName,
  type TableSchema,
} from '@tributary/core';
import { oldRows } from '@tributary/projection';
import type { ObjectChange } from './life.ts';

/** One change of a row, or of a whole table, with its place. */
export interface RowChange {
  readonly table: string;
  /** Null: a table that only marks transactions. */
  readonly type: ObjectType | null;
  readonly op: OpCode;
  /** Null for a truncated table. */
  readonly key: string | null;
  /** The key that the row had until now, where it is another one. */
  readonly movedFrom: string | null;
  readonly change: ObjectChange | null;
  readonly lsn: bigint;
  readonly ordinal: number;
  /** Commit time, or, of what a snapshot read, that up to which its source is complete; µs since 1970. */
  readonly atUs: number;
}

const NO_ROW = { key: null, movedFrom: null, change: null };

/** Keys of several columns are a JSON list. */
export function keyText(cells: readonly Cell[]): string {
  return cells.length === 1 ? String(cells[0]) : JSON.stringify(cells);
}

/**
 * The changes of a batch that a process looks at, in the order in which they happened, across its tables.
 * @throws Fault `config_invalid` when a table has not the columns that the process names
 */
export function rowChanges(batch: StoredBatch, process: ProcessConfig, source: string): RowChange[] {
  const { header } = batch;
  const changes: { readonly at: number; readonly row: RowChange }[] = [];
  let sections = 0;
  for (const section of batch.sections) {
    const table = tableName(section.schema);
    const type = process.objects.find((one) => one.source === source && one.table === table) ?? null;
    if (!type && !marks(process, source, table)) continue;
    sections++;
    const read = type ? reader(process.name, type, section) : () => NO_ROW;
    for (let i = 0; i < section.rows; i++) {
      const op = section.ops[i] as OpCode;
      const at = section.transaction[i] as number;
      const transaction = header.kind === 'stream' ? header.transactions[at] : undefined;
      const { lsn, ordinal } = transaction ? { lsn: transaction.lsn, ordinal: section.ordinal[i] as number } : header.position;
      const atUs = transaction ? transaction.committedAt : header.watermark;
      const { key, movedFrom, change } = op === Op.truncated ? NO_ROW : read(i, op);
      changes.push({ at, row: { table, type, op, key, movedFrom, change, lsn, ordinal, atUs } });
    }
  }
  // Inside a section rows stand in order already, and the sort is stable.
  if (sections > 1) changes.sort((a, b) => a.at - b.at || a.row.ordinal - b.row.ordinal);
  return changes.map(({ row }) => row);
}

/** Does the table, without objects, make business events of transactions? */
export function marks({ activities, objects }: ProcessConfig, source: string, table: string): boolean {
  return activities.some(
    ({ when, with: others }) =>
      objects.some(({ name, source: own }) => name === when.object && own === source) &&
      others.some((one) => one.table && one.object === table),
  );
}

function reader(process: string, type: ObjectType, section: Section) {
  const { schema } = section;
  const columns = section.columns.map((column) => column.values());
  const old = oldRows(section);
  const key = keyOf(process, type, schema);
  const at = (column: string) => columnOf(process, type, { schema, column });
  const state = type.state === null ? null : at(type.state);
  const milestones = type.milestones.map(at);
  const links = type.of.map(({ column }) => at(column));
  return (i: number, op: Exclude<OpCode, typeof Op.truncated>) => {
    const cell = (column: number) => columns[column]?.[i];
    const before = old.get(i);
    const own = keyText(key.map(cell));
    const was = before && op === Op.updated ? keyText(key.map((column) => before[column])) : own;
    const change: ObjectChange = {
      op,
      state: state === null ? undefined : cell(state),
      links: links.map(cell),
      milestones: milestones.map(cell),
    };
    return { key: own, movedFrom: was === own ? null : was, change };
  };
}

/** Every change must tell the key: it is that of the table, or its whole old rows are told. */
function keyOf(process: string, type: ObjectType, schema: TableSchema): number[] {
  const own = keyColumns(schema);
  const given = type.key?.map((column) => columnOf(process, type, { schema, column })) ?? own;
  const same = given.length === own.length && given.every((column) => own.includes(column));
  if (given.length > 0 && (same || schema.identity === 'full')) return given;
  const message =
    given.length === 0
      ? `${tableName(schema)} has no key: name one (objects.${type.name}.key), and set REPLICA IDENTITY FULL`
      : `"key" of object ${type.name} is not the key of ${tableName(schema)}: name that, or set REPLICA IDENTITY FULL`;
  throw new Fault('config_invalid', `process ${process}: ${message}`, { process, table: tableName(schema) });
}

function columnOf(process: string, type: ObjectType, { schema, column }: { schema: TableSchema; column: string }): number {
  const index = schema.columns.findIndex(({ name }) => name === column);
  if (index >= 0) return index;
  const message = `process ${process}: ${type.source}.${tableName(schema)} has no column ${column}, which object ${type.name} names`;
  throw new Fault('config_invalid', message, { process, table: tableName(schema) });
}
