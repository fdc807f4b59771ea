import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { wantsTable, type LakeSinkConfig } from '@tributary/config';
import {
  type Bus,
  Fault,
  formatSourcePosition,
  ORIGIN,
  type Position,
  type SnapshotMark,
  type SourcePosition,
  type StoredBatch,
  tableName,
} from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import type { ConnectionConfig } from '@tributary/postgres';
import type { DriverView, Group, Projection, Rewind } from '@tributary/projection';
import { caughtUp } from '../caught-up.ts';
import { resultRows } from '../result-rows.ts';
import { LakeState, placeText } from './lake-state.ts';
import type { LakeStore } from './lake-store.ts';
import type { LakeTable } from './lake-table.ts';
import { type Manifest, Manifests, type ManifestTable } from './manifest.ts';
import { ParquetWriter } from './parquet.ts';
import { rewound } from './rewind.ts';
import { verifyLake, type VerifyLakeOptions } from './verify.ts';
import { verifyLakeResult } from './verify-result.ts';

export interface LakeOptions {
  readonly config: LakeSinkConfig;
  readonly source: string;
  /** Of the source database, to compare with; null where the source is a transform. */
  readonly sourceConnection: ConnectionConfig | null;
  readonly bus: Pick<Bus, 'ask'>;
  readonly store: Pick<LakeStore, 'connect' | 'lock' | 'grow' | 'shrink'>;
  /** Folder of this source's lake. */
  readonly folder: string;
  /** Milliseconds, monotonic: a machine whose clock is set must not stop flushing for as long. */
  readonly now: () => number;
  readonly warn: (facts: object, message: string) => void;
  /**
   * Ends whatever it does when it aborts, in the middle of a statement or between two steps: as a crash there would, so
   * nothing is lost. Files that no manifest names yet are swept later, an open transaction is rolled back.
   */
  readonly cut: AbortSignal;
}

type Tables = Record<string, ManifestTable>;

/**
 * One source in the lake. Two commits, each atomic (I6):
 * - the state (compacted rows, history not yet in Parquet) and its position: one DuckDB transaction per group;
 * - Parquet files and their position: one manifest, every `flush.every` or `flush.bytes`; compaction every `compact.every`.
 * History leaves the state only after the manifest that names its file is there; a crash between the two is seen by the
 * manifest's id.
 *
 * The lake is the truth and the state a cache of this worker: one that does not belong to the newest manifest, because
 * another worker made commits meanwhile or because it is new here, is loaded from the last compaction, and what the lake's
 * history has already is left out of it while the changelog is read again from there.
 */
export class LakeProjection implements Projection {
  readonly #options: LakeOptions;
  readonly #duck: Duck;
  readonly #manifests: Manifests;
  readonly #parquet: ParquetWriter;
  readonly #state: LakeState;
  #open: (() => void) | null = null;
  #unflushedBytes = 0;
  #flushedAt: number;
  #compactedAt: number;
  /** Called once state and history are level. */
  #levelWaiters: { readonly resolve: () => void; readonly reject: (error: Error) => void }[] = [];

  private constructor(options: LakeOptions, duck: Duck) {
    this.#options = options;
    this.#duck = duck;
    this.#manifests = new Manifests(options.folder);
    this.#parquet = new ParquetWriter(duck, options.folder);
    this.#state = new LakeState(duck, options.source);
    this.#flushedAt = options.now();
    this.#compactedAt = options.now();
  }

  static async open(options: LakeOptions): Promise<LakeProjection> {
    const lake = new LakeProjection(options, await options.store.connect(options.cut));
    try {
      await lake.#locked(() => lake.#recover());
    } catch (error) {
      lake.#duck.close();
      throw error;
    }
    return lake;
  }

  async position(): Promise<Position> {
    await this.#rollback();
    return this.#state.place.position;
  }

  held(): ReadonlyMap<string, SourcePosition> {
    return this.#state.held;
  }

