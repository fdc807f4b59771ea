import { targetSchema, wantsTable, type OdsSinkConfig } from '@tributary/config';
import {
  Fault,
  formatLsn,
  ORIGIN,
  parseLsn,
  type Position,
  type SnapshotMark,
  type SourcePosition,
  type StoredBatch,
  tableName,
} from '@tributary/core';
import { type ConnectionConfig, Session } from '@tributary/postgres';
import type { DriverView, Group, Projection, Rewind } from '@tributary/projection';
import { TableWriter } from './table-writer.ts';
import { TargetTables } from './target-table.ts';
import { TargetTypes } from './target-types.ts';
import { verifyOds } from './verify.ts';

export interface OdsOptions {
  readonly config: OdsSinkConfig;
  readonly source: string;
  /** Of the source database, to compare with. */
  readonly sourceConnection: ConnectionConfig;
}

/** Any number that only we use: what protects the making of our own tables from doing it twice at once. */
const SETUP_LOCK = 7_215_001;

const SETUP = `
CREATE SCHEMA IF NOT EXISTS tributary;
CREATE TABLE IF NOT EXISTS tributary.position (
  sink text, source text, seq bigint NOT NULL, lsn pg_lsn NOT NULL, ordinal bigint NOT NULL, watermark timestamptz,
  applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (sink, source));
CREATE TABLE IF NOT EXISTS tributary.tables (
  sink text, source text, name text, target text NOT NULL, version text NOT NULL, definition jsonb NOT NULL, seen text,
  PRIMARY KEY (sink, source, name));
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = 'tributary.tables'::regclass AND attname = 'held_lsn') THEN
    ALTER TABLE tributary.tables ADD COLUMN held_lsn pg_lsn, ADD COLUMN held_ordinal bigint;
  END IF;
  IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = 'tributary.position'::regclass AND attname = 'epoch') THEN
    ALTER TABLE tributary.position ADD COLUMN epoch text;
  END IF;
END $$`;

/**
 * One source in the operational data store: the same tables with the same types, transaction by transaction.
 *
 * I6 All tables and the position are written by one SQL transaction per group. A transaction larger than a group keeps
 * that SQL transaction open over several groups, so nobody ever sees half of it. The commit need not wait for the disk:
 * rows and position are lost together, and then applied again.
 */
export class OdsProjection implements Projection {
  readonly #options: OdsOptions;
  readonly #session: Session;
  readonly #side: Session;
  readonly #types: TargetTypes;
  readonly #tables: TargetTables;
  #writers = new Map<string, TableWriter>();
  #open = false;
  #seq = 0;
  #held: ReadonlyMap<string, SourcePosition> = new Map();

  private constructor(options: OdsOptions, session: Session, side: Session) {
    this.#options = options;
    this.#session = session;
    this.#side = side;
    const { config, source } = options;
    const schemaOf = (schema: string) => targetSchema(source, schema, config.schema);
    this.#types = new TargetTypes(schemaOf);
    this.#tables = new TargetTables({ sink: config.name, source, types: this.#types, schemaOf });
  }

  static async open(options: OdsOptions): Promise<OdsProjection> {
    const { config, source } = options;
    const name = `${config.name}/${source}`;
    const session = await Session.open(config.postgres, { name, settings: { synchronous_commit: 'off' } });
    const side = await Session.open(config.postgres, { name: `${name} side` });
    try {
      await session.evictNamesakes();
      await side.evictNamesakes();
      await side.transaction('', async () => {
        await side.run(`SELECT pg_advisory_xact_lock(${SETUP_LOCK})`);
        await side.run(SETUP);
      });
    } catch (error) {
      await session.close();
      await side.close();
      throw error;
    }
    return new OdsProjection(options, session, side);
  }

  async position(): Promise<Position> {
    await this.#rollback();
    const { config, source } = this.#options;
    const [row] = await this.#session.rows<{ seq: string; lsn: string; ordinal: string; epoch: string | null }>(
      'SELECT seq, lsn::text AS lsn, ordinal, epoch FROM tributary.position WHERE sink = $1 AND source = $2',
      [config.name, source],
    );
    this.#seq = row ? Number(row.seq) : 0;
    this.#held = await this.#tables.held(this.#session);
    if (!row) return ORIGIN;
    const position = { seq: this.#seq, lsn: parseLsn(row.lsn), ordinal: Number(row.ordinal) };
    return row.epoch === null ? position : { ...position, epoch: row.epoch };
  }

  async apply(group: Group): Promise<void> {
    try {
      if (!this.#open) await this.#session.run('BEGIN');
      this.#open = true;
      for (const batch of group.batches) await this.#batch(batch);
      for (const writer of this.#writers.values()) await writer.flush();
      if (group.partial) return;
      await this.#savePosition(group);
      await this.#session.run('COMMIT');
      this.#open = false;
      this.#seq = group.after.seq;
      this.#types.committed();
    } catch (error) {
      await this.#rollback();
      throw error;
    }
  }

  async reset(): Promise<void> {
    await this.#rollback();
    const { config, source } = this.#options;
    await this.#session.transaction('', async () => {
      for (const table of await this.#tables.all(this.#session)) {
        await this.#session.run(`DROP TABLE IF EXISTS ${table.target}`);
        if (table.seen) await this.#session.run(`DROP TABLE IF EXISTS ${table.seen}`);
      }
      await this.#session.run('DELETE FROM tributary.tables WHERE sink = $1 AND source = $2', [config.name, source]);
      await this.#session.run('DELETE FROM tributary.position WHERE sink = $1 AND source = $2', [config.name, source]);
    });
    this.#tables.forget();
    this.#types.forget();
    this.#writers.clear();
    this.#held = new Map();
  }

