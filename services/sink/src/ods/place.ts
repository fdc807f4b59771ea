import { Fault, formatLsn, ORIGIN, type Part, parseLsn, type Position } from '@tributary/core';
import type { Session } from '@tributary/postgres';
import { ensureSchema } from './ensure-schema.ts';

/** Any number that only we use: what protects the making of our own tables from doing it twice at once. */
const SETUP_LOCK = 7_215_001;

/** The tables of version 0.1 had one row a source; the columns that tell parts apart are added to them. */
const SETUP = `
CREATE TABLE IF NOT EXISTS tributary.position (
  sink text, source text, part int DEFAULT 1, parts int NOT NULL DEFAULT 1, layout bigint NOT NULL DEFAULT 1,
  seq bigint NOT NULL, lsn pg_lsn NOT NULL, ordinal bigint NOT NULL, watermark timestamptz,
  applied_at timestamptz NOT NULL DEFAULT now(), epoch text, PRIMARY KEY (sink, source, part));
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = 'tributary.position'::regclass AND attname = 'epoch') THEN
    ALTER TABLE tributary.position ADD COLUMN epoch text;
  END IF;
  IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = 'tributary.position'::regclass AND attname = 'layout') THEN
    ALTER TABLE tributary.position ADD part int DEFAULT 1, ADD parts int NOT NULL DEFAULT 1, ADD layout bigint NOT NULL DEFAULT 1,
      DROP CONSTRAINT position_pkey, ADD PRIMARY KEY (sink, source, part);
  END IF;
END $$;
CREATE TABLE IF NOT EXISTS tributary.tables (
  sink text, source text, name text, target text NOT NULL, version text NOT NULL, definition jsonb NOT NULL, seen text,
  PRIMARY KEY (sink, source, name));
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = 'tributary.tables'::regclass AND attname = 'held_lsn') THEN
    ALTER TABLE tributary.tables ADD COLUMN held_lsn pg_lsn, ADD COLUMN held_ordinal bigint;
  END IF;
END $$;
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = 'tributary.tables'::regclass AND attname = 'merged') THEN
    ALTER TABLE tributary.tables ADD COLUMN merged text;
  END IF;
END $$;
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = 'tributary.tables'::regclass AND attname = 'adopted') THEN
    ALTER TABLE tributary.tables ADD COLUMN adopted boolean NOT NULL DEFAULT false;
  END IF;
END $$;
DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = 'tributary.tables'::regclass AND attname = 'history') THEN
    ALTER TABLE tributary.tables ADD COLUMN history text, ADD COLUMN history_behind boolean NOT NULL DEFAULT false;
  END IF;
END $$;
CREATE TABLE IF NOT EXISTS tributary.merged (sink text, target text, columns jsonb NOT NULL, PRIMARY KEY (sink, target));
CREATE TABLE IF NOT EXISTS tributary.parts (
  sink text, source text, layout bigint, name text, part int NOT NULL, PRIMARY KEY (sink, source, layout, name))`;

export async function setUp(session: Session): Promise<void> {
  await session.transaction('', async () => {
    await session.run(`SELECT pg_advisory_xact_lock(${SETUP_LOCK})`);
    await ensureSchema(session, 'tributary');
    await session.run(SETUP);
  });
}

/** A row's place as a position. */
export function positionOf(row: { seq: string; lsn: string; ordinal: string; epoch: string | null }): Position {
  const position = { seq: Number(row.seq), lsn: parseLsn(row.lsn), ordinal: Number(row.ordinal) };
  return row.epoch === null ? position : { ...position, epoch: row.epoch };
}

/** Which rows of `tributary.position` and `tributary.parts` a projection writes. */
export interface Place {
  readonly sink: string;
  readonly source: string;
  readonly part: Part;
  /** Rises whenever the tables are shared out anew: whoever works under an older one is fenced. */
  readonly layout: number;
}

/** Where one part stands: one row of `tributary.position`, written by the SQL transaction that writes the rows (I6). */
export class StoredPosition {
  readonly #place: Place;
  readonly #session: Session;
  #held: Position = ORIGIN;

  constructor(place: Place, session: Session) {
    this.#place = place;
    this.#session = session;
  }

  /** @throws Fault `fenced` when the tables were shared out anew meanwhile */
  async read(): Promise<Position> {
    const { sink, source, part, layout } = this.#place;
    const [row] = await this.#session.rows<{ seq: string; lsn: string; ordinal: string; epoch: string | null }>(
      'SELECT seq, lsn::text AS lsn, ordinal, epoch FROM tributary.position WHERE sink = $1 AND source = $2 AND part = $3 AND layout = $4',
      [sink, source, part.index, layout],
    );
    if (!row) throw this.#fenced();
    this.#held = positionOf(row);
    return this.#held;
  }

  /**
   * Moves on only from where this projection stood, and only in its layout: two of them cannot both apply. The whole
   * position is compared: after a broker lost its tail the same sequence stands for something else.
   * Call {@link saved} once the transaction is committed.
   * @param watermark microseconds since 1970; null = not known
   */
  async save(after: Position, watermark: number | null): Promise<void> {
    const { sink, source, part, layout } = this.#place;
    const saved = await this.#session.prepared(
      'position',
      `UPDATE tributary.position SET seq = $5, lsn = $6, ordinal = $7, watermark = to_timestamp($8::float8 / 1e6), applied_at = now(),
              epoch = $10
        WHERE sink = $1 AND source = $2 AND part = $3 AND layout = $4 AND seq = $9 AND lsn = $11 AND ordinal = $12`,
      [
        sink,
        source,
        part.index,
        layout,
        after.seq,
        formatLsn(after.lsn),
        after.ordinal,
        watermark,
        this.#held.seq,
        after.epoch ?? null,
        formatLsn(this.#held.lsn),
        this.#held.ordinal,
      ],
    );
    if (saved !== 1) throw this.#fenced();
  }

  saved(after: Position): void {
    this.#held = after;
  }

  /** Back to the start, inside the transaction that empties the tables. */
  async reset(): Promise<void> {
    await this.save(ORIGIN, null);
  }

  #fenced(): Fault {
    const { sink, source, part, layout } = this.#place;
    return new Fault('fenced', `another worker applies ${sink}/${source}`, { part: part.index, layout, seq: this.#held.seq });
  }
}
