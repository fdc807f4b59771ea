import { createHash } from 'node:crypto';
import { type Cell, formatLsn } from '@tributary/core';
import type { Session } from '@tributary/postgres';
import { live, markOf, marksBefore, SET_MARK } from './marks.ts';
import type { TargetTable } from './target-table.ts';
import { unnested } from './unnested.ts';
import type { Moment } from './versions.ts';

interface CopyOptions {
  readonly format?: 'text' | 'csv';
  /** Quoted. */
  readonly target?: string;
  /** Columns of a row. */
  readonly width?: number;
}

/**
 * The statements that write one table of the target, inside the open transaction.
 */
export class TableStatements {
  readonly #table: TargetTable;
  readonly #session: Session;
  /** Names of prepared statements, by their text. */
  readonly #names = new Map<string, string>();

  constructor(table: TargetTable, session: Session) {
    this.#table = table;
    this.#session = session;
  }

  /** @param content rows of the source's columns, or, where `width` says so, of more or all columns */
  async copy(
    content: string | Uint8Array,
    { format = 'text', target = this.#table.target, width = this.#table.schema.columns.length }: CopyOptions = {},
  ): Promise<void> {
    const names = this.#columnNames(width);
    const copy = this.#session.copyIn(`COPY ${target} (${names}) FROM STDIN (FORMAT ${format})`);
    await copy.write(content);
    await copy.end();
  }

  /** Every row is gone, and stays. */
  async markAll(at: Moment): Promise<void> {
    await this.#session.run(`UPDATE ${this.#table.target} SET ${SET_MARK} WHERE ${live()}`, markOf(at));
  }

  /** Everything that is not marked is gone. Rows that another table refers to cannot be truncated away. */
  async empty(): Promise<void> {
    const { target, referenced, truncatable, marked } = this.#table;
    if (marked) await this.#session.run(`DELETE FROM ${target} WHERE ${live()}`);
    else await this.#session.run(referenced || !truncatable ? `DELETE FROM ${target}` : `TRUNCATE ${target}`);
  }

  async delete(keys: readonly (readonly Cell[])[]): Promise<void> {
    const { target } = this.#table;
    const rows = unnested(keys, this.#table.key);
    await this.#prepared(`DELETE FROM ${target} t USING ${rows.from} WHERE ${this.#sameKey('u')}`, rows.values);
  }

  /** Writes the given columns of rows that are there. @returns how many were */
  async update(rows: readonly (readonly Cell[])[], present: readonly number[]): Promise<number> {
    const { columns, key, target } = this.#table;
    const from = unnested(rows, present);
    const set = present.filter((c) => !key.includes(c)).map((c) => `${columns[c]?.name} = ${this.#cell(c)}`);
    if (set.length === 0) return rows.length;
    return this.#prepared(`UPDATE ${target} t SET ${set.join(', ')} FROM ${from.from} WHERE ${this.#sameKey('u')}`, from.values);
  }

  /**
   * Writes rows whether they are there or not.
   * @param since where rows stay that are gone: not before this moment came the first row that lacks cells
   */
  async upsert(rows: readonly (readonly Cell[])[], present: readonly number[], since: Moment | null = null): Promise<void> {
    const { columns, target } = this.#table;
    const from = unnested(rows, present);
    const names = present.map((c) => columns[c]?.name).join(', ');
    const place = since && [formatLsn(since.lsn), String(since.ordinal)];
    const gone = place && marksBefore('t.', from.values.length + 1);
    await this.#prepared(
      `INSERT INTO ${target} AS t (${names}) SELECT ${present.map((c) => this.#cell(c)).join(', ')} FROM ${from.from} ${this.#onConflict(present, gone)}`,
      [...from.values, ...(place ?? [])],
    );
  }

  /** Rows as PostgreSQL's CSV, whether they are there or not. @param also is given the name of a table of them */
  async stage(csv: Uint8Array, also: (stage: string) => Promise<unknown>): Promise<void> {
    const { target, columns, key, seen } = this.#table;
    const names = this.#columnNames();
    await this.#session.run(`CREATE TEMP TABLE stage ON COMMIT DROP AS SELECT ${names} FROM ${target} WITH NO DATA`);
    await this.copy(csv, { format: 'csv', target: 'pg_temp.stage' });
    const conflict = key.length > 0 ? this.#onConflict(columns.map((_, c) => c)) : '';
    await this.#session.run(`INSERT INTO ${target} (${names}) SELECT ${names} FROM pg_temp.stage ${conflict}`);
    await also('pg_temp.stage');
    const keys = key.map((c) => columns[c]?.name).join(', ');
    if (seen) await this.#session.run(`INSERT INTO ${seen} SELECT ${keys} FROM pg_temp.stage ON CONFLICT DO NOTHING`);
    await this.#session.run('DROP TABLE pg_temp.stage');
  }

  /** A row under a new key, with the cells that are left out as they are. @returns false when it is not there */
  async move(old: readonly Cell[], cells: readonly Cell[]): Promise<boolean> {
    const { columns, key, target } = this.#table;
    const set = columns.flatMap((column, c) => (cells[c] === undefined ? [] : [{ column, value: cells[c] as string | null }]));
    const assign = set.map(({ column }, i) => `${column.name} = $${i + 1}::text::${column.type}`);
    const is = (alias: string, from: number) =>
      key.map((c, i) => `${alias}.${columns[c]?.name} = $${from + i}::text::${columns[c]?.type}`).join(' AND ');
    // Nothing stands at the new key, unless this is a replay over a newer state or the rest of a lost history.
    await this.#session.run(
      `DELETE FROM ${target} t WHERE ${is('t', 1)} AND EXISTS (SELECT 1 FROM ${target} o WHERE ${is('o', key.length + 1)})`,
      [...key.map((c) => cells[c]), ...key.map((c) => old[c])],
    );
    const moved = await this.#session.run(`UPDATE ${target} t SET ${assign.join(', ')} WHERE ${is('t', set.length + 1)}`, [
      ...set.map(({ value }) => value),
      ...key.map((c) => old[c]),
    ]);
    return moved > 0;
  }

  /** A row under a new key, as {@link move} makes it; the one under the old key stays, and is marked. */
  async moveMarked(old: readonly Cell[], cells: readonly Cell[], at: Moment): Promise<boolean> {
    const { columns, key, target, schema } = this.#table;
    const own = [...schema.columns.keys()];
    const given = own.filter((c) => cells[c] !== undefined);
    const values = own.map((c) =>
      cells[c] === undefined ? `o.${columns[c]?.name}` : `$${given.indexOf(c) + 1}::text::${columns[c]?.type}`,
    );
    const is = (from: number) =>
      key.map((c, i) => `o.${columns[c]?.name} = $${from + i}::text::${columns[c]?.type}`).join(' AND ');
    const oldKey = key.map((c) => old[c]);
    const moved = await this.#session.run(
      `INSERT INTO ${target} (${this.#columnNames()}) SELECT ${values.join(', ')} FROM ${target} o WHERE ${is(given.length + 1)}
         ${this.#onConflict([...columns.keys()])}`,
      [...given.map((c) => cells[c]), ...oldKey],
    );
    await this.#session.run(`UPDATE ${target} o SET ${SET_MARK} WHERE ${is(4)}`, [...markOf(at), ...oldKey]);
    return moved > 0;
  }

  /** One of possibly many equal rows of a keyless table. @param mark it stays, and is marked so; null = it goes */
  async removeOne(cells: readonly Cell[], mark: Moment | null): Promise<void> {
    const { target, columns, schema, marked } = this.#table;
    const from = mark ? 4 : 1;
    // In a SELECT of its own a value is cast once, not for every row that is looked at.
    const same = schema.columns.map(
      (_, c) => `${columns[c]?.name}::text IS NOT DISTINCT FROM (SELECT $${from + c}::text::${columns[c]?.type}::text)`,
    );
    const where = [...same, ...(marked ? [live()] : [])].join(' AND ');
    const one = `WHERE ctid = (SELECT ctid FROM ${target} WHERE ${where} LIMIT 1)`;
    const values = schema.columns.map((_, c) => cells[c] ?? null);
    if (mark) await this.#prepared(`UPDATE ${target} SET ${SET_MARK} ${one}`, [...markOf(mark), ...values]);
    else await this.#prepared(`DELETE FROM ${target} ${one}`, values);
  }

  /** Notes keys that a snapshot, or the stream beside it, named. */
  async see(keys: readonly (readonly Cell[])[]): Promise<void> {
    const { key, seen } = this.#table;
    const rows = unnested(keys, key);
    await this.#session.run(
      `INSERT INTO ${seen} SELECT ${key.map((c) => this.#cell(c)).join(', ')} FROM ${rows.from} ON CONFLICT DO NOTHING`,
      rows.values,
    );
  }

  /** Removes, or marks, what has not been named. */
  async sweep(at: Moment): Promise<void> {
    const { target, seen, marked } = this.#table;
    const match = this.#table.key
      .map((c) => `s.${this.#table.columns[c]?.name} = t.${this.#table.columns[c]?.name}`)
      .join(' AND ');
    const unnamed = `NOT EXISTS (SELECT 1 FROM ${seen} s WHERE ${match})`;
    if (marked) await this.#session.run(`UPDATE ${target} t SET ${SET_MARK} WHERE ${live('t.')} AND ${unnamed}`, markOf(at));
    else await this.#session.run(`DELETE FROM ${target} t WHERE ${unnamed}`);
  }

  /** Of the source's columns, or of so many. */
  #columnNames(width = this.#table.schema.columns.length): string {
    return this.#table.columns
      .slice(0, width)
      .map((column) => column.name)
      .join(', ');
  }

  #sameKey(alias: string): string {
    const { columns, key } = this.#table;
    return key.map((c) => `t.${columns[c]?.name} = ${alias}.c${c}::${columns[c]?.type}`).join(' AND ');
  }

  #cell(c: number): string {
    return `u.c${c}::${this.#table.columns[c]?.type}`;
  }

  /** @param gone says of a row `t` that it was another one, which is gone: it loses what is not given */
  #onConflict(present: readonly number[], gone: string | null = null): string {
    const { columns, key } = this.#table;
    const set = columns.flatMap(({ name }, c) => {
      if (key.includes(c)) return [];
      if (present.includes(c)) return [`${name} = excluded.${name}`];
      return gone ? [`${name} = CASE WHEN ${gone} THEN NULL ELSE t.${name} END`] : [];
    });
    return `ON CONFLICT (${key.map((c) => columns[c]?.name).join(', ')}) DO ${set.length > 0 ? `UPDATE SET ${set.join(', ')}` : 'NOTHING'}`;
  }

  /** Prepared once for one shape of one table: its types are part of the text. */
  #prepared(sql: string, values: readonly unknown[]): Promise<number> {
    let name = this.#names.get(sql);
    if (name === undefined) {
      name = createHash('sha256').update(`${this.#table.version} ${sql}`).digest('base64url');
      this.#names.set(sql, name);
    }
    return this.#session.prepared(name, sql, values);
  }
}