  async apply(group: Group): Promise<void> {
    try {
      if (!this.#open) {
        this.#open = await this.#options.store.lock();
        await this.#duck.run('BEGIN');
      }
      for (const batch of group.batches) await this.#batch(batch);
      for (const table of this.#state.tables.values()) await table.flush();
      if (group.partial) return;
      await this.#state.advance(group.after, group.watermark);
      await this.#duck.run('COMMIT');
      for (const batch of group.batches) if (batch.sections.length > 0) this.#unflushedBytes += batch.bytes;
      await this.#maintain();
      await this.#options.store.shrink();
      this.#release();
    } catch (error) {
      await this.#rollback();
      if (error instanceof Fault && error.kind === 'memory_full') await this.#grow();
      throw error;
    }
  }

  /** The next attempt has more. */
  async #grow(): Promise<void> {
    const bytes = await this.#options.store.grow();
    const { source, warn } = this.#options;
    if (bytes !== null)
      warn({ source, memoryBytes: bytes }, 'a transaction needs more memory than a lake has; it has more until that is through');
  }

  /** An empty commit, then an empty state: between the two the state does not belong to the newest commit, and is loaded empty. */
  async reset(): Promise<void> {
    await this.#rollback();
    await this.#locked(async () => {
      const manifest = this.#manifest({}, { position: ORIGIN, watermark: 0, compacted: null });
      await this.#manifests.commit(manifest);
      await this.#state.load(manifest, this.#options.folder);
      this.#unflushedBytes = 0;
    });
  }

  /**
   * The state is written down as it is; then one commit says that it is to be read on from `to`, with the history behind it
   * cut, except of kept tables. The state becomes what that commit says by being loaded, here or after a crash.
   * A state that the lake's history is ahead of may go only where it cannot go on anyway: between the two commits the
   * history is said to end where the state stands.
   */
  async rewind(rewind: Rewind): Promise<void> {
    await this.#rollback();
    await this.#locked(async () => {
      const { source, folder } = this.#options;
      if (this.#state.place.ahead && !rewind.foreign)
        throw new Fault('outside_history', `the lake of ${source} is still being loaded: ask again when it has caught up`);
      await this.#compact();
      const commit = this.#nextCommit();
      const tables = await rewound((await this.#newest()).tables, rewind, {
        held: this.#state.held,
        cut: (name, files, behind) => this.#parquet.cut({ name }, files, { behind, commit }),
      });
      const { to, watermark } = rewind;
      const manifest = this.#manifest(tables, { position: to, watermark, compacted: { position: placeText(to), watermark } });
      await this.#manifests.commit(manifest);
      await this.#state.load(manifest, folder);
      this.#unflushedBytes = 0;
    });
  }

  async close(): Promise<void> {
    const stopped = new Fault('not_found', `the lake of ${this.#options.source} stopped`);
    for (const waiter of this.#levelWaiters.splice(0)) waiter.reject(stopped);
    await this.#rollback();
    // A compaction that somebody asked for has its turn beside the driver.
    await this.#locked(async () => this.#duck.close());
  }

  facts(): Record<string, unknown> {
    const { commit, ahead } = this.#state.place;
    return { lakeCommit: commit?.number ?? 0, tables: this.#state.tables.size, loading: ahead !== null };
  }

  commands(driver: DriverView): Record<string, (question: unknown) => AsyncIterable<unknown>> {
    const { config, source, sourceConnection, store, bus } = this.#options;
    const compact = (table?: string) => this.#compactNow(table);
    const currentOf = (name: string) => this.#currentOf(name);
    const wanted = ({ tables, ...ask }: VerifyLakeOptions['ask']) => ({
      ...ask,
      tables: tables.filter((table) => wantsTable(config, source, table)),
    });
    const given = (question: unknown) => ({
      sink: config.name,
      source,
      store,
      ask: wanted(question as VerifyLakeOptions['ask']),
      reached: (seq: number) => driver.reached(seq),
      currentOf,
      signal: driver.signal,
    });
    const verify = (question: unknown) =>
      sourceConnection
        ? verifyLake(sourceConnection, {
            ...given(question),
            compact: () => compact(),
            caughtUp: () => caughtUp(bus, source, (seq) => driver.reached(seq)),
          })
        : verifyLakeResult({
            ...given(question),
            atRest: (work) => this.#compactNow(undefined, work),
            rowsAt: (tables, at) => resultRows(bus, source, { tables, at }),
          });
    const compacted = (tables: readonly string[]) => this.#compactedOf(tables);
    return {
      compacted: async function* (question: unknown) {
        yield await compacted((question as { tables: readonly string[] }).tables);
      },
      compact: async function* (question: unknown) {
        await compact((question as { table?: string }).table);
        yield { done: true };
      },
      verify,
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
      const table = await this.#state.table(section.schema, section.schemaVersion);
      await this.#state.touch(name);
      await table.write(section, batch, this.#state.place.ahead?.position ?? null);
    }
    if (mark?.step === 'end' && wants(mark.table)) {
      const table = this.#state.tables.get(mark.table);
      if (table?.seen) await this.#seen(table, () => table.endSeen(!mark.reset));
    }
  }

  async #beginSnapshot(mark: SnapshotMark): Promise<void> {
    const table = this.#state.tables.get(mark.table);
    if (!table) return;
    if (mark.reset) {
      await this.#seen(table, () => table.endSeen(false));
      await table.empty();
    } else if (table.key.length > 0) {
      await this.#seen(table, () => table.beginSeen());
    }
  }

  async #seen(table: LakeTable, change: () => Promise<void>): Promise<void> {
    await this.#state.touch(table.name);
    await change();
    await this.#state.noteSeen(table);
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
      // Cut off: nobody asks any more, and it is read anew when it is opened again.
      if (!this.#options.cut.aborted) await this.#state.read();
    } finally {
      this.#release();
    }
  }

  async #locked<T>(work: () => Promise<T>): Promise<T> {
    const release = await this.#options.store.lock();
    try {
      return await work();
    } finally {
      release();
    }
  }

  async #maintain(): Promise<void> {
    // While the state is behind the lake's history there is nothing new to commit.
    if (this.#state.place.ahead) return;
    for (const waiter of this.#levelWaiters.splice(0)) waiter.resolve();
    const { flush, compact } = this.#options.config;
    const now = this.#options.now();
    if (this.#unflushedBytes > 0 && (now - this.#flushedAt >= flush.everyMs || this.#unflushedBytes >= flush.bytes))
      await this.#flushHistory();
    if (this.#state.dirty.size > 0 && now - this.#compactedAt >= compact.everyMs) await this.#compact();
  }

  /** History that came since the last time goes to Parquet: files, then the manifest, then the state lets go of it. */
  async #flushHistory(): Promise<void> {
    const { previous, tables } = await this.#newest();
    for (const table of this.#state.tables.values()) {
      const file = await this.#parquet.history(table, this.#nextCommit());
      const known = tables[table.name];
      if (!file && !known) continue;
      tables[table.name] = {
        schema: table.schema,
        changes: [...(known?.changes ?? []), ...(file ? [file] : [])],
        current: known?.current ?? null,
        exact: known?.exact ?? null,
      };
    }
    await this.#commitManifest(tables, { compacted: previous?.compacted ?? null, names: [] });
    this.#unflushedBytes = 0;
    this.#flushedAt = this.#options.now();
  }

  /** What the newest commit names, to be changed; whether it is still ours is checked when the next is made. */
  async #newest(): Promise<{ previous: Manifest | null; tables: Tables }> {
    const previous = await this.#manifests.latest();
    return { previous, tables: { ...previous?.tables } };
  }

  #nextCommit(): number {
    return (this.#state.place.commit?.number ?? 0) + 1;
  }

  #manifest(tables: Tables, at: { position: Position; watermark: number; compacted: Manifest['compacted'] }): Manifest {
    return {
      format: 2,
      source: this.#options.source,
      commit: this.#nextCommit(),
      id: randomUUID(),
      follows: this.#state.place.commit?.id ?? null,
      position: placeText(at.position),
      watermark: at.watermark,
      compacted: at.compacted,
      tables,
    };
  }

  /** @param names tables whose compacted files are new */
  async #commitManifest(
    tables: Tables,
    { compacted, names }: { compacted: Manifest['compacted']; names: Iterable<string> },
  ): Promise<void> {
    const { position, watermark } = this.#state.place;
    const manifest = this.#manifest(tables, { position, watermark, compacted });
    await this.#manifests.commit(manifest);
    await this.#state.committed(manifest, names);
  }

  async #compact(): Promise<void> {
    if (this.#unflushedBytes > 0 || !this.#state.place.commit) await this.#flushHistory();
    const { tables } = await this.#newest();
    const { position, watermark } = this.#state.place;
    const at = placeText(position);
    const names = [...this.#state.dirty];
    for (const name of names) {
      const table = this.#state.tables.get(name);
      if (table) tables[name] = await this.#compactTable(table, tables[name]?.changes ?? [], at);
    }
    await this.#commitManifest(tables, { compacted: { position: at, watermark }, names });
    await this.#manifests.sweep();
    this.#compactedAt = this.#options.now();
  }

  async #compactTable(
    table: LakeTable,
    changes: ManifestTable['changes'],
    position: Manifest['position'],
  ): Promise<ManifestTable> {
    const { schema, version } = table;
    const commit = this.#nextCommit();
    const { file, exact: lossy } = await this.#parquet.current(table, commit);
    await this.#state.makeView(table, lossy);
    const exact = await this.#parquet.exact(table, commit);
    const held = this.#state.held.get(table.name);
    return {
      schema,
      changes: await this.#parquet.merge(table, changes, commit),
      current: { ...file, position: { seq: position.seq, lsn: position.lsn } },
      exact: {
        ...exact.file,
        schema,
        version,
        lossy: [...lossy],
        seen: exact.seen,
        held: held ? formatSourcePosition(held) : null,
      },
    };
  }

  /** @param also is done before anything is written again @returns the position of what is compacted */
  async #compactNow(name?: string, also?: () => Promise<void>): Promise<Position> {
    if (this.#state.place.ahead) await new Promise<void>((resolve, reject) => this.#levelWaiters.push({ resolve, reject }));
    return this.#locked(async () => {
      if (name !== undefined && !this.#state.tables.has(name))
        throw new Fault('not_found', `the lake has no table ${name} of ${this.#options.source}`);
      if (this.#state.dirty.size > 0 || this.#unflushedBytes > 0) await this.#compact();
      await also?.();
      return this.#state.place.position;
    });
  }

  /** The compacted changelog, for who wants to begin with it: tables of which no snapshot runs. */
  async #compactedOf(names: readonly string[]): Promise<object> {
    const manifest = await this.#manifests.latest();
    const tables = names.flatMap((name) => {
      const exact = manifest?.tables[name]?.exact;
      if (!exact || exact.seen || exact.held) return [];
      return [{ name, schema: exact.schema, version: exact.version, path: `${this.#options.folder}/${exact.path}` }];
    });
    return { position: manifest?.compacted?.position ?? null, watermark: manifest?.compacted?.watermark ?? 0, tables };
  }

  async #currentOf(name: string): Promise<{ table: LakeTable; parquet: string | null } | null> {
    const table = this.#state.tables.get(name);
    if (!table) return null;
    const file = (await this.#manifests.latest())?.tables[name]?.current;
    return { table, parquet: file ? `${this.#options.folder}/${file.path}` : null };
  }

  /** Brings the state to the lake's newest commit, whatever ended the last run and whoever made that commit. */
  async #recover(): Promise<void> {
    const { source, folder, warn } = this.#options;
    const manifest = await this.#manifests.latest();
    const there = await this.#state.read();
    const { commit, position, ahead } = this.#state.place;
    const at = placeText(position);
    const madeHere = there && !ahead && manifest?.follows === (commit?.id ?? null) && isDeepStrictEqual(manifest?.position, at);
    if (manifest && madeHere) await this.#state.committed(manifest, []);
    else if (!there || (manifest?.id ?? null) !== (commit?.id ?? null)) {
      if (there && commit) {
        warn(
          { source, state: commit.number, lake: manifest?.commit ?? 0 },
          "the state is not that of the lake's newest commit: it is loaded from there",
        );
      }
      await this.#state.load(manifest, folder);
    }
    this.#unflushedBytes = (await this.#state.hasHistory()) ? 1 : 0;
  }
}
