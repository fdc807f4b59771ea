import {
  formatLsn,
  formatSourcePosition,
  ORIGIN,
  parseLsn,
  parseSourcePosition,
  type Position,
  type SourcePosition,
} from '@tributary/core';
import type { Duck } from '@tributary/duckdb';

/** Where the state of one source stands. */
export interface Place {
  readonly position: Position;
  /** Microseconds since 1970: everything the source committed up to then is here. */
  readonly watermark: number;
  /** The newest that was given. */
  readonly tick: number;
  /** Everything up to there is here, though the position is set back. */
  readonly held: SourcePosition | null;
}

/** What is known of the snapshots of a table. */
export interface TableReading {
  readonly generation: number | null;
  readonly complete: boolean;
}

/** Of a source that was not read yet. */
export const NOWHERE: Place = { position: ORIGIN, watermark: 0, tick: 0, held: null };

interface StoredPlace {
  readonly source: string;
  readonly seq: number;
  readonly lsn: string;
  readonly ordinal: number;
  readonly epoch: string | null;
  readonly watermark: number;
  readonly tick: number;
  readonly held: string | null;
}

export async function readPlace(duck: Duck, source: string): Promise<Place> {
  return (await readPlaces(duck)).get(source) ?? NOWHERE;
}

/** Of every source that was read so far. */
export async function readPlaces(duck: Duck): Promise<Map<string, Place>> {
  const rows = await duck.rows<StoredPlace>('SELECT * FROM place ORDER BY source');
  return new Map(
    rows.map(({ source, seq, lsn, ordinal, epoch, watermark, tick, held }) => [
      source,
      {
        position: { seq, lsn: parseLsn(lsn), ordinal, ...(epoch === null ? {} : { epoch }) },
        watermark,
        tick,
        held: held === null ? null : parseSourcePosition(held),
      },
    ]),
  );
}

/** In the transaction that brings the state there (I6). @param before as it is stored, or {@link NOWHERE} */
export async function writePlace(
  duck: Duck,
  source: string,
  { before, after }: { readonly before: Place; readonly after: Place },
): Promise<void> {
  const { position, watermark, tick, held } = after;
  const sql =
    before === NOWHERE
      ? 'INSERT INTO place VALUES ($1, $2::BIGINT, $3, $4::BIGINT, $5, $6::BIGINT, $7::BIGINT, $8)'
      : `UPDATE place SET seq = $2::BIGINT, lsn = $3, ordinal = $4::BIGINT, epoch = $5, watermark = $6::BIGINT, tick = $7::BIGINT, held = $8
          WHERE source = $1`;
  await duck.run(sql, [
    source,
    String(position.seq),
    formatLsn(position.lsn),
    String(position.ordinal),
    position.epoch ?? null,
    String(watermark),
    String(tick),
    held && formatSourcePosition(held),
  ]);
}

export async function readReadings(duck: Duck, source: string): Promise<Map<string, TableReading>> {
  const rows = await duck.rows<TableReading & { table: string }>(
    'SELECT "table", generation, complete FROM snapshot WHERE source = $1',
    [source],
  );
  return new Map(rows.map(({ table, generation, complete }) => [table, { generation, complete }]));
}

export async function writeReading(
  duck: Duck,
  { source, table }: { source: string; table: string },
  { generation, complete }: TableReading,
): Promise<void> {
  await duck.run('DELETE FROM snapshot WHERE source = $1 AND "table" = $2', [source, table]);
  await duck.run('INSERT INTO snapshot VALUES ($1, $2, $3::BIGINT, $4)', [
    table,
    source,
    generation === null ? null : String(generation),
    complete,
  ]);
}
