import { join } from 'node:path';
import { targetSchema } from '@tributary/config';
import {
  compareSourcePosition,
  formatLsn,
  ORIGIN,
  parseLsn,
  parseSourcePosition,
  type Position,
  type SourcePosition,
  type TableSchema,
  tableName,
} from '@tributary/core';
import { type Duck, duckIdent } from '@tributary/duckdb';
import { LakeTable } from './lake-table.ts';
import { typedList } from './lake-types.ts';
import { firstFormatId, type Manifest, type PlaceText } from './manifest.ts';

/** A position and the source's commit time (µs since 1970) up to which everything is there. */
interface Reached {
  readonly position: Position;
  readonly watermark: number;
}

/** Where the state of one source stands. */
export interface Place extends Reached {
  /** The newest commit of the lake that this state knows; null = none was made. */
  readonly commit: { readonly number: number; readonly id: string } | null;
  /** The lake has the history up to here, though the state does not stand there yet; null = they are level. */
  readonly ahead: Reached | null;
}

const EMPTY: Place = { position: ORIGIN, watermark: 0, commit: null, ahead: null };

/**
 * The state of one source in the DuckDB file of its sink: tables, the views that people query, and the place.
 *
 * The file is a cache: everything in it follows from the newest manifest and the changelog behind it, so a worker that
 * has none, or an old one, loads what the last compaction wrote ({@link load}) and reads on from there.
 * The caller holds the store's lock, and opens transactions unless a method says that it does.
 */
export class LakeState {
  readonly #duck: Duck;
  readonly #source: string;
  readonly tables = new Map<string, LakeTable>();
  /** Tables that changed since they were last compacted. */
  readonly dirty = new Set<string>();
  /** Tables that a replay keeps as they are, and how far they have come. */
  readonly held = new Map<string, SourcePosition>();
  place: Place = EMPTY;

  constructor(duck: Duck, source: string) {
    this.#duck = duck;
    this.#source = source;
  }

  /** Reads place and tables as the last committed transaction left them. @returns false when there is no state */
  async read(): Promise<boolean> {
    this.#forget();
    const [row] = await this.#duck.rows<StoredPlace>('SELECT * FROM _meta.position WHERE source = $1', [this.#source]);
    this.place = row ? placeOf(row) : EMPTY;
    const tables = await this.#duck.rows<StoredTable>(
      'SELECT version, definition, seen, dirty, held FROM _meta.tables WHERE source = $1',
      [this.#source],
    );
    for (const { version, definition, seen, dirty, held } of tables) {
      const schema = JSON.parse(definition) as TableSchema;
      const table = new LakeTable(this.#duck, this.#source, { schema, version, seen });
      this.tables.set(table.name, table);
      if (dirty !== false) this.dirty.add(table.name);
      if (held !== null) this.held.set(table.name, parseSourcePosition(held));
    }
    return row !== undefined;
  }

  async save(place: Place): Promise<void> {
    const { position, watermark, commit, ahead } = place;
    await this.#duck.run(
      `INSERT OR REPLACE INTO _meta.position (source, seq, lsn, ordinal, watermark, lake_commit, lake_id, ahead, epoch)
       VALUES ($1, $2::BIGINT, $3, $4::BIGINT, $5::BIGINT, $6, $7, $8, $9)`,
      [
        this.#source,
        String(position.seq),
        formatLsn(position.lsn),
        String(position.ordinal),
        String(watermark),
        commit?.number ?? 0,
        commit?.id ?? null,
        ahead && JSON.stringify({ position: placeText(ahead.position), watermark: ahead.watermark }),
        position.epoch ?? null,
      ],
    );
    this.place = place;
  }

  /** Saves that everything up to `after` is in the state. */
  async advance(after: Position, watermark: number): Promise<void> {
    const { commit, ahead } = this.place;
    const level = !ahead || compareSourcePosition(after, ahead.position) >= 0;
    await this.save({ position: after, watermark, commit, ahead: level ? null : ahead });
  }

  /** Are there rows of history that no manifest names? */
  async hasHistory(): Promise<boolean> {
    for (const table of this.tables.values()) {
      const [row] = await this.#duck.rows<{ some: boolean }>(`SELECT EXISTS (FROM ${table.history}) AS some`);
      if (row?.some) return true;
    }
    return false;
  }

