import { wantsTable, targetSchema, type LakeSinkConfig } from '@tributary/config';
import {
  compareSourcePosition,
  Fault,
  formatLsn,
  ORIGIN,
  parseLsn,
  parseSourcePosition,
  type Position,
  type SnapshotMark,
  type SourcePosition,
  type StoredBatch,
  type TableSchema,
  tableName,
} from '@tributary/core';
import { type Duck, duckIdent } from '@tributary/duckdb';
import type { ConnectionConfig } from '@tributary/postgres';
import type { DriverView, Group, Projection, Rewind } from '@tributary/projection';
import type { LakeStore } from './lake-store.ts';
import { LakeTable } from './lake-table.ts';
import { typedList } from './lake-types.ts';
import { type Manifest, Manifests } from './manifest.ts';
import { ParquetWriter } from './parquet.ts';
import { behindSql, heldText, type NotedRewind, noteRewind, positionOf } from './rewind.ts';
import { verifyLake } from './verify.ts';

export interface LakeOptions {
  readonly config: LakeSinkConfig;
  readonly source: string;
  readonly sourceConnection: ConnectionConfig;
  readonly store: LakeStore;
  /** Folder of this source's lake. */
  readonly folder: string;
  readonly now: () => number;
}

/**
 * One source in the lake. Two commits, each atomic (I6):
 * - the state (compacted rows, history not yet in Parquet) and its position: one DuckDB transaction per group;
 * - Parquet files and their position: one manifest, every `flush.every` or `flush.bytes`; compaction every `compact.every`.
 * History leaves the state only after the manifest that names its file is there; a crash between the two is seen by the number.
 */
export class LakeProjection implements Projection {
  readonly #options: LakeOptions;
  readonly #duck: Duck;
  readonly #manifests: Manifests;
  readonly #parquet: ParquetWriter;
  readonly #tables = new Map<string, LakeTable>();
  /** Tables whose compacted state is newer than its Parquet file. */
  readonly #dirty = new Set<string>();
  #open: (() => void) | null = null;
  #commit = 0;
  #unflushedBytes = 0;
  #flushedAt: number;
  #compactedAt: number;
  #position: Position = ORIGIN;
  #watermark = 0;
  #held: ReadonlyMap<string, SourcePosition> = new Map();

  private constructor(options: LakeOptions, duck: Duck) {
    this.#options = options;
    this.#duck = duck;
    this.#manifests = new Manifests(options.folder);
    this.#parquet = new ParquetWriter(duck, options.folder);
    this.#flushedAt = options.now();
    this.#compactedAt = options.now();
  }

  static async open(options: LakeOptions): Promise<LakeProjection> {
    const lake = new LakeProjection(options, await options.store.connect());
    const release = await options.store.lock();
    try {
      await lake.#recover();
    } finally {
      release();
    }
    return lake;
  }

  async position(): Promise<Position> {
    await this.#rollback();
    const [row] = await this.#duck.rows<StoredPosition>('SELECT * FROM _meta.position WHERE source = $1', [this.#options.source]);
    this.#position = row && row.seq > 0 ? { seq: row.seq, lsn: parseLsn(row.lsn), ordinal: row.ordinal } : ORIGIN;
    this.#watermark = row?.watermark ?? 0;
    this.#commit = row?.lake_commit ?? 0;
    this.#held = await this.#heldTables();
    return this.#position;
  }

  held(): ReadonlyMap<string, SourcePosition> {
    return this.#held;
  }