  held(): ReadonlyMap<string, SourcePosition> {
    return this.#held;
  }

  async rewind({ to, watermark, ...rest }: Rewind): Promise<void> {
    await this.#rollback();
    await this.#session.transaction('', async () => {
      await this.#tables.rewind(this.#session, rest);
      await this.#savePosition({ after: to, watermark });
    });
    this.#tables.forget();
    this.#writers.clear();
  }

  async close(): Promise<void> {
    await this.#session.close();
    await this.#side.close();
  }

  facts(): Record<string, unknown> {
    return { target: this.#options.config.postgres.database };
  }

  commands(driver: DriverView): Record<string, (question: unknown) => AsyncIterable<unknown>> {
    const { config, source, sourceConnection } = this.#options;
    return {
      verify: (question: unknown) =>
        verifyOds({
          sink: config.name,
          source,
          from: sourceConnection,
          to: config.postgres,
          targetOf: (schema: string) => targetSchema(source, schema, config.schema),
          ask: question as { table?: string },
          signal: driver.signal,
        }),
    };
  }

  async #rollback(): Promise<void> {
    if (this.#open && !this.#session.broken) await this.#session.run('ROLLBACK').catch(() => {});
    if (this.#open) {
      this.#tables.forget();
      this.#types.forget();
    }
    this.#open = false;
    this.#writers.clear();
  }

  async #batch(batch: StoredBatch): Promise<void> {
    const { config, source } = this.#options;
    const { mark } = batch.header;
    const wants = (name: string) => wantsTable(config, source, name);
    if (mark && mark.step === 'begin' && wants(mark.table)) await this.#beginSnapshot(mark);
    for (const section of batch.sections) {
      const name = tableName(section.schema);
      if (!wants(name)) continue;
      let writer = this.#writers.get(name);
      if (writer && writer.table.version !== section.schemaVersion) {
        await writer.flush();
        writer = undefined;
      }
      writer ??= await this.#writer(name, { schema: section.schema, version: section.schemaVersion });
      await writer.write(section);
    }
    if (mark && mark.step === 'end' && !mark.reset && wants(mark.table)) await this.#endSnapshot(mark);
  }

  async #writer(name: string, shape: Parameters<TargetTables['ensure']>[2]): Promise<TableWriter> {
    const table = await this.#tables.ensure(this.#session, this.#side, shape);
    const writer = new TableWriter(table, { session: this.#session, side: this.#side, types: this.#types });
    this.#writers.set(name, writer);
    return writer;
  }

  /** A table as it was made before; null when no row of it has come yet. */
  async #known(name: string): Promise<TableWriter | null> {
    const writer = this.#writers.get(name);
    if (writer) {
      await writer.flush();
      return writer;
    }
    const table = await this.#tables.find(this.#session, name);
    return table && this.#writer(name, { schema: table.schema, version: table.version });
  }

  async #beginSnapshot({ table: name, reset }: SnapshotMark): Promise<void> {
    const writer = await this.#known(name);
    if (!writer) return;
    if (reset) {
      await this.#tables.endSeen(this.#session, writer.table);
      await writer.truncate();
    } else if (writer.table.key.length > 0) {
      await this.#tables.beginSeen(this.#session, writer.table);
    }
  }

  /** Rows that neither the snapshot nor the stream named since it began are gone. */
  async #endSnapshot({ table: name }: SnapshotMark): Promise<void> {
    const writer = await this.#known(name);
    const seen = writer?.table.seen;
    if (!writer || !seen) return;
    const { target, key, columns } = writer.table;
    const match = key.map((c) => `s.${columns[c]?.name} = t.${columns[c]?.name}`).join(' AND ');
    await this.#session.run(`DELETE FROM ${target} t WHERE NOT EXISTS (SELECT 1 FROM ${seen} s WHERE ${match})`);
    await this.#tables.endSeen(this.#session, writer.table);
  }

  /** Moves on only from where this projection stood: two of them cannot both apply. */
  async #savePosition({ after, watermark }: Pick<Group, 'after' | 'watermark'>): Promise<void> {
    const { config, source } = this.#options;
    const saved = await this.#session.prepared(
      'position',
      `INSERT INTO tributary.position (sink, source, seq, lsn, ordinal, watermark, epoch)
       VALUES ($1, $2, $3, $4, $5, to_timestamp($6::float8 / 1e6), $8)
       ON CONFLICT (sink, source) DO UPDATE SET seq = excluded.seq, lsn = excluded.lsn, ordinal = excluded.ordinal,
              watermark = excluded.watermark, epoch = excluded.epoch, applied_at = now() WHERE tributary.position.seq = $7`,
      [config.name, source, after.seq, formatLsn(after.lsn), after.ordinal, watermark, this.#seq, after.epoch ?? null],
    );
    if (saved === 1) return;
    throw new Fault('fenced', `another worker applies ${config.name}/${source}`, { seq: this.#seq });
  }
}