  /** The state's half of a commit, in a transaction of its own: history is let go of. Repeating it is harmless. */
  async committed(manifest: Manifest, compacted: Iterable<string>): Promise<void> {
    const names = [...compacted];
    await this.#transaction(async () => {
      for (const table of this.tables.values()) await this.#duck.run(`DELETE FROM ${table.history}`);
      for (const name of names) await this.#note(name, 'dirty', false);
      await this.save({ ...this.place, commit: { number: manifest.commit, id: manifest.id } });
    });
    for (const name of names) this.dirty.delete(name);
  }

  /**
   * Makes the state what the lake's newest commit says, in one transaction of its own: the tables as they were compacted
   * last, the place where that was, and how far history is ahead of it. Null: a lake without any commit.
   * About 3 s for a million rows of 130 bytes. @throws Fault `database_rejected` when a file is missing
   */
  async load(manifest: Manifest | null, folder: string): Promise<void> {
    await this.#transaction(async () => {
      for (const table of this.tables.values()) await this.#drop(table);
      await this.#duck.run('DELETE FROM _meta.tables WHERE source = $1', [this.#source]);
      this.#forget();
      for (const { exact } of Object.values(manifest?.tables ?? {})) {
        if (!exact) continue;
        const { schema, version, seen, lossy } = exact;
        const table = new LakeTable(this.#duck, this.#source, { schema, version, seen: false });
        await table.create();
        await table.load(join(folder, exact.path), seen && join(folder, seen.path));
        await this.#enter(table, exact.held);
        await this.makeView(table, new Set(lossy));
      }
      await this.save(manifest ? placeAfter(manifest) : EMPTY);
    });
  }

  /** The table in exactly this shape. */
  async table(schema: TableSchema, version: string): Promise<LakeTable> {
    const name = tableName(schema);
    const known = this.tables.get(name);
    if (known?.version === version) return known;
    await known?.flush();
    const table = new LakeTable(this.#duck, this.#source, { schema, version, seen: known?.seen ?? false });
    if (known) {
      await this.#duck.run(`DROP VIEW IF EXISTS ${this.#view(schema)}`);
      await table.reshape(known.schema);
      await this.#duck.run('UPDATE _meta.tables SET version = $3, definition = $4 WHERE source = $1 AND name = $2', [
        this.#source,
        name,
        version,
        JSON.stringify(schema),
      ]);
    } else {
      await table.create();
      await this.#enter(table, null);
    }
    await this.makeView(table, new Set());
    this.tables.set(name, table);
    return table;
  }

  /** Notes that a table differs from its last compacted files. */
  async touch(name: string): Promise<void> {
    if (this.dirty.has(name) || !this.tables.has(name)) return;
    this.dirty.add(name);
    await this.#note(name, 'dirty', true);
  }

  async noteSeen(table: LakeTable): Promise<void> {
    await this.#note(table.name, 'seen', table.seen);
  }

  /** @param exact columns that hold values their type cannot: their text stands beside them */
  async makeView(table: LakeTable, exact: ReadonlySet<string>): Promise<void> {
    await this.#duck.run(`CREATE SCHEMA IF NOT EXISTS ${duckIdent(this.#viewSchema(table.schema))}`);
    await this.#duck.run(
      `CREATE OR REPLACE VIEW ${this.#view(table.schema)} AS SELECT ${typedList(table.columns, exact)} FROM ${table.current}`,
    );
  }

  #forget(): void {
    this.tables.clear();
    this.dirty.clear();
    this.held.clear();
  }

  async #enter(table: LakeTable, held: string | null): Promise<void> {
    await this.#duck.run(
      `INSERT INTO _meta.tables (source, name, version, definition, seen, dirty, view_schema, view_name, held) VALUES ($1, $2, $3, $4, $5, false, $6, $7, $8)`,
      [
        this.#source,
        table.name,
        table.version,
        JSON.stringify(table.schema),
        table.seen,
        this.#viewSchema(table.schema),
        table.schema.table,
        held,
      ],
    );
    this.tables.set(table.name, table);
    if (held !== null) this.held.set(table.name, parseSourcePosition(held));
  }

  async #drop(table: LakeTable): Promise<void> {
    await this.#duck.run(`DROP VIEW IF EXISTS ${this.#view(table.schema)}`);
    await table.drop();
  }

  async #note(name: string, flag: 'seen' | 'dirty', value: boolean): Promise<void> {
    await this.#duck.run(`UPDATE _meta.tables SET ${flag} = $3 WHERE source = $1 AND name = $2`, [this.#source, name, value]);
  }

  #view(schema: TableSchema): string {
    return `${duckIdent(this.#viewSchema(schema))}.${duckIdent(schema.table)}`;
  }

  #viewSchema(schema: TableSchema): string {
    return targetSchema(this.#source, schema.schema);
  }

  /** All or nothing; what this object remembers is read anew when nothing it is. */
  async #transaction(work: () => Promise<void>): Promise<void> {
    await this.#duck.run('BEGIN');
    try {
      await work();
      await this.#duck.run('COMMIT');
    } catch (error) {
      await this.#duck.run('ROLLBACK').catch(() => {});
      // Refused where the connection was cut off, and not needed then: the caller is told why it failed.
      await this.read().catch(() => {});
      throw error;
    }
  }
}

export function placeText({ seq, lsn, ordinal, epoch }: Position): PlaceText {
  return { seq, lsn: formatLsn(lsn), ordinal, ...(epoch === undefined ? {} : { epoch }) };
}

function position({ seq, lsn, ordinal, epoch }: PlaceText): Position {
  return seq > 0 ? { seq, lsn: parseLsn(lsn), ordinal, ...(typeof epoch === 'string' ? { epoch } : {}) } : ORIGIN;
}

function placeAfter(manifest: Manifest): Place {
  const history: Reached = { position: position(manifest.position), watermark: manifest.watermark };
  const { compacted } = manifest;
  const state: Reached = compacted
    ? { position: position(compacted.position), watermark: compacted.watermark }
    : { position: ORIGIN, watermark: 0 };
  const level = compareSourcePosition(state.position, history.position) >= 0;
  return { ...state, commit: { number: manifest.commit, id: manifest.id }, ahead: level ? null : history };
}

interface StoredPlace extends PlaceText {
  readonly watermark: number;
  readonly lake_commit: number;
  /** Null before any commit, and in states that were written for manifests of format 1. */
  readonly lake_id: string | null;
  readonly ahead: string | null;
}

interface StoredTable {
  readonly version: string;
  readonly definition: string;
  readonly seen: boolean;
  /** Null in states that were written before it was noted. */
  readonly dirty: boolean | null;
  readonly held: string | null;
}

function placeOf(row: StoredPlace): Place {
  const ahead = row.ahead === null ? null : (JSON.parse(row.ahead) as { position: PlaceText; watermark: number });
  return {
    position: position(row),
    watermark: row.watermark,
    commit: row.lake_commit > 0 ? { number: row.lake_commit, id: row.lake_id ?? firstFormatId(row.lake_commit) } : null,
    ahead: ahead && { position: position(ahead.position), watermark: ahead.watermark },
  };
}
