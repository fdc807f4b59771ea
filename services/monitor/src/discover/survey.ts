import { type Cell, keyColumns, Op, type OpCode, type StoredBatch, tableName } from '@tributary/core';

/** Objects that are followed in a table; the others are only counted. */
const OBJECTS_MAX = 20_000;
/** A column with more values than this is no state. */
const STATES_MAX = 50;

/** What a column showed of itself. */
export interface ColumnSurvey {
  readonly name: string;
  readonly sqlType: string;
  /** Its values, by how many objects began with each; null = too many for a state. */
  starts: Map<string, number> | null;
  /** Values that came after one another: `from`, 0x1F, `to` → how often. */
  readonly moves: Map<string, number>;
  /** Objects in which it became a value, and in which a value became NULL. */
  reached: number;
  cleared: number;
  /** Updates that left it as it was, and were no touch. */
  passed: number;
}

/** What the changes of one table showed of it. */
export interface TableSurvey {
  readonly source: string;
  /** `schema.table`. */
  readonly table: string;
  readonly key: readonly string[];
  readonly columns: readonly ColumnSurvey[];
  /** Followed objects: row as it is known, and when it came to be (µs since 1970; null = a snapshot met it). */
  readonly objects: Map<string, { readonly row: Cell[]; readonly bornUs: number | null }>;
  updates: number;
  /** Updates that changed nothing, or only times that were there. */
  touches: number;
}

/**
 * Goes through changelogs once, keeping of every table what a proposal is made from. At most {@link OBJECTS_MAX} objects a table are
 * followed, the first ones: from their birth on, as far as the changelog has it.
 */
export class Survey {
  readonly tables = new Map<string, TableSurvey>();

  add(source: string, batch: StoredBatch): void {
    for (const section of batch.sections) {
      const { schema } = section;
      const key = keyColumns(schema);
      if (key.length === 0) continue;
      const table = this.#table(source, tableName(schema), {
        key: key.map((c) => schema.columns[c]?.name ?? ''),
        columns: schema.columns,
      });
      const columns = section.columns.map((column) => column.values());
      for (let i = 0; i < section.rows; i++) {
        const op = section.ops[i] as OpCode;
        if (op === Op.truncated || op === Op.deleted || op === Op.kept) continue;
        const row = columns.map((column) => column[i]);
        const at = batch.header.transactions[section.transaction[i] as number]?.committedAt ?? null;
        follow(table, { id: JSON.stringify(key.map((c) => row[c])), row, op, bornUs: op === Op.created ? at : null });
      }
    }
  }

  #table(
    source: string,
    table: string,
    { key, columns }: { key: string[]; columns: readonly { name: string; sqlType: string }[] },
  ): TableSurvey {
    const id = `${source}.${table}`;
    const known = this.tables.get(id);
    // A table that changed its shape is looked at as it is now.
    if (known && known.columns.length === columns.length && known.columns.every(({ name }, c) => name === columns[c]?.name))
      return known;
    const made: TableSurvey = {
      source,
      table,
      key,
      columns: columns.map(({ name, sqlType }) => ({
        name,
        sqlType,
        starts: new Map(),
        moves: new Map(),
        reached: 0,
        cleared: 0,
        passed: 0,
      })),
      objects: new Map(),
      updates: 0,
      touches: 0,
    };
    this.tables.set(id, made);
    return made;
  }
}

function follow(
  table: TableSurvey,
  { id, row, op, bornUs }: { id: string; row: readonly Cell[]; op: OpCode; bornUs: number | null },
): void {
  const known = table.objects.get(id);
  if (op === Op.updated) table.updates++;
  if (!known) {
    if (table.objects.size >= OBJECTS_MAX) return;
    table.objects.set(id, { row: row.map((cell) => cell ?? null), bornUs });
    table.columns.forEach((column, c) => count(column, row[c]));
    return;
  }
  if (op === Op.updated) countUpdate(table, known.row, row);
  table.columns.forEach((column, c) => {
    const [before, after] = [known.row[c], row[c]];
    if (after === undefined || after === before) return;
    if (before === null && after !== null) column.reached++;
    if (before !== null && after === null) column.cleared++;
    known.row[c] = after;
    if (typeof before !== 'string' || typeof after !== 'string' || !column.starts) return;
    const move = `${before}\x1f${after}`;
    column.moves.set(move, (column.moves.get(move) ?? 0) + 1);
    if (column.moves.size > STATES_MAX ** 2) column.starts = null;
  });
}

/** Which columns an update passed by. A time that is set for the first time is a milestone, and no touch. */
function countUpdate(table: TableSurvey, before: readonly Cell[], after: readonly Cell[]): void {
  const changed = table.columns.map((_, c) => after[c] !== undefined && after[c] !== before[c]);
  const touch = table.columns.every(({ sqlType }, c) => !changed[c] || (isTime(sqlType) && before[c] !== null));
  if (touch) table.touches++;
  else table.columns.forEach((column, c) => (column.passed += changed[c] ? 0 : 1));
}

export function isTime(sqlType: string): boolean {
  return /^(timestamp|date|time)/.test(sqlType);
}

function count(column: ColumnSurvey, cell: Cell): void {
  if (!column.starts || typeof cell !== 'string') return;
  column.starts.set(cell, (column.starts.get(cell) ?? 0) + 1);
  if (column.starts.size > STATES_MAX) column.starts = null;
}
