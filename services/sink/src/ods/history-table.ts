import { type Cell, formatLsn, isoMicros, Op, type OpCode, type Section, type SourcePosition } from '@tributary/core';
import { quoteIdent, type Session } from '@tributary/postgres';
import { copyRows } from './copy-text.ts';
import { groupBy, pattern, unnested } from './unnested.ts';
import { type Ended, type Moment, type Version, Versions } from './versions.ts';

/** A table of versions as it is now, ready to be written. */
export interface HistoryShape {
  /** Quoted. */
  readonly history: string;
  /** Of the source's columns, in the order of its schema: quoted names, and types, which may be wider than those of the current table. */
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  readonly key: readonly number[];
}

/** What stands beside a version's values. `_to_lsn` is NULL while it is the current one. */
export const HISTORY_COLUMNS = [
  { name: '_valid_from', type: 'timestamptz', required: true },
  { name: '_from_lsn', type: 'pg_lsn', required: true },
  { name: '_from_ordinal', type: 'int8', required: true },
  { name: '_op', type: 'text', required: true },
  { name: '_valid_to', type: 'timestamptz', required: false },
  { name: '_to_lsn', type: 'pg_lsn', required: false },
  { name: '_to_ordinal', type: 'int8', required: false },
  { name: '_ended_by', type: 'text', required: false },
] as const;
const NAMES = HISTORY_COLUMNS.map(({ name }) => name).join(', ');

/**
 * Writes the versions of one table's rows, inside the open transaction: beside the current row, whatever is done to it.
 *
 * A version begins with the change that made it and ends with the next one, so the open versions are the current rows, and the
 * table depends on the changelog alone, not on how it was grouped. Streamed changes are gathered ({@link Versions}) and written on `flush`;
 * what a snapshot read is compared with the open versions, so that reading a table again makes versions only of rows that differ.
 * Rows of tables without key are told apart by all their values; of equal ones the oldest ends first.
 */
export class HistoryTable {
  readonly #shape: HistoryShape;
  readonly #session: Session;
  readonly #versions: Versions;
  /** Of a table without key: rows to be added. */
  #added: Version[] = [];

  constructor(shape: HistoryShape, session: Session) {
    this.#shape = shape;
    this.#session = session;
    this.#versions = new Versions(shape.key);
  }

  /**
   * Changes of a section, in their order.
   * @param old rows before an update, as far as the stream tells them
   * @param moment of a row
   */
  async write(section: Section, old: ReadonlyMap<number, readonly Cell[]>, moment: (row: number) => Moment): Promise<void> {
    const { ops, rows } = section;
    const columns = section.columns.map((column) => column.values());
    const reads = ops.some((op) => op === Op.read || op === Op.kept);
    if (reads) await this.flush();
    const chosen = (wanted: OpCode) => {
      const found: (readonly Cell[])[] = [];
      for (let row = 0; row < rows; row++) if (ops[row] === wanted) found.push(columns.map((column) => column[row]));
      return found;
    };
    for (let row = 0; row < rows; row++) {
      const op = ops[row] as OpCode;
      if (op === Op.read || op === Op.kept) continue;
      const change = { op, cells: columns.map((column) => column[row]), old: old.get(row), at: moment(row) };
      if (this.#shape.key.length > 0) this.#keyed(change);
      else await this.#keyless(change);
    }
    if (!reads) return;
    await this.flush();
    // Of one message: each key once, so their order says nothing.
    const { columns: own } = this.#shape;
    for (const alike of groupBy(chosen(Op.read), pattern).values()) {
      const present = [...own.keys()].filter((c) => alike[0]?.[c] !== undefined);
      const { from, values } = unnested(alike, present);
      const cells = present.map((c) => `u.c${c}::${own[c]?.type} AS ${own[c]?.name}`).join(', ');
      await this.read({ rows: `(SELECT ${cells} FROM ${from})`, values, present }, moment(0));
    }
    await this.#fill(chosen(Op.kept));
  }

  /** Writes what was gathered. */
  async flush(): Promise<void> {
    const { ended, all, versions } = this.#versions.take();
    if (ended.length > 0) await this.#end(ended);
    if (all) await this.endAll(all.to, all.by);
    const complete = [...this.#added, ...versions.filter(({ like }) => like === null)];
    this.#added = [];
    if (complete.length > 0) await this.#copy(complete);
    const lacking = versions.filter(({ like }) => like !== null);
    for (const alike of groupBy(lacking, ({ cells }) => pattern(cells)).values()) await this.#insert(alike);
  }

  /** Every open version ends. */
  async endAll(to: Moment, by: string): Promise<void> {
    await this.#session.run(`UPDATE ${this.#shape.history} h SET ${SET_ENDED} WHERE h._to_lsn IS NULL`, [...placeOf(to), by]);
  }

  /**
   * What a snapshot read: versions of rows that were not there, or are different. Call {@link flush} before.
   * @param rows a FROM item with the columns of the table, and what its parameters stand for; where it has not all of them, those that are
   *   `present`, and the others did not change
   */
  async read({ rows, values, present }: Read, at: Moment): Promise<void> {
    const { history, columns, key } = this.#shape;
    const has = (c: number) => present === undefined || present.includes(c);
    const place = [0, 1, 2].map((i) => `$${values.length + i + 1}`);
    const given = [...values, ...placeOf(at)];
    if (key.length > 0) {
      const texts = (alias: string, cast: boolean) =>
        `ROW(${columns
          .filter((_, c) => has(c))
          .map(({ name, type }) => `${alias}.${name}${cast ? `::${type}` : ''}::text`)
          .join(', ')})`;
      await this.#session.run(
        `UPDATE ${history} h SET ${setEnded(place, `'r'`)} FROM ${rows} s
          WHERE ${this.#sameKey('s')} AND h._to_lsn IS NULL AND ${texts('h', false)} IS DISTINCT FROM ${texts('s', true)}`,
        given,
      );
    }
    const names = columns.map(({ name }) => name).join(', ');
    const [when, lsn, ordinal] = place;
    const cells = columns.map(({ name, type }, c) => (has(c) ? `s.${name}::${type}` : `o.${name}`)).join(', ');
    // Ended by the statement before.
    const like = columns.every((_, c) => has(c))
      ? ''
      : `LEFT JOIN ${history} o ON ${this.#sameKey('s', 'o')} AND o._to_lsn = ${lsn}::pg_lsn AND o._to_ordinal = ${ordinal}::int8`;
    const there =
      key.length > 0 ? `WHERE NOT EXISTS (SELECT 1 FROM ${history} h WHERE ${this.#sameKey('s')} AND h._to_lsn IS NULL)` : '';
    await this.#session.run(
      `INSERT INTO ${history} (${names}, _valid_from, _from_lsn, _from_ordinal, _op)
       SELECT ${cells}, ${when}::timestamptz, ${lsn}::pg_lsn, ${ordinal}::int8, 'r'
         FROM ${rows} s ${like} ${there}`,
      given,
    );
  }

