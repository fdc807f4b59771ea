import { createHash } from 'node:crypto';
import type { Cell } from '@tributary/core';
import type { Session } from '@tributary/postgres';
import type { TargetTable } from './target-table.ts';
import { unnested } from './unnested.ts';

/**
 * The statements that write one table of the target, inside the open transaction.
 */
export class TableStatements {
  readonly #table: TargetTable;
  readonly #session: Session;

  constructor(table: TargetTable, session: Session) {
    this.#table = table;
    this.#session = session;
  }

  async copy(content: string | Uint8Array, format: 'text' | 'csv' = 'text', target = this.#table.target): Promise<void> {
    const names = this.#table.columns.map((column) => column.name).join(', ');
    const copy = this.#session.copyIn(`COPY ${target} (${names}) FROM STDIN (FORMAT ${format})`);
    await copy.write(content);
    await copy.end();
  }

  /** Everything is gone. Rows that another table refers to cannot be truncated away. */
  async empty(): Promise<void> {
    const { target, referenced, truncatable } = this.#table;
    await this.#session.run(referenced || !truncatable ? `DELETE FROM ${target}` : `TRUNCATE ${target}`);
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

  /** Writes rows whether they are there or not. */
  async upsert(rows: readonly (readonly Cell[])[], present: readonly number[]): Promise<void> {
    const { columns, target } = this.#table;
    const from = unnested(rows, present);
    const names = present.map((c) => columns[c]?.name).join(', ');
    await this.#prepared(
      `INSERT INTO ${target} (${names}) SELECT ${present.map((c) => this.#cell(c)).join(', ')} FROM ${from.from} ${this.#onConflict(present)}`,
      from.values,
    );
  }

  /** Rows as PostgreSQL's CSV, whether they are there or not. @param also is given the name of a table of them */
  async stage(csv: Uint8Array, also: (stage: string) => Promise<unknown>): Promise<void> {
    const { target, columns, key, seen } = this.#table;
    const names = columns.map((column) => column.name).join(', ');
    await this.#session.run(`CREATE TEMP TABLE stage ON COMMIT DROP AS SELECT ${names} FROM ${target} WITH NO DATA`);
    await this.copy(csv, 'csv', 'pg_temp.stage');
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

  /** One of possibly many equal rows of a keyless table. */
  async removeOne(cells: readonly Cell[]): Promise<void> {
    const { target, columns } = this.#table;
    const where = columns.map((column, c) => `${column.name}::text IS NOT DISTINCT FROM $${c + 1}::text::${column.type}::text`);
    await this.#prepared(
      `DELETE FROM ${target} WHERE ctid = (SELECT ctid FROM ${target} WHERE ${where.join(' AND ')} LIMIT 1)`,
      cells.map((cell) => cell ?? null),
    );
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

  /** Removes what has not been named. */
  async sweep(): Promise<void> {
    const { target, seen } = this.#table;
    const match = this.#table.key
      .map((c) => `s.${this.#table.columns[c]?.name} = t.${this.#table.columns[c]?.name}`)
      .join(' AND ');
    await this.#session.run(`DELETE FROM ${target} t WHERE NOT EXISTS (SELECT 1 FROM ${seen} s WHERE ${match})`);
  }

  #sameKey(alias: string): string {
    const { columns, key } = this.#table;
    return key.map((c) => `t.${columns[c]?.name} = ${alias}.c${c}::${columns[c]?.type}`).join(' AND ');
  }

  #cell(c: number): string {
    return `u.c${c}::${this.#table.columns[c]?.type}`;
  }

  #onConflict(present: readonly number[]): string {
    const { columns, key } = this.#table;
    const set = present.filter((c) => !key.includes(c)).map((c) => `${columns[c]?.name} = excluded.${columns[c]?.name}`);
    return `ON CONFLICT (${key.map((c) => columns[c]?.name).join(', ')}) DO ${set.length > 0 ? `UPDATE SET ${set.join(', ')}` : 'NOTHING'}`;
  }

  /** Prepared once for one shape of one table: its types are part of the text. */
  #prepared(sql: string, values: readonly unknown[]): Promise<number> {
    return this.#session.prepared(createHash('sha256').update(`${this.#table.version} ${sql}`).digest('base64url'), sql, values);
  }
}
