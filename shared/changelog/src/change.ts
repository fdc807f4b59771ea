import { type Cell, type Column, formatLsn, isoMicros, keyColumns, Op, type Section, type StoredBatch } from '@tributary/core';

/** One row change as people and programs outside see it; values are PostgreSQL's own text. */
export interface Change {
  readonly source: string;
  readonly schema: string;
  readonly table: string;
  /** Created, updated, deleted, read by a snapshot (`unchanged` names what the stream had brought newer already), truncated. */
  readonly op: 'c' | 'u' | 'd' | 'r' | 't';
  readonly key: Row;
  readonly before: Row | null;
  readonly after: Row | null;
  /** Columns of `after` that the database did not send because they did not change. */
  readonly unchanged: readonly string[];
  readonly lsn: string;
  readonly ordinal: number;
  /** Null for rows read by a snapshot. */
  readonly xid: number | null;
  /** ISO 8601 with microseconds; null for rows read by a snapshot. */
  readonly committedAt: string | null;
  readonly seq: number;
}

export type Row = Readonly<Record<string, string | null>>;

interface Place {
  readonly section: number;
  readonly row: number;
}

/** The changes of a batch in commit order, across tables. */
export function* changesOf(batch: StoredBatch): Iterable<Change> {
  const places: Place[] = batch.sections.flatMap((section, index) =>
    Array.from({ length: section.rows }, (_, row) => ({ section: index, row })),
  );
  const orderOf = ({ section, row }: Place) => {
    const one = batch.sections[section] as Section;
    return [one.transaction[row] as number, one.ordinal[row] as number] as const;
  };
  places.sort((a, b) => {
    const [transactionA, ordinalA] = orderOf(a);
    const [transactionB, ordinalB] = orderOf(b);
    return transactionA - transactionB || ordinalA - ordinalB || a.section - b.section || a.row - b.row;
  });
  for (const { section, row } of places) yield changeAt(batch, batch.sections[section] as Section, row);
}

function changeAt(batch: StoredBatch, section: Section, row: number): Change {
  const { schema } = section;
  const code = section.ops[row] as number;
  const op = String.fromCharCode(code === Op.kept ? Op.read : code) as Change['op'];
  const transaction = batch.header.kind === 'stream' ? batch.header.transactions[section.transaction[row] as number] : undefined;
  const cells = rowOf(schema, section.columns, row);
  const old = section.old ? section.old.row.indexOf(row) : -1;
  const before = old === -1 ? null : known(rowOf(schema, section.old?.columns ?? [], old));
  const deleted = section.ops[row] === Op.deleted;
  const truncated = section.ops[row] === Op.truncated;
  const keys = keyColumns(schema).map((index) => schema.columns[index]?.name as string);
  return {
    source: batch.header.source,
    schema: schema.schema,
    table: schema.table,
    op,
    key: truncated ? {} : known(cells.filter(([name]) => keys.includes(name))),
    before: deleted ? known(cells) : before,
    after: deleted || truncated ? null : known(cells),
    unchanged: deleted || truncated ? [] : cells.filter(([, cell]) => cell === undefined).map(([name]) => name),
    lsn: formatLsn(transaction?.lsn ?? batch.header.position.lsn),
    ordinal: section.ordinal[row] as number,
    xid: transaction?.xid ?? null,
    committedAt: transaction ? isoMicros(transaction.committedAt) : null,
    seq: batch.seq,
  };
}

function rowOf(schema: Section['schema'], columns: readonly Column[], row: number): (readonly [string, Cell])[] {
  return schema.columns.map((column, index) => [column.name, columns[index]?.values()[row]] as const);
}

function known(cells: readonly (readonly [string, Cell])[]): Row {
  return Object.fromEntries(cells.filter((cell): cell is readonly [string, string | null] => cell[1] !== undefined));
}
