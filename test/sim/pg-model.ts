import { type Cell, type Lsn, type TableSchema, tableName } from '@tributary/core';
import { Visibility } from '@tributary/postgres';
import type { World } from './world.ts';

export type Values = readonly (string | null)[];

/** One version of a row: who made it and who ended it (0n = nobody yet). */
interface Version {
  readonly block: number;
  readonly key: string;
  readonly values: Values;
  readonly digest: number;
  readonly xmin: bigint;
  xmax: bigint;
}

export interface ModelTable {
  readonly oid: number;
  readonly name: string;
  readonly schema: TableSchema;
  /** Indices of the key columns; empty = rows are told apart by where they are, and may be equal. */
  readonly key: readonly number[];
  versions: Version[];
  blocks: number;
  /** The file that holds them; another one after each truncation. */
  file: number;
  /** Who truncates it: nobody else reads or writes until that transaction has ended. */
  truncating: { readonly xid: bigint; readonly before: Pick<ModelTable, 'versions' | 'blocks'> } | null;
  /** Those who wait for that end. */
  waiting: (() => void)[];
  /** Sessions whose transaction has read it: nobody truncates it. */
  readonly readers: Set<object>;
  /** Rows updated and deleted, as far as statistics tell; they come late, and a crash takes them. */
  churn: number;
  /** Rows as of the last commit record, in the order of commit records: what a stream of the WAL must give. By key, or by place. */
  readonly rows: Map<string, Values>;
  digest: number;
  /** Digest after each commit that changed the table, by commit LSN; ascending. */
  readonly history: { readonly lsn: Lsn; readonly digest: number }[];
}

export interface Change {
  readonly table: ModelTable;
  readonly op: 'insert' | 'update' | 'delete' | 'truncate';
  /** What the row was called before, and is called now. */
  readonly from: string | null;
  readonly key: string;
  readonly old: Values | null;
  readonly row: Values | null;
  /** What it adds to the table's digest; a truncation takes everything. */
  readonly delta: number;
  /** In a publication when it was made. */
  readonly published: boolean;
}

export interface Transaction {
  readonly xid: bigint;
  readonly changes: Change[];
  /** Content of its logical message. */
  message: string | null;
  state: 'running' | 'committed' | 'aborted';
  commitLsn: Lsn;
  endLsn: Lsn;
  /** Microseconds since 1970. */
  committedAt: number;
}

export interface Slot {
  confirmed: Lsn;
  /** What a crash leaves of `confirmed`. */
  persisted: Lsn;
  /** Ends whoever reads it; null = nobody does. */
  reader: object | null;
}

export const SLOT = 'tributary_s';
const ROWS_PER_BLOCK = 4;
/** Statistics are told at most so late, ms. */
const STATISTICS_MS = 1_500;
/** Values longer than this are stored out of line: an update that leaves them alone does not repeat them. */
export const TOAST_LENGTH = 24;

/** A cell's part in a digest: long values by their beginning and length. */
function cellText(cell: Cell): string {
  if (cell === undefined) return '\x03';
  if (cell === null) return '\0';
  return cell.length > 64 ? `${cell.slice(0, 40)}#${cell.length}` : cell;
}

/** 48 bits of one row; digests of tables are sums of them. */
export function rowDigest(table: string, values: readonly Cell[]): number {
  let a = 0x811c9dc5;
  let b = 0x9e3779b9;
  const text = `${table}\x01${values.map(cellText).join('\x02')}`;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    a = Math.imul(a ^ code, 0x01000193);
    b = Math.imul(b ^ code, 0x85ebca6b) ^ (b >>> 13);
  }
  return (a >>> 8) * 2 ** 24 + (b >>> 8);
}

/** Sums wrap: they stay exact whole numbers. */
export function addDigest(sum: number, part: number): number {
  const next = sum + part;
  return next >= 2 ** 52 ? next - 2 ** 52 : next < 0 ? next + 2 ** 52 : next;
}

/**
 * A model of PostgreSQL as far as capture can tell: versions of rows with the xids that made and ended them, snapshots
 * taken from the list of running transactions, commit records in the WAL that can be streamed before they become
 * visible, truncation (which locks, and empties the table for older snapshots too), publications by their membership when
 * a row was written, statistics, and slots.
 */
export class PostgresModel {
  readonly systemId = '7000000000000000001';
  readonly version = 180_004;
  running = true;
  readonly tables = new Map<string, ModelTable>();
  /** Committed transactions in the order of their commit records. */
  readonly wal: Transaction[] = [];
  readonly slots = new Map<string, Slot>();
  /** Where the first slot ever made begins, and where the newest does: what lies between may be missing where a slot was dropped. */
  firstSlotAt: Lsn | null = null;
  newestSlotAt: Lsn = 0n;
  readonly published = { all: new Set<number>(), append: new Set<number>() };
  publicationsMade = false;
  readonly #world: World;
  lsn: Lsn = 0x1000000n;
  #nextXid = 700n;
  #latestCompleted = 699n;
  readonly #running = new Map<bigint, Transaction>();
  readonly #locks = new Map<string, bigint>();
  #place = 0;
  /** How often statistics began anew. */
  statistics = 0;
  /** Woken when a commit record was written. */
  readonly senders = new Set<() => void>();

