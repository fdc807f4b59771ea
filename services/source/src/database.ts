import type { Lsn, PgType, TableSchema } from '@tributary/core';
import type { CatalogTable, Visibility } from '@tributary/postgres';
import type { RelationMessage } from './pgoutput.ts';

/**
 * The captured database as the source sees it: everything that is ever asked of it, one level above SQL.
 * {@link PostgresDatabase} asks a real one; the simulation answers from a model.
 */
export interface SourceDatabase {
  /** One more connection; `name` says what for. @throws Fault `database_unreachable` */
  open(name: string): Promise<SourceSession>;
  /** A connection that streams the slot; it begins with `run`. */
  replicate(options: ReplicateOptions): Replication;
}

export interface Server {
  /** Of the database cluster: another one means another history. */
  readonly systemId: string;
  /** e.g. 180004. */
  readonly version: number;
}

export interface Slot {
  readonly name: string;
  /** Everything before it may be gone. */
  readonly confirmed: Lsn;
  /** It was made just now: nothing of it is in any changelog. */
  readonly created: boolean;
}

export interface SlotHealth {
  readonly name: string;
  readonly active: boolean;
  readonly retainedBytes: number;
  readonly walStatus: string | null;
  readonly safeBytes: number | null;
}

export interface Look {
  readonly visibility: Visibility;
  /** Null when there is no slot. */
  readonly health: SlotHealth | null;
  /** As long as it stays the same, no table came, went or changed its shape, and no publication its members. */
  readonly catalog: string;
}

/** `all`: every change. `append`: inserts and truncations, for tables whose old rows the WAL cannot name. */
export type Publication = 'all' | 'append';

/** Rows to read of one table. `range`: blocks of one leaf, from `start` up to but without `end` (null = to the last). */
export type Rows =
  | { readonly kind: 'range'; readonly leaf: string; readonly start: number; readonly end: number | null }
  | { readonly kind: 'keys'; readonly keys: readonly (readonly string[])[] }
  | { readonly kind: 'where'; readonly where: string }
  | { readonly kind: 'all' };

/** One connection. Statements run one after another. Every failure is a Fault; the SQLSTATE is in its facts. */
export interface SourceSession {
  /** @throws Fault `source_misconfigured` that says how to mend it */
  server(): Promise<Server>;
  /** Makes both publications when they are missing (I9: never drops any). Before the slot: decoding must find them. */
  ensurePublications(): Promise<void>;
  ensureSlot(): Promise<Slot>;
  /** Null when there is no slot. */
  slotHealth(): Promise<SlotHealth | null>;
  /** Everything that is looked at again and again, in one statement that locks nothing. */
  look(): Promise<Look>;
  /** What a transaction that began now would see. */
  visibility(): Promise<Visibility>;
  /**
   * A transaction id above every one given so far (64-bit). The `xmax` of a snapshot is not that: it is one past the newest
   * transaction that has *ended*, and older ones that still run, or are streamed but not visible yet, may lie beyond it.
   */
  nextXid(): Promise<bigint>;
  /** Commits a logical message: it comes back in the stream, behind everything committed before. */
  emit(content: string): Promise<void>;
  /** Tables chosen by `schema.table`. */
  tables(wanted: (name: string) => boolean): Promise<CatalogTable[]>;
  schemaOf(table: CatalogTable): Promise<TableSchema>;
  /** A type by its name, also without the schema that it is in; null = there is none. */
  typeNamed(name: string): Promise<PgType | null>;
  /** A shape that the table no longer has, put together from what the stream tells and the catalog still knows. */
  historicSchema(relation: RelationMessage, table: CatalogTable | undefined): Promise<TableSchema>;
  /** Oids of the tables in each publication. */
  published(): Promise<Readonly<Record<Publication, ReadonlySet<number>>>>;
  publish(publication: Publication, tables: readonly CatalogTable[]): Promise<void>;
  unpublish(publication: Publication, table: CatalogTable): Promise<void>;
  /** Number and hash of all rows, whatever their order. */
  contentOf(table: CatalogTable): Promise<string>;
  /**
   * Begins a READ ONLY REPEATABLE READ transaction. @returns what it sees
   * @param table nobody truncates it from before this until the end: PostgreSQL shows a table that was truncated since as empty
   */
  begin(table?: CatalogTable): Promise<Visibility>;
  /** Ends that transaction, also a failed one. */
  end(): Promise<void>;
  /** COPY CSV of chosen rows, in the pieces in which it comes; returns the number of rows. */
  copy(table: CatalogTable, schema: TableSchema, rows: Rows): AsyncGenerator<Buffer, number, undefined>;
  /** Where the WAL ends: everything that is visible now lies before it. */
  walPosition(): Promise<Lsn>;
  close(): Promise<void>;
}

export interface ReplicateOptions {
  readonly slot: string;
  /** Transactions whose commit record begins here or later are sent; PostgreSQL never starts before what was confirmed. */
  readonly from: Lsn;
  /** One pgoutput message: the bytes from `start` to `end`, by default all; they are only valid during the call. Never throws. */
  readonly message: (bytes: Buffer, start?: number, end?: number) => void;
  /** `walEnd`: everything before it was sent. */
  readonly keepalive: (walEnd: Lsn, replyRequested: boolean) => void;
}

export interface Replication {
  /**
   * Streams until `stop`, or until the connection fails.
   * @param started called once PostgreSQL streams
   * @throws Fault `slot_in_use`, `database_unreachable`, `database_rejected`
   */
  run(started: () => void): Promise<void>;
  /** Tells PostgreSQL that everything before `lsn` may be forgotten. */
  confirm(lsn: Lsn): Promise<void>;
  /** Stops taking bytes from the socket until the same reason is released. Messages of the present read still come. */
  hold(reason: string): void;
  release(reason: string): void;
  stop(): Promise<void>;
}