  async apply(group: Group): Promise<void> {
    try {
      if (!this.#open) {
        this.#open = await this.#options.store.lock();
        await this.#duck.run('BEGIN');
      }
      for (const batch of group.batches) await this.#batch(batch);
      for (const table of this.#tables.values()) await table.flush();
      if (group.partial) return;
      await this.#savePosition(group.after, group.watermark);
      await this.#duck.run('COMMIT');
      this.#position = group.after;
      this.#watermark = group.watermark;
      for (const batch of group.batches) if (batch.sections.length > 0) this.#unflushedBytes += batch.bytes;
      await this.#maintain();
      this.#release();
    } catch (error) {
      await this.#rollback();
      throw error;
    }
  }

  async reset(): Promise<void> {
    await this.#rollback();
    const release = await this.#options.store.lock();
    try {
      await this.#duck.run('UPDATE _meta.position SET resetting = true WHERE source = $1', [this.#options.source]);
      await this.#finishReset();
    } finally {
      release();
    }
  }

  /**
   * History behind `to` is let go of, file by file, except of kept tables; it comes again. The state stays. Noted first,
   * so that a crash between the manifest and the state is seen and the rest is done.
   */
  async rewind(rewind: Rewind): Promise<void> {
    await this.#rollback();
    const release = await this.#options.store.lock();
    try {
      if (this.#unflushedBytes > 0) await this.#flushHistory();
      const noted = noteRewind(rewind);
      await this.#duck.run('UPDATE _meta.position SET rewinding = $2 WHERE source = $1', [
        this.#options.source,
        JSON.stringify(noted),
      ]);
      await this.#finishRewind(noted);
    } finally {
      release();
    }
  }

  async close(): Promise<void> {
    await this.#rollback();
    this.#duck.close();
  }

  facts(): Record<string, unknown> {
    return { lakeCommit: this.#commit, tables: this.#tables.size };
  }

  commands(driver: DriverView): Record<string, (question: unknown) => AsyncIterable<unknown>> {
    const { config, source, sourceConnection, store } = this.#options;
    const compact = (table?: string) => this.#compactNow(table);
    const currentOf = (name: string) => this.#currentOf(name);
    return {
      compact: async function* (question: unknown) {
        await compact((question as { table?: string }).table);
        yield { done: true };
      },
      verify: (question: unknown) =>
        verifyLake({
          sink: config.name,
          source,
          from: sourceConnection,
          store,
          ask: question as { tables: readonly string[]; seq: number },
          reached: (seq) => driver.reached(seq),
          compact: () => compact(),
          currentOf,
          signal: driver.signal,
        }),
    };
  }

  async #batch(batch: StoredBatch): Promise<void> {
    const { config, source } = this.#options;
    const { mark } = batch.header;
    const wants = (name: string) => wantsTable(config, source, name);
    if (mark?.step === 'begin' && wants(mark.table)) await this.#beginSnapshot(mark);
    for (const section of batch.sections) {
      const name = tableName(section.schema);
      if (!wants(name)) continue;
      const table = await this.#table(section.schema, section.schemaVersion);
      this.#dirty.add(name);
      await table.write(section, batch);
    }
    if (mark?.step === 'end' && wants(mark.table)) {
      const table = this.#tables.get(mark.table);
      if (table?.seen) await this.#noteSeen(table, () => table.endSeen(!mark.reset));
    }
  }

