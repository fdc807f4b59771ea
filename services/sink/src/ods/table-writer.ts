import { createHash } from 'node:crypto';
import { type Cell, Op, type Section } from '@tributary/core';
import { type Session, sqlState } from '@tributary/postgres';
import { oldRows } from '../old-rows.ts';
import { copyColumns, copyRows } from './copy-text.ts';
import { NetChanges, type NetRow } from '../net-changes.ts';
import type { TargetTable } from './target-table.ts';
import type { TargetTypes } from './target-types.ts';

/** From so many rows on, COPY beats arrays of parameters. */
const BULK_ROWS = 200;

/**
 * Writes the changes of one table inside the open transaction. Changes of keyed tables are folded to the last one per key
 * and written on `flush`; whatever cannot be folded (COPY CSV of snapshots, truncations, moved rows whose values only the
 * target has) flushes first, so that order is kept.
 */
export class TableWriter {
  readonly table: TargetTable;
  readonly #session: Session;
  readonly #side: Session;
  readonly #types: TargetTypes;
  readonly #net: NetChanges;
  /** Keyless tables: rows to be copied. */
  #added: Cell[][] = [];
  #staged = false;

  constructor(table: TargetTable, { session, side, types }: { session: Session; side: Session; types: TargetTypes }) {
    this.table = table;
    this.#session = session;
    this.#side = side;
    this.#types = types;
    this.#net = new NetChanges(table.key);
  }