  /** A snapshot has not found rows that have no counterpart in `named`, a table with the key's columns. */
  async sweep(named: string, at: Moment): Promise<void> {
    const { history } = this.#shape;
    await this.#session.run(
      `UPDATE ${history} h SET ${SET_ENDED}
        WHERE h._to_lsn IS NULL AND NOT EXISTS (SELECT 1 FROM ${named} s WHERE ${this.#sameKey('s')})`,
      [...placeOf(at), 's'],
    );
  }

  /**
   * Lets go of everything behind a position, which is then told again. What a snapshot swept stays ended, unless that snapshot is told
   * again from its beginning: what it named is not noted any more.
   * @param begun where the first of those begins that are told again; null = none is
   */
  async cut({ lsn, ordinal }: SourcePosition, begun: SourcePosition | null): Promise<void> {
    const { history } = this.#shape;
    const behind = [formatLsn(lsn), ordinal];
    await this.#session.run(`DELETE FROM ${history} WHERE (_from_lsn, _from_ordinal) > ($1::pg_lsn, $2::int8)`, behind);
    await this.#session.run(
      `UPDATE ${history} SET _valid_to = NULL, _to_lsn = NULL, _to_ordinal = NULL, _ended_by = NULL
        WHERE (_to_lsn, _to_ordinal) > ($1::pg_lsn, $2::int8) AND (_ended_by <> 's' OR (_to_lsn, _to_ordinal) > ($3::pg_lsn, $4::int8))`,
      [...behind, begun && formatLsn(begun.lsn), begun && begun.ordinal],
    );
  }

  #keyed({ op, cells, old, at }: Change): void {
    if (op === Op.deleted) this.#versions.delete(cells, at);
    else if (op === Op.truncated) this.#versions.truncate(at);
    else if (op === Op.updated) this.#versions.update(old, cells, at);
    else this.#versions.create(cells, at);
  }

  async #keyless({ op, cells, old, at }: Change): Promise<void> {
    if (op === Op.truncated || op === Op.deleted || old) await this.flush();
    if (op === Op.truncated) await this.endAll(at, 't');
    else if (op === Op.deleted) await this.#endOne(cells, at, 'd');
    else {
      if (old) await this.#endOne(old, at, 'u');
      const now = old ? cells.map((cell, c) => (cell === undefined ? old[c] : cell)) : cells;
      this.#added.push({ cells: now, from: at, op: op === Op.updated ? 'u' : 'c', like: null, end: null });
    }
  }

  async #endOne(cells: readonly Cell[], to: Moment, by: string): Promise<void> {
    const { history, columns } = this.#shape;
    const same = columns.map(({ name, type }, c) => `${name}::text IS NOT DISTINCT FROM (SELECT $${c + 5}::text::${type}::text)`);
    await this.#session.run(
      `UPDATE ${history} h SET ${SET_ENDED} WHERE ctid = (SELECT ctid FROM ${history} WHERE _to_lsn IS NULL AND ${same.join(' AND ')}
         ORDER BY _from_lsn, _from_ordinal LIMIT 1)`,
      [...placeOf(to), by, ...cells.map((cell) => cell ?? null)],
    );
  }

  /** Values that the stream left out of the open versions. */
  async #fill(rows: readonly (readonly Cell[])[]): Promise<void> {
    const { history, columns, key } = this.#shape;
    for (const part of groupBy(rows, pattern).values()) {
      const present = [...columns.keys()].filter((c) => part[0]?.[c] !== undefined);
      const set = present.filter((c) => !key.includes(c)).map((c) => `${columns[c]?.name} = u.c${c}::${columns[c]?.type}`);
      const { from, values } = unnested(part, present);
      if (set.length > 0)
        await this.#session.run(
          `UPDATE ${history} h SET ${set.join(', ')} FROM ${from} WHERE ${this.#sameCells(key)} AND h._to_lsn IS NULL`,
          values,
        );
    }
  }

  async #end(ended: readonly Ended[]): Promise<void> {
    const { history, columns, key } = this.#shape;
    const width = columns.length;
    const rows = ended.map(({ row, to, by }) => [...row, ...placeOf(to), by]);
    const { from, values } = unnested(rows, [...key, width, width + 1, width + 2, width + 3]);
    const place = [`u.c${width}`, `u.c${width + 1}`, `u.c${width + 2}`];
    await this.#session.run(
      `UPDATE ${history} h SET ${setEnded(place, `u.c${width + 3}`)} FROM ${from} WHERE ${this.#sameCells(key)} AND h._to_lsn IS NULL`,
      values,
    );
  }

  async #copy(versions: readonly Version[]): Promise<void> {
    const { history, columns } = this.#shape;
    const names = columns.map(({ name }) => name).join(', ');
    const copy = this.#session.copyIn(`COPY ${history} (${names}, ${NAMES}) FROM STDIN`);
    await copy.write(copyRows(versions.map((version) => [...version.cells, ...marksOf(version)])));
    await copy.end();
  }

  /** Versions that all lack the same cells: those of the versions that ended where they say. */
  async #insert(versions: readonly Version[]): Promise<void> {
    const { history, columns, key } = this.#shape;
    const width = columns.length;
    const first = versions[0]?.cells ?? [];
    const rows = versions.map((version) => {
      const { row, to } = version.like as Ended;
      const [, lsn, ordinal] = placeOf(to);
      return [...version.cells, ...marksOf(version), lsn, ordinal, ...key.map((c) => row[c])];
    });
    const marks = HISTORY_COLUMNS.map(({ type }, i) => `u.c${width + i}::${type}`);
    const at = width + HISTORY_COLUMNS.length;
    const cells = columns.map(({ name, type }, c) => (first[c] === undefined ? `o.${name}` : `u.c${c}::${type}`));
    const here = [...(rows[0] ?? []).keys()].filter((c) => c >= width || first[c] !== undefined);
    const { from, values } = unnested(rows, here);
    const same = key.map((c, i) => `o.${columns[c]?.name} = u.c${at + 2 + i}::${columns[c]?.type}`);
    await this.#session.run(
      `INSERT INTO ${history} (${columns.map(({ name }) => name).join(', ')}, ${NAMES}) SELECT ${[...cells, ...marks].join(', ')} FROM ${from}
         LEFT JOIN ${history} o ON ${same.join(' AND ')} AND o._to_lsn = u.c${at}::pg_lsn AND o._to_ordinal = u.c${at + 1}::int8`,
      values,
    );
  }

  /** Of a relation with the key's columns. */
  #sameKey(alias: string, own = 'h'): string {
    const { columns, key } = this.#shape;
    return key.map((c) => `${own}.${columns[c]?.name} = ${alias}.${columns[c]?.name}::${columns[c]?.type}`).join(' AND ');
  }

  /** Of texts `u.c<index>`. */
  #sameCells(key: readonly number[]): string {
    const { columns } = this.#shape;
    return key.map((c) => `h.${columns[c]?.name} = u.c${c}::${columns[c]?.type}`).join(' AND ');
  }
}

