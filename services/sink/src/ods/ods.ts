import type { Changelogs } from '@tributary/changelog';
import { historySchema, targetSchema, wantsTable, type OdsSinkConfig } from '@tributary/config';
import {
  type Bus,
  Fault,
  type Part,
  partName,
  type Position,
  type Section,
  type SnapshotMark,
  type SourcePosition,
  type StoredBatch,
  tableName,
  ORIGIN,
} from '@tributary/core';
import { type ConnectionConfig, quoteIdent, quoteLiteral, quoteTable, Session, sqlState } from '@tributary/postgres';
import type { Accepted, DriverView, Group, Projection, Rewind } from '@tributary/projection';
import { caughtUp } from '../caught-up.ts';
import { resultRows } from '../result-rows.ts';
import { asReplica, Constraints, withAdvice } from './constraints.ts';
import { settleLayout } from './layout.ts';
import { about, flush, type Taken, takeAll } from './flush.ts';
import { live } from './marks.ts';
import { MergedTable } from './merged-table.ts';
import { type Place, setUp, StoredPosition } from './place.ts';
import { Shares } from './shares.ts';
import { TableWriter } from './table-writer.ts';
import { type TargetTable, TargetTables } from './target-table.ts';
import { TargetTypes } from './target-types.ts';
import { verifyOds, type VerifyOdsOptions } from './verify.ts';
import { verifyResult } from './verify-result.ts';
import { type Moment, momentOf, rightBefore } from './versions.ts';

export interface OdsOptions {
  readonly config: OdsSinkConfig;
  readonly source: string;
  /** Of the source database, to compare with; null where the source is a transform. */
  readonly sourceConnection: ConnectionConfig | null;
  readonly bus: Pick<Bus, 'ask'>;
  /** The part of the source's tables that this projection applies. */
  readonly part: Part;
  readonly changelogs: Pick<Changelogs, 'read' | 'deadLetters'>;
  /** A smaller group has nothing waiting behind it: it is written before the next one is taken, so that changes are seen as early as can be. */
  readonly overlapBytes: number;
  /** Cuts its sessions when it aborts: the target rolls back, and nothing is lost. */
  readonly cut: AbortSignal;
}

/** Parts of one projection share schemas and types: they make them one after the other. */
const SHAPE_LOCK = 7_215_004;

/** SQLSTATE of a relation that is not there. */
const UNDEFINED_TABLE = '42P01';

/**
 * One source in the operational data store, or one part of its tables: the same tables with the same types, transaction by
 * transaction.
 *
 * I6 All tables and the position are written by one SQL transaction per group. A transaction larger than a group keeps
 * that SQL transaction open over several groups, so nobody ever sees half of it. The commit need not wait for the disk:
 * rows and position are lost together, and then applied again. Where foreign keys of the owner do not hold yet it stays open
 * as well ({@link Constraints}), and what it holds counts as applied when it is committed. Also where groups overlap each is a transaction of
 * its own, in order: one begins when the one before it is committed.
 */
export class OdsProjection implements Projection {
  readonly #options: OdsOptions;
  readonly #place: Place;
  readonly #session: Session;
  readonly #side: Session;
  readonly #types: TargetTypes;
  readonly #tables: TargetTables;
  readonly #position: StoredPosition;
  readonly #shares: Shares;
  /** Is a table chosen by the sink's `from`? Asked for every section of the changelog, so the answers are kept. */
  readonly #chosen = new Map<string, boolean>();
  #writers = new Map<string, TableWriter>();
  readonly #constraints: Constraints;
  #open = false;
  /** The group that is being written, beside which the next one is folded. */
  #writing: Promise<void> = Promise.resolve();
  #busy = false;
  /** Groups that are applied and not committed. */
  #pending: Pending | null = null;
  #held: ReadonlyMap<string, SourcePosition> = new Map();

  private constructor(options: OdsOptions, place: Place, { session, side }: Sessions) {
    this.#options = options;
    this.#place = place;
    this.#session = session;
    this.#side = side;
    this.#position = new StoredPosition(place, session);
    this.#shares = new Shares(place, side);
    this.#constraints = new Constraints(session);
    const { config, source } = options;
    const schemaOf = (schema: string) => targetSchema(source, schema, config.schema);
    const { merge } = config;
    const mergedOf = (schema: string) => targetSchema(source, schema, merge?.into);
    this.#types = new TargetTypes(merge ? mergedOf : schemaOf);
    const merged =
      merge && new MergedTable({ sink: config.name, shard: source, column: merge.shard, types: this.#types, schemaOf: mergedOf });
    this.#tables = new TargetTables({
      sink: config.name,
      source,
      types: this.#types,
      schemaOf,
      merged: merged ?? null,
      adopts: config.existing === 'adopt',
      checksKeys: config.foreignKeys === 'check',
      history: config.history,
      marks: config.softDelete,
    });
  }