  constructor(world: World) {
    this.#world = world;
  }

  addTable(oid: number, schema: TableSchema, key: readonly number[]): ModelTable {
    const name = tableName(schema);
    const table: ModelTable = {
      oid,
      name,
      schema,
      key,
      versions: [],
      blocks: 0,
      file: oid,
      truncating: null,
      waiting: [],
      readers: new Set(),
      churn: 0,
      rows: new Map(),
      digest: 0,
      history: [],
    };
    this.tables.set(name, table);
    return table;
  }

  begin(): Transaction {
    const xid = this.#nextXid++;
    const transaction: Transaction = {
      xid,
      changes: [],
      message: null,
      state: 'running',
      commitLsn: 0n,
      endLsn: 0n,
      committedAt: 0,
    };
    this.#running.set(xid, transaction);
    this.lsn += 64n;
    return transaction;
  }

  /** What a snapshot taken now sees; its xmax is one past the newest ended xid, as PostgreSQL's is. */
  visibility(): Visibility {
    const xmax = this.#latestCompleted + 1n;
    const running = [...this.#running.keys()].filter((xid) => xid < xmax);
    const xmin = running.reduce((low, xid) => (xid < low ? xid : low), xmax);
    return new Visibility(`${xmin}:${xmax}:${running.join(',')}`);
  }

  /** The newest version of a row that is not locked by another running transaction; undefined = it must not be written now. */
  writable(transaction: Transaction, table: ModelTable, key: string): Version | null | undefined {
    const lock = this.#locks.get(`${table.name} ${key}`);
    if (lock !== undefined && lock !== transaction.xid) return undefined;
    for (let i = table.versions.length - 1; i >= 0; i--) {
      const version = table.versions[i] as Version;
      if (version.key === key && version.xmax === 0n) return version;
    }
    return null;
  }

  /** Nobody else truncates the table now. */
  open(transaction: Transaction, { truncating }: ModelTable): boolean {
    return truncating === null || truncating.xid === transaction.xid;
  }

  insert(transaction: Transaction, table: ModelTable, values: Values): void {
    const key = table.key.length > 0 ? keyOf(table, values) : `place ${++this.#place}`;
    this.#write(transaction, table, { op: 'insert', from: null, key, old: null, row: values });
    this.#store(transaction, table, key, values);
  }

  update(transaction: Transaction, table: ModelTable, version: Version, values: Values): void {
    const key = table.key.length > 0 ? keyOf(table, values) : version.key;
    version.xmax = transaction.xid;
    this.#locks.set(`${table.name} ${version.key}`, transaction.xid);
    this.#write(transaction, table, { op: 'update', from: version.key, key, old: version.values, row: values });
    this.#store(transaction, table, key, values);
  }

  delete(transaction: Transaction, table: ModelTable, version: Version): void {
    version.xmax = transaction.xid;
    this.#write(transaction, table, { op: 'delete', from: version.key, key: version.key, old: version.values, row: null });
  }

  /** Unless somebody else reads or writes the table. Its rows are gone at once, with their file, whoever would still see them. */
  truncate(transaction: Transaction, table: ModelTable): void {
    if (!this.open(transaction, table) || table.readers.size > 0) return;
    for (const other of this.#running.values()) {
      if (other !== transaction && other.changes.some((change) => change.table === table)) return;
    }
    table.truncating ??= { xid: transaction.xid, before: { versions: table.versions, blocks: table.blocks } };
    table.versions = [];
    table.blocks = 0;
    table.file = ++this.#place + 100_000;
    this.#write(transaction, table, { op: 'truncate', from: null, key: '', old: null, row: null });
  }

  /** Resolves when nobody truncates the table. */
  async untruncated(table: ModelTable): Promise<void> {
    while (table.truncating) await new Promise<void>((resolve) => table.waiting.push(resolve));
  }

  #write(transaction: Transaction, table: ModelTable, change: Pick<Change, 'op' | 'from' | 'key' | 'old' | 'row'>): void {
    const { op, key, old, row } = change;
    this.#locks.set(`${table.name} ${key}`, transaction.xid);
    const { all, append } = this.published;
    const published = all.has(table.oid) || ((op === 'insert' || op === 'truncate') && append.has(table.oid));
    const gone = old ? -rowDigest(table.name, old) : 0;
    const delta = addDigest(addDigest(0, gone), row ? rowDigest(table.name, row) : 0);
    transaction.changes.push({ ...change, table, published, delta });
    this.lsn += 128n;
  }