  async #beginSnapshot(mark: SnapshotMark): Promise<void> {
    const table = this.#tables.get(mark.table);
    if (!table) return;
    this.#dirty.add(mark.table);
    if (mark.reset) {
      await this.#noteSeen(table, () => table.endSeen(false));
      await table.empty();
    } else if (table.key.length > 0) {
      await this.#noteSeen(table, () => table.beginSeen());
    }
  }

  async #noteSeen(table: LakeTable, work: () => Promise<void>): Promise<void> {
    await work();
    await this.#duck.run('UPDATE _meta.tables SET seen = $3 WHERE source = $1 AND name = $2', [
      this.#options.source,
      table.name,
      table.seen,
    ]);
  }

  /** The state of a table in exactly this shape. */
  async #table(schema: TableSchema, version: string): Promise<LakeTable> {
    const name = tableName(schema);
    const known = this.#tables.get(name);
    if (known?.version === version) return known;
    await known?.flush();
    const { source } = this.#options;
    const table = new LakeTable(this.#duck, source, { schema, version, seen: known?.seen ?? false });
    if (known) {
      await this.#duck.run(`DROP VIEW IF EXISTS ${this.#view(schema)}`);
      await table.reshape(known.schema);
      await this.#duck.run('UPDATE _meta.tables SET version = $3, definition = $4 WHERE source = $1 AND name = $2', [
        source,
        name,
        version,
        JSON.stringify(schema),
      ]);
    } else {
      await table.create();
      await this.#duck.run(
        `INSERT INTO _meta.tables (source, name, version, definition, seen, view_schema, view_name)
         VALUES ($1, $2, $3, $4, false, $5, $6)`,
        [source, name, version, JSON.stringify(schema), targetSchema(source, schema.schema), schema.table],
      );
    }
    await this.#makeView(table, new Set());
    this.#tables.set(name, table);
    return table;
  }

  #view(schema: TableSchema): string {
    return `${duckIdent(targetSchema(this.#options.source, schema.schema))}.${duckIdent(schema.table)}`;
  }

  async #makeView(table: LakeTable, exact: ReadonlySet<string>): Promise<void> {
    await this.#duck.run(`CREATE SCHEMA IF NOT EXISTS ${duckIdent(targetSchema(this.#options.source, table.schema.schema))}`);
    await this.#duck.run(
      `CREATE OR REPLACE VIEW ${this.#view(table.schema)} AS SELECT ${typedList(table.columns, exact)} FROM ${table.current}`,
    );
  }

  async #savePosition(after: Position, watermark: number): Promise<void> {
    await this.#duck.run(
      'UPDATE _meta.position SET seq = $2::BIGINT, lsn = $3, ordinal = $4::BIGINT, watermark = $5::BIGINT WHERE source = $1',
      [this.#options.source, String(after.seq), formatLsn(after.lsn), String(after.ordinal), String(watermark)],
    );
  }

  #release(): void {
    const release = this.#open;
    this.#open = null;
    release?.();
  }

  async #rollback(): Promise<void> {
    if (!this.#open) return;
    try {
      await this.#duck.run('ROLLBACK').catch(() => {});
      await this.#loadTables();
    } finally {
      this.#release();
    }
  }

  async #maintain(): Promise<void> {
    const { flush, compact } = this.#options.config;
    const now = this.#options.now();
    if (this.#unflushedBytes > 0 && (now - this.#flushedAt >= flush.everyMs || this.#unflushedBytes >= flush.bytes))
      await this.#flushHistory();
    if (this.#dirty.size > 0 && now - this.#compactedAt >= compact.everyMs) await this.#compact();
  }

  /** History that came since the last time goes to Parquet: files, then the manifest, then the state lets go of it. */
  async #flushHistory(): Promise<void> {
    const previous = await this.#manifests.latest();
    const tables: Record<string, Manifest['tables'][string]> = { ...previous?.tables };
    for (const table of this.#tables.values()) {
      const file = await this.#parquet.history(table, this.#commit + 1);
      const known = tables[table.name];
      if (file || known) {
        tables[table.name] = {
          schema: table.schema,
          changes: [...(known?.changes ?? []), ...(file ? [file] : [])],
          current: known?.current ?? null,
        };
      }
    }
    await this.#commitManifest(tables);
    this.#unflushedBytes = 0;
    this.#flushedAt = this.#options.now();
  }

  async #commitManifest(tables: Manifest['tables']): Promise<void> {
    const { seq, lsn, ordinal } = this.#position;
    const commit = this.#commit + 1;
    await this.#manifests.commit({
      format: 1,
      source: this.#options.source,
      commit,
      position: { seq, lsn: formatLsn(lsn), ordinal },
      watermark: this.#watermark,
      tables,
    });
    await this.#letGo(commit, seq);
  }

  /** The state's half of a commit; repeating it is harmless. */
  async #letGo(commit: number, seq: number): Promise<void> {
    await this.#duck.run('BEGIN');
    for (const table of this.#tables.values()) await this.#duck.run(`DELETE FROM ${table.history} WHERE _seq <= ${seq}`);
    await this.#duck.run('UPDATE _meta.position SET lake_commit = $2 WHERE source = $1', [this.#options.source, commit]);
    await this.#duck.run('COMMIT');
    this.#commit = commit;
  }

  async #compact(): Promise<void> {
    if (this.#unflushedBytes > 0 || this.#commit === 0) await this.#flushHistory();
    const previous = await this.#manifests.latest();
    const tables: Record<string, Manifest['tables'][string]> = { ...previous?.tables };
    for (const name of this.#dirty) {
      const table = this.#tables.get(name);
      if (!table) continue;
      const { file, exact } = await this.#parquet.current(table, this.#commit + 1);
      await this.#makeView(table, exact);
      const changes = await this.#parquet.merge(table, tables[name]?.changes ?? [], this.#commit + 1);
      const position = { seq: this.#position.seq, lsn: formatLsn(this.#position.lsn) };
      tables[name] = { schema: table.schema, changes, current: { ...file, position } };
    }
    await this.#commitManifest(tables);
    await this.#manifests.sweep();
    this.#dirty.clear();
    this.#compactedAt = this.#options.now();
  }

  async #compactNow(name?: string): Promise<void> {
    const release = await this.#options.store.lock();
    try {
      if (name !== undefined && !this.#tables.has(name))
        throw new Fault('not_found', `the lake has no table ${name} of ${this.#options.source}`);
      if (this.#dirty.size > 0 || this.#unflushedBytes > 0) await this.#compact();
    } finally {
      release();
    }
  }

  async #currentOf(name: string): Promise<{ table: LakeTable; parquet: string | null } | null> {
    const table = this.#tables.get(name);
    if (!table) return null;
    const file = (await this.#manifests.latest())?.tables[name]?.current;
    return { table, parquet: file ? `${this.#options.folder}/${file.path}` : null };
  }

  /** Brings state and manifests to the same commit after whatever ended the last run. */
  async #recover(): Promise<void> {
    const { source } = this.#options;
    const [row] = await this.#duck.rows<StoredPosition>('SELECT * FROM _meta.position WHERE source = $1', [source]);
    const manifest = await this.#manifests.latest();
    if (!row) {
      if (manifest) {
        throw new Fault(
          'chain_broken',
          `the lake of ${source} is at commit ${manifest.commit}, but its state is gone from the data folder. Rebuild it: move ${this.#options.folder} away, then start again.`,
        );
      }
      await this.#duck.run(
        `INSERT INTO _meta.position (source, seq, lsn, ordinal, watermark, lake_commit, resetting) VALUES ($1, 0, '0/0', 0, 0, 0, false)`,
        [source],
      );
      return;
    }
    await this.#loadTables();
    if (row.resetting) return this.#finishReset();
    this.#commit = row.lake_commit;
    for (const name of this.#tables.keys()) this.#dirty.add(name);
    if (row.rewinding) return this.#finishRewind(JSON.parse(row.rewinding) as NotedRewind);
    if (manifest && manifest.commit > row.lake_commit) await this.#letGo(manifest.commit, manifest.position.seq);
    this.#unflushedBytes = 1;
    return undefined;
  }

  /** Every step may be done twice: the manifest is made anew unless it was made, and the state's half is one transaction. */
  async #finishRewind(noted: NotedRewind): Promise<void> {
    const { source } = this.#options;
    const to = positionOf(noted);
    const kept = new Set(noted.kept);
    const held = await this.#heldTables();
    const until = parseSourcePosition(noted.until);
    for (const [name, at] of held) if (compareSourcePosition(at, until) > 0) kept.add(name);
    const previous = await this.#manifests.latest();
    if (previous && previous.commit === this.#commit) await this.#cutHistory(previous, noted, kept);
    await this.#duck.run('BEGIN');
    for (const table of this.#tables.values()) {
      const ahead = held.get(table.name);
      if (ahead && compareSourcePosition(ahead, until) > 0) continue;
      const at = kept.has(table.name) ? heldText(until) : null;
      if (!at && table.seen && noted.begun.includes(table.name)) await this.#noteSeen(table, () => table.endSeen(false));
      await this.#duck.run('UPDATE _meta.tables SET held = $3 WHERE source = $1 AND name = $2', [source, table.name, at]);
    }
    this.#commit = previous ? ((await this.#manifests.latest())?.commit ?? 0) : 0;
    await this.#savePosition(to, noted.watermark);
    await this.#duck.run('UPDATE _meta.position SET lake_commit = $2, rewinding = NULL WHERE source = $1', [
      source,
      this.#commit,
    ]);
    await this.#duck.run('COMMIT');
    for (const name of this.#tables.keys()) this.#dirty.add(name);
    this.#unflushedBytes = 0;
  }

  async #cutHistory(previous: Manifest, noted: NotedRewind, kept: ReadonlySet<string>): Promise<void> {
    const commit = previous.commit + 1;
    const behind = behindSql(positionOf(noted));
    const tables: Record<string, Manifest['tables'][string]> = {};
    for (const [name, table] of Object.entries(previous.tables)) {
      const changes = kept.has(name) ? table.changes : await this.#parquet.cut({ name }, table.changes, { behind, commit });
      tables[name] = { ...table, changes };
    }
    await this.#manifests.commit({ ...previous, commit, position: noted.to, watermark: noted.watermark, tables });
  }

  async #heldTables(): Promise<Map<string, SourcePosition>> {
    const rows = await this.#duck.rows<{ name: string; held: string }>(
      'SELECT name, held FROM _meta.tables WHERE source = $1 AND held IS NOT NULL',
      [this.#options.source],
    );
    return new Map(rows.map(({ name, held }) => [name, parseSourcePosition(held)]));
  }

  async #finishReset(): Promise<void> {
    const { source } = this.#options;
    await this.#manifests.reset();
    await this.#duck.run('BEGIN');
    for (const table of this.#tables.values()) {
      await this.#duck.run(`DROP VIEW IF EXISTS ${this.#view(table.schema)}`);
      await table.drop();
    }
    await this.#duck.run('DELETE FROM _meta.tables WHERE source = $1', [source]);
    await this.#duck.run(
      `UPDATE _meta.position SET seq = 0, lsn = '0/0', ordinal = 0, watermark = 0, lake_commit = 0, resetting = false, rewinding = NULL WHERE source = $1`,
      [source],
    );
    await this.#duck.run('COMMIT');
    this.#tables.clear();
    this.#dirty.clear();
    this.#commit = 0;
    this.#unflushedBytes = 0;
    this.#held = new Map();
  }

  async #loadTables(): Promise<void> {
    const { source } = this.#options;
    this.#tables.clear();
    const rows = await this.#duck.rows<{ version: string; definition: string; seen: boolean }>(
      'SELECT version, definition, seen FROM _meta.tables WHERE source = $1',
      [source],
    );
    for (const row of rows) {
      const schema = JSON.parse(row.definition) as TableSchema;
      const table = new LakeTable(this.#duck, source, { schema, version: row.version, seen: row.seen });
      this.#tables.set(table.name, table);
    }
  }
}

interface StoredPosition {
  readonly seq: number;
  readonly lsn: string;
  readonly ordinal: number;
  readonly watermark: number;
  readonly lake_commit: number;
  readonly resetting: boolean;
  /** A {@link NotedRewind} that is not finished; null = none. */
  readonly rewinding: string | null;
}