interface Read {
  readonly rows: string;
  readonly values: readonly unknown[];
  readonly present?: readonly number[];
}

interface Change {
  readonly op: OpCode;
  readonly cells: readonly Cell[];
  readonly old: readonly Cell[] | undefined;
  readonly at: Moment;
}

function placeOf({ lsn, ordinal, at }: Moment): [string, string, string] {
  return [isoMicros(at), formatLsn(lsn), String(ordinal)];
}

/** Values of {@link HISTORY_COLUMNS}. */
function marksOf({ from, op, end }: Version): Cell[] {
  return [...placeOf(from), op, ...(end ? [...placeOf(end.to), end.by] : [null, null, null, null])];
}

function setEnded([when, lsn, ordinal]: readonly string[], by: string): string {
  return `_valid_to = ${when}::timestamptz, _to_lsn = ${lsn}::pg_lsn, _to_ordinal = ${ordinal}::int8, _ended_by = ${by}`;
}
const SET_ENDED = setEnded(['$1', '$2', '$3'], '$4');

/** The columns of {@link HISTORY_COLUMNS}, for CREATE TABLE. */
export const HISTORY_DEFINITION = HISTORY_COLUMNS.map(
  ({ name, type, required }) => `${quoteIdent(name)} ${type}${required ? ' NOT NULL' : ''}`,
);