  #store(transaction: Transaction, table: ModelTable, key: string, values: Values): void {
    const { random } = this.#world;
    const full = table.blocks === 0 || table.versions.length >= table.blocks * ROWS_PER_BLOCK;
    if (full) table.blocks++;
    // Free space is used again anywhere: rows move between blocks in both directions.
    const block = !full || random.chance(0.5) ? random.below(table.blocks) : table.blocks - 1;
    table.versions.push({ block, key, values, digest: rowDigest(table.name, values), xmin: transaction.xid, xmax: 0n });
  }

  /** Writes the commit record: from now on it can be streamed, and survives a crash. Visible only after {@link end}. */
  commit(transaction: Transaction): void {
    this.lsn += 32n;
    transaction.commitLsn = this.lsn;
    this.lsn += 48n;
    transaction.endLsn = this.lsn;
    transaction.committedAt = (1_795_651_200_000 + Math.floor(this.#world.now)) * 1_000;
    transaction.state = 'committed';
    this.wal.push(transaction);
    this.#world.tell(`xid ${transaction.xid} commits at ${transaction.commitLsn}`);
    const touched = new Set<ModelTable>();
    for (const { table, op, from, key, row, delta } of transaction.changes) {
      touched.add(table);
      table.digest = op === 'truncate' ? 0 : addDigest(table.digest, delta);
      if (op === 'truncate') table.rows.clear();
      if (from !== null) table.rows.delete(from);
      if (row) table.rows.set(key, row);
    }
    for (const table of touched) table.history.push({ lsn: transaction.commitLsn, digest: table.digest });
    for (const wake of this.senders) wake();
  }

  /** Ends a transaction: its locks are gone, and what it committed is visible. */
  end(transaction: Transaction): void {
    if (!this.#running.delete(transaction.xid)) return;
    this.#world.tell(`xid ${transaction.xid} ends`);
    if (transaction.xid > this.#latestCompleted) this.#latestCompleted = transaction.xid;
    for (const [key, xid] of this.#locks) if (xid === transaction.xid) this.#locks.delete(key);
    if (transaction.state !== 'committed') this.#abort(transaction);
    const touched = new Set(transaction.changes.map(({ table }) => table));
    for (const table of touched) {
      if (table.truncating?.xid !== transaction.xid) continue;
      table.truncating = null;
      for (const wake of table.waiting.splice(0)) wake();
    }
    this.#count(transaction);
  }

  #abort(transaction: Transaction): void {
    transaction.state = 'aborted';
    for (const table of new Set(transaction.changes.map((change) => change.table))) {
      if (table.truncating?.xid === transaction.xid) Object.assign(table, table.truncating.before);
      table.versions = table.versions.filter((version) => version.xmin !== transaction.xid);
      for (const version of table.versions) if (version.xmax === transaction.xid) version.xmax = 0n;
    }
  }

  /** Statistics learn of a transaction some time after it has ended, however it did. */
  #count({ changes }: Transaction): void {
    const churned = changes.filter(({ op }) => op === 'update' || op === 'delete');
    if (churned.length === 0) return;
    const known = this.statistics;
    this.#world.after(this.#world.random.between(0, STATISTICS_MS), () => {
      if (known === this.statistics) for (const { table } of churned) table.churn++;
    });
  }

  /** A transaction of one logical message, or of nothing. */
  once(message: string | null): Transaction {
    const transaction = this.begin();
    transaction.message = message;
    this.commit(transaction);
    this.end(transaction);
    return transaction;
  }

  /** Rows that a snapshot sees, by block. */
  *select(table: ModelTable, seen: Visibility): Iterable<Version> {
    for (const version of table.versions) {
      if (seen.sees(version.xmin) && !(version.xmax !== 0n && seen.sees(version.xmax))) yield version;
    }
  }

  /** Digest of a table after everything committed up to this LSN, in the order of commit records. */
  digestAt(table: ModelTable, lsn: Lsn): number {
    for (let i = table.history.length - 1; i >= 0; i--) {
      const entry = table.history[i] as (typeof table.history)[number];
      if (entry.lsn <= lsn) return entry.digest;
    }
    return 0;
  }

  /** A slot and what it kept are gone, as when it was invalidated or somebody dropped it. */
  drop(name: string): void {
    const slot = this.slots.get(name);
    if (slot) slot.reader = null;
    this.slots.delete(name);
  }

  /** True once a slot was made in place of one that was lost. */
  get gapped(): boolean {
    return this.firstSlotAt !== null && this.newestSlotAt > this.firstSlotAt;
  }

  /** Everything that had no commit record never was; everything that had is visible; slots are as they were last written. */
  crash(): void {
    this.running = false;
    this.statistics++;
    for (const table of this.tables.values()) table.churn = 0;
    for (const transaction of this.#running.values()) this.end(transaction);
    for (const slot of this.slots.values()) {
      slot.confirmed = slot.persisted;
      slot.reader = null;
    }
    this.lsn += 4_096n;
  }
}

function keyOf(table: ModelTable, values: Values): string {
  return table.key.map((index) => values[index]).join('\x1f');
}