  /** Shares the tables out anew first when they are not shared among as many parts as wanted: see {@link settleLayout}. */
  static async open(options: OdsOptions): Promise<OdsProjection> {
    const { config, source, part, changelogs, cut } = options;
    const sessions = await openSessions(options, part);
    try {
      await setUp(sessions.side);
      const layout = await settleLayout({
        sink: config.name,
        source,
        parts: part.of,
        session: sessions.side,
        changelogs,
        signal: cut,
        openPart: async (old, oldLayout) => {
          const own = await openSessions(options, old);
          return OdsProjection.#at(options, { part: old, layout: oldLayout }, own);
        },
      });
      return await OdsProjection.#at(options, { part, layout }, sessions);
    } catch (error) {
      await sessions.session.close();
      await sessions.side.close();
      throw error;
    }
  }

  static async #at(
    options: OdsOptions,
    { part, layout }: Pick<Place, 'part' | 'layout'>,
    sessions: Sessions,
  ): Promise<OdsProjection> {
    const place = { sink: options.config.name, source: options.source, part, layout };
    const projection = new OdsProjection(options, place, sessions);
    await projection.#shares.load();
    return projection;
  }

  async position(): Promise<Position> {
    // What is under way may still succeed, and what failed was told.
    await this.#writing.catch(() => {});
    this.#writing = Promise.resolve();
    await this.#rollback();
    this.#held = await this.#tables.held(this.#session);
    return this.#position.read();
  }

  wants(table: string): boolean {
    let chosen = this.#chosen.get(table);
    if (chosen === undefined) this.#chosen.set(table, (chosen = wantsTable(this.#options.config, this.#options.source, table)));
    return chosen && this.#shares.mayOwn(table);
  }

  /**
   * A large group that asks nothing of the target before it is written is folded while the one before it is being written, so that neither PostgreSQL
   * nor this process waits for the other.
   */
  async apply(group: Group): Promise<Accepted | null> {
    if (this.#overlaps(group)) return this.#overlapped(group);
    await this.#writing;
    try {
      if (!this.#open) await this.#session.run('BEGIN');
      this.#open = true;
      for (const batch of group.batches) await this.#batch(batch);
      await flush(takeAll(this.#writers.values()));
      if (group.partial) return null;
      if (group.holds) await this.#tables.hold(this.#session, group.holds.table, group.holds.until);
      // What is taken back from quarantine is complete: nothing comes behind it.
      if (!(await this.#constraints.hold({ waits: !group.holds }))) return { settled: (this.#pending ??= pending()).settled };
      await this.#commit(group);
      this.#constraints.ended();
      this.#pending?.committed();
      this.#pending = null;
      return null;
    } catch (error) {
      throw await this.#failed(error);
    }
  }

  async #overlapped(group: Group): Promise<Accepted> {
    for (const { sections } of group.batches)
      for (const section of sections) this.#writers.get(tableName(section.schema))?.fold(section);
    const taken = takeAll(this.#writers.values());
    // Where that fails nothing is written any more before the position is read again.
    await this.#writing;
    const writing = this.#write(group, taken);
    // Told by `settled`, and to whoever waits for it here.
    writing.catch(() => {});
    this.#writing = writing;
    return { settled: writing };
  }

  /** Can all of it be folded before anything is asked of the target? The owner of each table was asked for it before. */
  #overlaps({ batches, partial, holds, alone }: Group): boolean {
    if (partial || holds || alone || (this.#open && !this.#busy)) return false;
    if (batches.reduce((sum, { bytes }) => sum + bytes, 0) < this.#options.overlapBytes) return false;
    return batches.every(({ header, sections }) => {
      const folds = (section: Section) => {
        const writer = this.#writers.get(tableName(section.schema));
        return writer?.table.version === section.schemaVersion && writer.foldable(section);
      };
      return !header.mark && sections.every(folds);
    });
  }

  async #write(group: Group, taken: readonly Taken[]): Promise<void> {
    this.#busy = true;
    try {
      await this.#session.run('BEGIN');
      this.#open = true;
      await flush(taken);
      await this.#commit(group);
    } catch (error) {
      throw await this.#failed(error);
    } finally {
      this.#busy = false;
    }
  }

  async #commit({ after, watermark }: Group): Promise<void> {
    await this.#position.save(after, watermark);
    await this.#session.run('COMMIT');
    this.#open = false;
    this.#position.saved(after);
    this.#types.committed();
  }

  async #failed(error: unknown): Promise<unknown> {
    const failed = sqlState(error) === UNDEFINED_TABLE ? dropped(error as Fault) : withAdvice(error, this.#options.config.name);
    await this.#rollback(failed);
    return failed;
  }

  async reset(): Promise<void> {
    await this.#rollback();
    await this.#session.transaction('', async () => {
      for (const name of await this.#ownNames()) await this.#tables.remove(this.#session, name);
      await this.#position.reset();
    });
    this.#position.saved(ORIGIN);
    this.#tables.forget();
    this.#types.forget();
    this.#writers.clear();
    this.#held = new Map();
  }

  held(): ReadonlyMap<string, SourcePosition> {
    return this.#held;
  }

  async rewind({ watermark, ...rest }: Rewind): Promise<void> {
    await this.#rollback();
    await this.#session.transaction('', async () => {
      const names = await this.#ownNames();
      await this.#tables.rewind(this.#session, { names, ...rest });
      await this.#position.save(rest.to, watermark);
    });
    this.#tables.forget();
    this.#writers.clear();
  }

  async close(): Promise<void> {
    await this.#writing.catch(() => {});
    await this.#session.close();
    await this.#side.close();
  }

  facts(): Record<string, unknown> {
    return { target: this.#options.config.postgres.database };
  }

  commands(driver: DriverView): Record<string, (question: unknown) => AsyncIterable<unknown>> {
    const { config, source, sourceConnection, bus } = this.#options;
    const given: Omit<VerifyOdsOptions, 'ask' | 'caughtUp'> = {
      verifies: (table: string) => this.#owns(table),
      sink: config.name,
      source,
      to: config.postgres,
      targetOf: ({ schema, table }) => {
        const { merge } = config;
        const own = targetSchema(source, schema, config.schema);
        const target = quoteTable(merge ? targetSchema(source, schema, merge.into) : own, table);
        const where = [
          ...(merge ? [`${quoteIdent(merge.shard)} = ${quoteLiteral(source)}`] : []),
          ...(config.softDelete ? [live()] : []),
        ];
        return {
          target,
          ...(where.length > 0 ? { where: where.join(' AND ') } : {}),
          ...(config.history ? { history: quoteTable(historySchema(own), table) } : {}),
        };
      },
      signal: driver.signal,
    };
    return {
      verify: (question: unknown) => {
        const options = { ...given, ask: question as VerifyOdsOptions['ask'] };
        if (sourceConnection)
          return verifyOds(sourceConnection, {
            ...options,
            caughtUp: () => caughtUp(bus, source, (seq) => driver.reached(seq)),
          });
        return verifyResult({
          ...options,
          rowsAt: (tables, at) => resultRows(bus, source, { tables, at }),
          positionIn: (session) => new StoredPosition(this.#place, session).read(),
        });
      },
    };
  }

  async #rollback(reason: unknown = new Fault('fenced', 'what was not committed is applied again')): Promise<void> {
    if (this.#open && !this.#session.broken) await this.#session.run('ROLLBACK').catch(() => {});
    if (this.#open) {
      this.#tables.forget();
      this.#types.forget();
    }
    this.#open = false;
    this.#writers.clear();
    this.#constraints.ended();
    this.#pending?.failed(reason);
    this.#pending = null;
  }

  async #batch(batch: StoredBatch): Promise<void> {
    const { mark } = batch.header;
    if (mark) this.#constraints.snapshot(mark.table, mark.step);
    const { header } = batch;
    if (mark && mark.step === 'begin' && (await this.#owns(mark.table))) await this.#beginSnapshot(mark, momentOf(header));
    for (const section of batch.sections) {
      const name = tableName(section.schema);
      if (!(await this.#owns(name))) continue;
      let writer = this.#writers.get(name);
      if (writer && writer.table.version !== section.schemaVersion) {
        const before = writer;
        await about(name, () => before.flush());
        writer = undefined;
      }
      writer ??= await this.#writer(
        name,
        { schema: section.schema, version: section.schemaVersion },
        rightBefore(momentOf(header, section)),
      );
      const own = writer;
      await this.#defer(own.table);
      // What comes with a snapshot is written at once: what it may refer to goes before.
      if (section.csv && own.table.tied) await flush(takeAll(this.#writers.values()));
      await about(name, () => own.write(section, header));
    }
    if (mark && mark.step === 'end' && !mark.reset && (await this.#owns(mark.table)))
      await this.#endSnapshot(mark, momentOf(header));
  }

  async #defer(table: TargetTable): Promise<void> {
    if (table.deferrable) await this.#constraints.defer();
  }

  /** Tables made so far. Those of other parts are not even looked at: they may be dropped at this moment. */
  async #ownNames(): Promise<string[]> {
    const own: string[] = [];
    for (const name of await this.#tables.names(this.#session)) if (await this.#shares.owns(name)) own.push(name);
    return own;
  }

  async #owns(table: string): Promise<boolean> {
    return this.wants(table) && (await this.#shares.owns(table));
  }

  async #writer(name: string, shape: Parameters<TargetTables['ensure']>[1], at: Moment): Promise<TableWriter> {
    const { config, source, part } = this.#options;
    // Held until this transaction ends, so only where something is to be made: it may wait for somebody's lock on a table.
    if (part.of > 1 && !(await this.#tables.has(this.#session, name, shape.version))) {
      await this.#session.run('SELECT pg_advisory_xact_lock($1, hashtext($2))', [SHAPE_LOCK, `${config.name}/${source}`]);
    }
    const sessions = { session: this.#session, side: this.#side };
    const table = await this.#tables.ensure(sessions, shape, at);
    const writer = new TableWriter(table, { ...sessions, types: this.#types });
    this.#writers.set(name, writer);
    return writer;
  }

  /** A table as it was made before; null when no row of it has come yet. */
  async #known(name: string, at: Moment): Promise<TableWriter | null> {
    const writer = this.#writers.get(name);
    if (writer) {
      await writer.flush();
      return writer;
    }
    const table = await this.#tables.find(this.#session, name);
    return table && this.#writer(name, { schema: table.schema, version: table.version }, rightBefore(at));
  }

  async #beginSnapshot({ table: name, reset }: SnapshotMark, at: Moment): Promise<void> {
    const writer = await this.#known(name, at);
    if (!writer) return;
    if (reset && !(writer.table.adopted && writer.table.key.length > 0)) {
      await this.#tables.endSeen(this.#session, writer.table);
      await writer.reset(at);
    } else if (writer.table.key.length > 0) {
      await this.#tables.beginSeen(this.#session, writer.table);
    }
  }

  /** Rows that neither the snapshot nor the stream named since it began are gone. */
  async #endSnapshot({ table: name }: SnapshotMark, at: Moment): Promise<void> {
    const writer = await this.#known(name, at);
    if (!writer?.table.seen) return;
    await this.#defer(writer.table);
    if (writer.table.tied) await flush(takeAll(this.#writers.values()));
    await writer.sweep(at);
    await this.#tables.endSeen(this.#session, writer.table);
  }
}

interface Pending {
  readonly settled: Promise<void>;
  readonly committed: () => void;
  readonly failed: (reason: unknown) => void;
}

function pending(): Pending {
  let committed = () => {};
  let failed: Pending['failed'] = () => {};
  const settled = new Promise<void>((resolve, reject) => {
    committed = resolve;
    failed = reject;
  });
  return { settled, committed, failed };
}

interface Sessions {
  readonly session: Session;
  /** For what must not be part of the transaction. */
  readonly side: Session;
}

/**
 * A plan that does not know how many rows a parameter holds finds them by the table's key. One made for the first groups, of thousands of
 * rows, reads the whole table for each (measured on 500,000 rows that were never analyzed: a hash join that spills, six times as long).
 */
const ONE_PLAN = { plan_cache_mode: 'force_generic_plan' };

/**
 * Nearly every version of a new table is an open one, which PostgreSQL does not know before it has analyzed it: it would read all of them to
 * find those of a few thousand keys (measured on a table that grows by 20,000 rows at a time: 1.3 s and rising for what takes 0.1 s), or lay aside
 * the few that it expects and look through all of them for every row (a snapshot of 500,000 rows: more than 9 s for a chunk; 5,000 rows now take 11 ms).
 */
const VERSIONS_BY_INDEX = { enable_hashjoin: 'off', enable_mergejoin: 'off', enable_material: 'off' };

async function openSessions({ config, source, cut }: OdsOptions, part: Part): Promise<Sessions> {
  // With the number of parts: part 1 of 4 that is brought forward is no namesake of part 1 of 2 that waits for it.
  const name = `${partName(`${config.name}/${source}`, part)}${part.of === 1 ? '' : `/${part.of}`}`;
  const opened: Session[] = [];
  const settings = { synchronous_commit: 'off', ...ONE_PLAN, ...(config.history ? VERSIONS_BY_INDEX : {}) };
  try {
    const session = await Session.open(config.postgres, { name, settings, cut });
    opened.push(session);
    const side = await Session.open(config.postgres, { name: `${name} side`, cut });
    opened.push(side);
    for (const one of opened) await one.evictNamesakes();
    if (config.foreignKeys === 'replica') await asReplica(session, config.name);
    return { session, side };
  } catch (error) {
    for (const one of opened) await one.close();
    throw error;
  }
}

/** Somebody dropped a table of ours while it was in use: it is made anew at the next start. */
function dropped(error: Fault): Fault {
  return new Fault('target_dropped', error.message, error.facts, { cause: error.cause });
}
