import {
  type BatchHeader,
  formatLsn,
  formatSourcePosition,
  ORIGIN,
  parseLsn,
  parseSourcePosition,
  type Position,
  type SourcePosition,
  type TableSchema,
} from '@tributary/core';
import { type Duck, duckLiteral, Loader } from '@tributary/duckdb';
import { KpiTable } from './table.ts';

/** A message and the tick it has here. */
export interface Moment {
  readonly seq: number;
  readonly header: BatchHeader;
  readonly tick: number;
}

/** Where the state of one source stands. */
export interface Place {
  readonly position: Position;
  /** Microseconds since 1970: everything the source committed up to then is here. */
  readonly watermark: number;
  /** Commit time of the newest transaction, µs; 0 = none yet. */
  readonly committedAt: number;
  /** Of the newest message; ticks rise over all sources of the engine. */
  readonly tick: number;
  /** As-of reaches back to this tick. */
  readonly floor: number;
  /** What it holds is a state that the source had. */
  readonly complete: boolean;
  /** Tables that it holds, where the source has them. */
  readonly wanted: readonly string[];
}

const EMPTY: Place = { position: ORIGIN, watermark: 0, committedAt: 0, tick: 0, floor: 0, complete: false, wanted: [] };

/** One source in an engine: its place and tables, as the last committed transaction left them. The caller has the store's lock. */
export class SourceState {
  readonly source: string;
  readonly tables = new Map<string, KpiTable>();
  place: Place = EMPTY;

  constructor(source: string) {
    this.source = source;
  }

  get held(): ReadonlyMap<string, SourcePosition> {
    return new Map([...this.tables].flatMap(([name, { held }]) => (held ? [[name, held]] : [])));
  }

  async read(duck: Duck): Promise<void> {
    this.tables.clear();
    const [row] = await duck.rows<StoredPlace>('SELECT * FROM _meta.position WHERE source = $1', [this.source]);
    this.place = row ? placeOf(row) : EMPTY;
    for (const row of await duck.rows<StoredTable>('SELECT * FROM _meta.tables WHERE source = $1', [this.source])) {
      const table = new KpiTable(this.source, {
        schema: JSON.parse(row.definition) as TableSchema,
        version: row.version,
        seen: row.seen,
        next: row.next,
        complete: row.complete,
        held: row.held === null ? null : parseSourcePosition(row.held),
        inexact: new Set(row.inexact === '' ? [] : row.inexact.split('\x1f')),
      });
      this.tables.set(table.name, table);
    }
  }

  /** Writes place and tables as they are now. Inside a transaction. */
  async save(duck: Duck, place: Place): Promise<void> {
    const { position, watermark, committedAt, tick, floor, complete, wanted } = place;
    await duck.run('DELETE FROM _meta.position WHERE source = $1', [this.source]);
    await duck.run(
      `INSERT INTO _meta.position VALUES ($1, $2::BIGINT, $3, $4::BIGINT, $5, $6::BIGINT, $7::BIGINT, $8::BIGINT, $9::BIGINT, $10, $11)`,
      [
        this.source,
        String(position.seq),
        formatLsn(position.lsn),
        String(position.ordinal),
        position.epoch ?? null,
        ...[watermark, committedAt, tick, floor].map(String),
        complete,
        JSON.stringify(wanted),
      ],
    );
    this.place = place;
  }

  async saveTables(duck: Duck): Promise<void> {
    await duck.run('DELETE FROM _meta.tables WHERE source = $1', [this.source]);
    for (const { name, version, schema, seen, next, complete, held, inexact } of this.tables.values()) {
      await duck.run('INSERT INTO _meta.tables VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)', [
        this.source,
        name,
        version,
        JSON.stringify(schema),
        seen,
        next,
        complete,
        held && formatSourcePosition(held),
        [...inexact].join('\x1f'),
      ]);
    }
  }

  /** Notes which tick each message of a group has, for as-of. Inside a transaction. */
  async noteMoments(duck: Duck, moments: readonly Moment[]): Promise<void> {
    const whole = moments.filter(({ header }) => !header.more);
    if (whole.length === 0) return;
    const of = (pick: (one: (typeof whole)[number]) => string | number) => whole.map(pick).join(',');
    const loader = new Loader([], {
      tick: of(({ tick }) => tick),
      seq: of(({ seq }) => seq),
      lsn: of(({ header }) => formatLsn(header.position.lsn)),
      place: of(({ header }) => sortable(header.position)),
      watermark: of(({ header }) => header.watermark),
    });
    await duck.run(
      `INSERT INTO _meta.moments SELECT ${duckLiteral(this.source)}, tick::BIGINT, seq::BIGINT, lsn, place, watermark::BIGINT FROM (${loader.select})`,
      loader.values,
    );
  }

  /** Empties everything of this source. Inside a transaction. */
  async clear(duck: Duck): Promise<void> {
    for (const table of this.tables.values()) await table.drop(duck);
    for (const from of ['_meta.tables', '_meta.position', '_meta.moments'])
      await duck.run(`DELETE FROM ${from} WHERE source = $1`, [this.source]);
    this.tables.clear();
    this.place = { ...EMPTY, tick: this.place.tick, floor: this.place.tick };
  }

  /** The table in exactly this shape. Inside a transaction when the shape is new. @returns was it made or changed? */
  async shape(duck: Duck, schema: TableSchema, version: string): Promise<{ table: KpiTable; changed: boolean }> {
    const known = this.tables.get(`${schema.schema}.${schema.table}`);
    if (known?.version === version) return { table: known, changed: false };
    const { seen = false, next = false, complete = false, held = null, inexact = new Set<string>() } = known ?? {};
    const table = new KpiTable(this.source, { schema, version, seen, next, complete, held, inexact });
    if (known) await table.reshape(duck, known);
    else await table.create(duck);
    this.tables.set(table.name, table);
    return { table, changed: true };
  }
}

/** A source position as text that sorts. */
export function sortable({ lsn, ordinal }: SourcePosition): string {
  return `${lsn.toString(16).padStart(16, '0')}+${String(ordinal).padStart(16, '0')}`;
}

interface StoredPlace {
  readonly seq: number;
  readonly lsn: string;
  readonly ordinal: number;
  readonly epoch: string | null;
  readonly watermark: number;
  readonly committed_at: number;
  readonly tick: number;
  readonly floor: number;
  readonly complete: boolean;
  readonly wanted: string;
}

interface StoredTable {
  readonly version: string;
  readonly definition: string;
  readonly seen: boolean;
  readonly next: boolean;
  readonly complete: boolean;
  readonly held: string | null;
  readonly inexact: string;
}

function placeOf(row: StoredPlace): Place {
  const { seq, ordinal, epoch, watermark, tick, floor, complete } = row;
  const position = { seq, lsn: parseLsn(row.lsn), ordinal, ...(epoch === null ? {} : { epoch }) };
  return {
    position,
    watermark,
    committedAt: row.committed_at,
    tick,
    floor,
    complete,
    wanted: JSON.parse(row.wanted) as string[],
  };
}