  async write(section: Section): Promise<void> {
    if (section.csv) return this.#csv(section);
    const columns = section.columns.map((column) => column.values());
    await this.#labels(columns);
    if (this.#isFresh(section) && (await this.#copyFresh(columns, section.rows))) return;
    if (this.table.key.length === 0) return this.#keyless(section, columns);
    const ops = section.ops;
    const old = oldRows(section);
    for (let row = 0; row < section.rows; row++) {
      const cells = columns.map((column) => column[row]);
      switch (ops[row]) {
        case Op.deleted:
          this.#net.delete(cells);
          break;
        case Op.truncated:
          await this.truncate();
          break;
        case Op.kept:
          this.#net.fill(cells);
          break;
        case Op.updated:
          await this.#update(old.get(row), cells);
          break;
        default:
          this.#net.put(cells);
      }
    }
  }

  async truncate(): Promise<void> {
    this.#net.take();
    this.#added = [];
    await this.#session.run(`TRUNCATE ${this.table.target}`);
  }

  /** Writes everything folded so far. */
  async flush(): Promise<void> {
    await this.#flushAdded();
    if (this.#net.size === 0) return;
    const { deleted, rows, keys } = this.#net.take();
    const whole: Cell[][] = [];
    const parts = new Map<string, NetRow[]>();
    for (const net of rows) {
      const row = net.row as Cell[];
      if (!net.fill && !row.includes(undefined)) whole.push(row);
      else group(parts, `${net.fill} ${row.map((cell) => (cell === undefined ? 0 : 1)).join('')}`, net);
    }
    const bulk = whole.length >= BULK_ROWS && this.table.plain;
    const wholeKeys = bulk ? whole.map((row) => this.#net.keyOf(row)) : [];
    if (deleted.length + wholeKeys.length > 0) await this.#delete([...deleted, ...wholeKeys]);
    if (bulk) await this.#copy(this.table.target, copyRows(whole));
    else if (whole.length > 0) await this.#upsert(whole);
    for (const part of parts.values()) await this.#patch(part);
    if (this.table.seen && keys.length > 0) await this.#see(keys);
  }

  async #update(old: Cell[] | undefined, cells: Cell[]): Promise<void> {
    const moved = old !== undefined && this.#net.keyOf(old) !== this.#net.keyOf(cells);
    if (!moved) {
      // Under identity full the old row says what the new one leaves out.
      this.#net.put(old ? cells.map((cell, c) => (cell === undefined ? old[c] : cell)) : cells);
    } else if (
      !this.#net.move(
        old,
        cells.map((cell, c) => (cell === undefined && !this.table.key.includes(c) ? old[c] : cell)),
      )
    ) {
      await this.flush();
      await this.#moveInTarget(old, cells);
    }
  }

  async #moveInTarget(old: Cell[], cells: Cell[]): Promise<void> {
    const { columns, key, target } = this.table;
    const set = columns.flatMap((column, c) => (cells[c] === undefined ? [] : [{ column, value: cells[c] as string | null }]));
    const assign = set.map(({ column }, i) => `${column.name} = $${i + 1}::text::${column.type}`);
    const where = key.map((c, i) => `${columns[c]?.name} = $${set.length + i + 1}::text::${columns[c]?.type}`);
    const values = [...set.map((s) => s.value), ...key.map((c) => old[c])];
    // Nothing stands at the new key, unless this is a replay over a newer state or the rest of a lost history.
    const is = (alias: string, from: number) =>
      key.map((c, i) => `${alias}.${columns[c]?.name} = $${from + i}::text::${columns[c]?.type}`).join(' AND ');
    await this.#session.run(
      `DELETE FROM ${target} t WHERE ${is('t', 1)} AND EXISTS (SELECT 1 FROM ${target} o WHERE ${is('o', key.length + 1)})`,
      [...key.map((c) => cells[c]), ...key.map((c) => old[c])],
    );
    const moved = await this.#session.run(`UPDATE ${target} SET ${assign.join(', ')} WHERE ${where.join(' AND ')}`, values);
    if (moved === 0) this.#net.put(cells);
    else if (this.table.seen) await this.#see([this.#net.keyOf(cells)]);
  }

  /** Only inserts, many, and nothing folded that could concern the same keys. */
  #isFresh(section: Section): boolean {
    if (section.rows < BULK_ROWS || this.#net.size > 0 || this.table.seen) return false;
    return section.ops.every((op) => op === Op.created);
  }

  /** New rows straight into the table. @returns false when some key was there already: then nothing was written */
  async #copyFresh(columns: readonly (readonly Cell[])[], rows: number): Promise<boolean> {
    await this.#flushAdded();
    const text = copyColumns(columns, 0, rows);
    if (this.table.key.length === 0) {
      await this.#copy(this.table.target, text);
      return true;
    }
    return this.#try(() => this.#copy(this.table.target, text), '23505');
  }

  /** Runs `work` so that a failure of the given kinds leaves the transaction as it was. */
  async #try(work: () => Promise<void>, ...states: string[]): Promise<boolean> {
    await this.#session.run('SAVEPOINT fresh');
    try {
      await work();
    } catch (error) {
      if (!states.includes(sqlState(error))) throw error;
      await this.#session.run('ROLLBACK TO SAVEPOINT fresh; RELEASE SAVEPOINT fresh');
      return false;
    }
    await this.#session.run('RELEASE SAVEPOINT fresh');
    return true;
  }

  async #csv(section: Section): Promise<void> {
    await this.flush();
    const csv = section.csv as Uint8Array;
    const direct = !this.#staged && !this.table.seen;
    if (direct && (await this.#try(() => this.#copy(this.table.target, csv, 'csv'), '23505', '22P02'))) return;
    await this.#labels(section.columns.map((column) => column.values()));
    if (this.table.key.length === 0) return this.#copy(this.table.target, csv, 'csv');
    this.#staged = true;
    await this.#stage(csv);
  }

  async #stage(csv: Uint8Array): Promise<void> {
    const { target, columns, key } = this.table;
    const names = columns.map((column) => column.name).join(', ');
    await this.#session.run(`CREATE TEMP TABLE stage (LIKE ${target}) ON COMMIT DROP`);
    await this.#copy('pg_temp.stage', csv, 'csv');
    await this.#session.run(
      `INSERT INTO ${target} (${names}) SELECT ${names} FROM pg_temp.stage ${this.#onConflict(columns.map((_, c) => c))}`,
    );
    const keys = key.map((c) => columns[c]?.name).join(', ');
    if (this.table.seen) {
      await this.#session.run(`INSERT INTO ${this.table.seen} SELECT ${keys} FROM pg_temp.stage ON CONFLICT DO NOTHING`);
    }
    await this.#session.run('DROP TABLE pg_temp.stage');
  }

  /** Values of an enum may be newer than what the batch's schema knew of it. */
  async #labels(columns: readonly (readonly Cell[])[]): Promise<void> {
    for (const [c, column] of this.table.schema.columns.entries()) {
      if (column.type.kind !== 'enum') continue;
      const values = new Set(columns[c]);
      await this.#types.addLabels(
        this.#session,
        this.#side,
        column.type,
        [...values].filter((value): value is string => typeof value === 'string'),
      );
    }
  }

  async #keyless(section: Section, columns: readonly (readonly Cell[])[]): Promise<void> {
    const old = oldRows(section);
    for (let row = 0; row < section.rows; row++) {
      const cells = columns.map((column) => column[row]);
      const op = section.ops[row];
      if (op === Op.truncated) await this.truncate();
      else if (op === Op.deleted) await this.#removeOne(cells);
      else if (op === Op.updated) {
        const before = old.get(row);
        if (before) await this.#removeOne(before);
        this.#added.push(before ? cells.map((cell, c) => (cell === undefined ? before[c] : cell)) : cells);
      } else this.#added.push(cells);
    }
  }

  /** One of possibly many equal rows. */
  async #removeOne(cells: readonly Cell[]): Promise<void> {
    await this.#flushAdded();
    const { target, columns } = this.table;
    const where = columns.map((column, c) => `${column.name}::text IS NOT DISTINCT FROM $${c + 1}::text::${column.type}::text`);
    const values = cells.map((cell) => cell ?? null);
    await this.#session.run(
      `DELETE FROM ${target} WHERE ctid = (SELECT ctid FROM ${target} WHERE ${where.join(' AND ')} LIMIT 1)`,
      values,
    );
  }

  async #flushAdded(): Promise<void> {
    if (this.#added.length === 0) return;
    const rows = this.#added;
    this.#added = [];
    await this.#copy(this.table.target, copyRows(rows));
  }

  async #copy(target: string, content: string | Uint8Array, format: 'text' | 'csv' = 'text'): Promise<void> {
    const names = this.table.columns.map((column) => column.name).join(', ');
    const copy = this.#session.copyIn(`COPY ${target} (${names}) FROM STDIN (FORMAT ${format})`);
    await copy.write(content);
    await copy.end();
  }

  async #delete(keys: readonly string[]): Promise<void> {
    const { target, columns, key } = this.table;
    const match = key.map((c, i) => `t.${columns[c]?.name} = k.k${i}`);
    const sql = `DELETE FROM ${target} t USING ${this.#keyRows('k')} WHERE ${match.join(' AND ')}`;
    await this.#session.prepared(this.#name('d', ''), sql, this.#keyArrays(keys));
  }

  /** A FROM item `alias (k0, k1, …)` of typed keys from one text array per key column. */
  #keyRows(alias: string): string {
    const { columns, key } = this.table;
    const typed = key.map((c, i) => `u.k${i}::${columns[c]?.type} AS k${i}`).join(', ');
    return `(SELECT ${typed} FROM unnest(${key.map((_, i) => `$${i + 1}::text[]`).join(', ')}) u(${key.map((_, i) => `k${i}`).join(', ')})) ${alias}`;
  }

  #keyArrays(keys: readonly string[]): string[][] {
    const parts = keys.map((key) => (this.table.key.length === 1 ? [key] : key.split('\x1f')));
    return this.table.key.map((_, i) => parts.map((part) => part[i] as string));
  }

  async #upsert(rows: readonly (readonly Cell[])[]): Promise<void> {
    const all = this.table.columns.map((_, c) => c);
    await this.#insertArrays(rows, all);
  }

  /** Rows that all lack the same cells: the others are written, a row that is not there is made unless it only fills. */
  async #patch(part: readonly NetRow[]): Promise<void> {
    const rows = part.map((net) => net.row as Cell[]);
    const first = rows[0] as Cell[];
    const present = this.table.columns.map((_, c) => c).filter((c) => first[c] !== undefined);
    if (!part[0]?.fill) return this.#insertArrays(rows, present);
    const { columns, key, target } = this.table;
    const set = present.filter((c) => !key.includes(c));
    if (set.length === 0) return undefined;
    const sql = `UPDATE ${target} t SET ${set.map((c) => `${columns[c]?.name} = u.c${c}::${columns[c]?.type}`).join(', ')}
      FROM unnest(${present.map((_, i) => `$${i + 1}::text[]`).join(', ')}) u(${present.map((c) => `c${c}`).join(', ')})
      WHERE ${key.map((c) => `t.${columns[c]?.name} = u.c${c}::${columns[c]?.type}`).join(' AND ')}`;
    await this.#session.run(sql, arrays(rows, present));
  }

  async #insertArrays(rows: readonly (readonly Cell[])[], present: readonly number[]): Promise<void> {
    const { columns, target } = this.table;
    const names = present.map((c) => columns[c]?.name).join(', ');
    const typed = present.map((c) => `u.c${c}::${columns[c]?.type}`).join(', ');
    const from = `unnest(${present.map((_, i) => `$${i + 1}::text[]`).join(', ')}) u(${present.map((c) => `c${c}`).join(', ')})`;
    const sql = `INSERT INTO ${target} (${names}) SELECT ${typed} FROM ${from} ${this.#onConflict(present)}`;
    await this.#session.prepared(
      this.#name('u', present.length === columns.length ? '' : present.join('_')),
      sql,
      arrays(rows, present),
    );
  }

  #onConflict(present: readonly number[]): string {
    const { columns, key } = this.table;
    const set = present.filter((c) => !key.includes(c)).map((c) => `${columns[c]?.name} = excluded.${columns[c]?.name}`);
    return `ON CONFLICT (${key.map((c) => columns[c]?.name).join(', ')}) DO ${set.length > 0 ? `UPDATE SET ${set.join(', ')}` : 'NOTHING'}`;
  }

  async #see(keys: readonly string[]): Promise<void> {
    const sql = `INSERT INTO ${this.table.seen} SELECT * FROM ${this.#keyRows('k')} ON CONFLICT DO NOTHING`;
    await this.#session.run(sql, this.#keyArrays(keys));
  }

  /** Prepared statements belong to one shape of one table. */
  #name(kind: string, more: string): string {
    return kind + createHash('sha256').update(`${this.table.version} ${this.table.target} ${more}`).digest('base64url');
  }
}

function arrays(rows: readonly (readonly Cell[])[], present: readonly number[]): (string | null)[][] {
  return present.map((c) => rows.map((row) => row[c] ?? null));
}

function group<Key, Value>(groups: Map<Key, Value[]>, key: Key, value: Value): void {
  const known = groups.get(key);
  if (known) known.push(value);
  else groups.set(key, [value]);
}
