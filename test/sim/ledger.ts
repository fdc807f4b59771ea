import { decodeBatch, type Place, type Stored } from '@tributary/changelog';
import {
  type Batch,
  type Cell,
  compareSourcePosition,
  formatSourcePosition,
  type Lsn,
  ORIGIN,
  type Section,
  type SourcePosition,
} from '@tributary/core';
import { Visibility } from '@tributary/postgres';
import { type Change, type PostgresModel, type Transaction } from './pg-model.ts';
import { wireRow } from './pgoutput.ts';
import type { StoreWatch } from './broker.ts';
import type { World } from './world.ts';

/** What the changelog holds up to one message: which change of the WAL must come next. */
interface Checkpoint {
  /** Index into the WAL of the transaction that comes next, and of its published change. */
  readonly transaction: number;
  readonly change: number;
  readonly position: SourcePosition;
  readonly epoch: string;
  /** Of tables that were read in one piece: what the snapshot saw does not come again. */
  readonly skips: ReadonlyMap<string, Visibility>;
  /** Fragments of a batch that is not whole yet. */
  readonly parts: readonly Uint8Array[];
}

/**
 * Watches every message that the broker stores and compares it with the WAL: each published change exactly once, in
 * order, with its values; one writer at a time; and nothing confirmed that a crash of the broker could still take.
 */
export class Ledger implements StoreWatch {
  readonly #world: World;
  readonly #model: PostgresModel;
  readonly #checkpoints = new Map<number, Checkpoint>();
  #lastSeq = 0;
  readonly #writers = new Set<string>();
  #writer = '';
  /** Published changes of each transaction, counted once. */
  readonly #published = new Map<Transaction, readonly Change[]>();
  events = 0;
  /** Called when the begin or the end of a table that is read in one piece was stored. */
  readWhole: () => void = () => {};

  constructor(world: World, model: PostgresModel) {
    this.#world = world;
    this.#model = model;
  }

  get lastSeq(): number {
    return this.#lastSeq;
  }

  stored(message: Stored, place: Place): void {
    this.#fenced(place);
    const before = this.#checkpoint();
    this.#lastSeq = message.seq;
    const whole = assemble(before.parts, message.bytes);
    this.#checkpoints.set(
      message.seq,
      Array.isArray(whole) ? { ...before, parts: whole } : this.#batch(whole as Uint8Array, before),
    );
  }

  lost(afterSeq: number): void {
    this.#world.tell(`broker lost everything after ${afterSeq} of ${this.#lastSeq}`);
    this.#lastSeq = Math.min(this.#lastSeq, afterSeq);
  }

  /** Everything committed before `lsn` must be in what no crash of the broker can take. */
  confirmed(lsn: Lsn, durableSeq: number): void {
    const next = this.#nextDue(this.#checkpoints.get(durableSeq) ?? this.#start());
    if (next && next.commitLsn < lsn) {
      this.#world.broke(
        'confirm',
        `confirmed ${lsn}, but transaction ${next.commitLsn} is not durable (durable up to ${durableSeq} of ${this.#lastSeq})`,
      );
    }
  }

  /** The first transaction with a change that is due and that the changelog does not hold; null = it holds all. */
  missing(): Transaction | null {
    return this.#nextDue(this.#checkpoint());
  }

  #checkpoint(): Checkpoint {
    return this.#checkpoints.get(this.#lastSeq) ?? this.#start();
  }

  #start(): Checkpoint {
    return {
      transaction: this.#from(this.#model.firstSlotAt ?? this.#model.lsn),
      change: 0,
      position: ORIGIN,
      epoch: '',
      skips: new Map(),
      parts: [],
    };
  }

  /** Index of the first transaction whose commit record starts at or after `lsn`. */
  #from(lsn: Lsn): number {
    const first = this.#model.wal.findIndex((transaction) => transaction.commitLsn >= lsn);
    return first === -1 ? this.#model.wal.length : first;
  }

  #fenced({ id }: Place): void {
    const writer = id.slice(0, id.lastIndexOf('.'));
    if (writer === this.#writer) return;
    if (this.#writers.has(writer)) this.#world.broke('fencing', `writer ${writer} wrote again after ${this.#writer}`);
    this.#writers.add(writer);
    this.#writer = writer;
  }

  #nextDue({ transaction: from, skips }: Checkpoint): Transaction | null {
    const start = this.#model.gapped ? Math.max(from, this.#from(this.#model.newestSlotAt)) : from;
    return this.#model.wal[this.#skipEmpty({ transaction: start, change: 0 }, skips).transaction] ?? null;
  }

  #publishedOf(transaction: Transaction): readonly Change[] {
    let published = this.#published.get(transaction);
    if (!published) {
      published = transaction.changes.filter((change) => change.published);
      this.#published.set(transaction, published);
    }
    return published;
  }

  #batch(bytes: Uint8Array, before: Checkpoint): Checkpoint {
    const batch = decodeBatch(bytes);
    const { header } = batch;
    const { follows, position, mark } = header;
    const what = mark
      ? `${mark.step} ${mark.table}${mark.reset ? ' reset' : ''}`
      : header.transactions.map(({ xid }) => xid).join(' ');
    if (mark && mark.step !== 'chunk' && this.#model.tables.get(mark.table)?.key.length === 0) this.readWhole();
    const rows = batch.sections.reduce((sum, section) => sum + section.rows, 0);
    this.#world.tell(
      `batch ${header.kind} ${what}${header.more ? ' more' : ''}: ${rows} rows, to ${formatSourcePosition(position)}`,
    );
    if (compareSourcePosition(follows, before.position) !== 0) {
      this.#world.broke(
        'chain',
        `a batch follows ${formatSourcePosition(follows)}, the one before it ends at ${formatSourcePosition(before.position)}`,
      );
    }
    if (compareSourcePosition(position, follows) <= 0)
      this.#world.broke('order', `a batch at ${formatSourcePosition(position)} follows ${formatSourcePosition(follows)}`);
    const begun = this.#begun(before, header.epoch);
    const skips = header.state ? skipsOf(header.state) : before.skips;
    const place = header.kind === 'stream' ? this.#events(batch, begun, skips) : begun;
    const { transaction, change } = this.#skipEmpty(place, skips);
    this.#covers(batch, transaction, change);
    return { transaction, change, position, epoch: header.epoch, skips, parts: [] };
  }

  /** A new epoch begins where its slot does: what lies before is closed by a snapshot. */
  #begun(before: Checkpoint, epoch: string): WalPlace {
    if (before.epoch === epoch || !this.#model.gapped) return before;
    const first = this.#from(this.#model.newestSlotAt);
    return first > before.transaction ? { transaction: first, change: 0 } : before;
  }

  /** Passes over changes that are not due, and transactions without further ones that are. */
  #skipEmpty(place: WalPlace, skips: Checkpoint['skips']): WalPlace {
    let { transaction, change } = place;
    for (; transaction < this.#model.wal.length; transaction++, change = 0) {
      const one = this.#model.wal[transaction] as Transaction;
      const published = this.#publishedOf(one);
      while (skips.get(published[change]?.table.name ?? '')?.sees(one.xid)) change++;
      if (change < published.length) break;
    }
    return { transaction, change };
  }

  /** A batch says up to where it is complete: nothing before that may be missing. */
  #covers({ header }: Batch, transaction: number, change: number): void {
    const next = this.#model.wal[transaction];
    if (!next) return;
    const missing = { lsn: next.commitLsn, ordinal: change + 1 };
    if (header.restart > missing.lsn || compareSourcePosition(header.position, missing) >= 0) {
      this.#world.broke(
        'gap',
        `a batch says it covers ${formatSourcePosition(header.position)} (restart ${header.restart}), but ${formatSourcePosition(missing)} is missing`,
      );
    }
  }

  #events(batch: Batch, before: WalPlace, skips: Checkpoint['skips']): WalPlace {
    let { transaction, change } = before;
    for (const event of eventsOf(batch)) {
      this.events++;
      ({ transaction, change } = this.#skipEmpty({ transaction, change }, skips));
      const expected = this.#model.wal[transaction];
      const at = { lsn: event.lsn, ordinal: event.ordinal };
      const next = expected && { lsn: expected.commitLsn, ordinal: change + 1 };
      if (!expected || !next) {
        this.#world.broke('duplicate', `${formatSourcePosition(at)} came, and there is nothing in the WAL that has not come`);
        return { transaction, change };
      }
      const order = compareSourcePosition(at, next);
      if (order > 0) {
        this.#world.broke('gap', `${formatSourcePosition(at)} came, ${formatSourcePosition(next)} was next`);
        return { transaction, change };
      }
      if (order < 0) {
        this.#world.broke('duplicate', `${formatSourcePosition(at)} came again, ${formatSourcePosition(next)} was next`);
        continue;
      }
      this.#content(event, this.#publishedOf(expected)[change] as Change);
      change++;
    }
    return { transaction, change };
  }

  #content(event: ChangelogEvent, { table, op, old, row }: Change): void {
    const { section } = event;
    const full = table.schema.identity === 'full';
    const told = section.columns.map((column) => column.values()[event.row]);
    const expected: readonly Cell[] =
      op === 'truncate'
        ? told.map(() => null)
        : row
          ? wireRow(old, row)
          : (old ?? []).map((value, index) => (full || table.key.includes(index) ? value : undefined));
    const code = { insert: 'c', update: 'u', delete: 'd', truncate: 't' }[op];
    const at = section.old?.row.indexOf(event.row) ?? -1;
    const before = at === -1 ? null : (section.old?.columns ?? []).map((column) => column.values()[at]);
    const same =
      String.fromCharCode(section.ops[event.row] as number) === code &&
      told.every((cell, index) => cell === expected[index]) &&
      (!full || op !== 'update' || (old ?? []).every((cell, index) => cell === before?.[index]));
    if (!same) this.#world.broke('content', `change ${event.lsn}+${event.ordinal} of ${table.name} differs from the WAL`);
  }
}

/** Index of a transaction of the WAL, and of one of its published changes. */
type WalPlace = Pick<Checkpoint, 'transaction' | 'change'>;

/** What the state in a header says of tables that were read in one piece: what their last snapshot saw. */
export function skipsOf(state: unknown): ReadonlyMap<string, Visibility> {
  const { tables } = state as { tables: Readonly<Record<string, { readonly skip: { readonly snapshot: string } | null }>> };
  return new Map(Object.entries(tables).flatMap(([name, { skip }]) => (skip ? [[name, new Visibility(skip.snapshot)]] : [])));
}

interface ChangelogEvent {
  readonly lsn: Lsn;
  readonly ordinal: number;
  readonly section: Section;
  readonly row: number;
}

/** The changes of a batch in the order of the WAL. */
function eventsOf({ header, sections }: Batch): ChangelogEvent[] {
  const events: ChangelogEvent[] = [];
  for (const section of sections) {
    for (let row = 0; row < section.rows; row++) {
      const { lsn } = header.transactions[section.transaction[row] as number] as { lsn: Lsn };
      events.push({ lsn, ordinal: section.ordinal[row] as number, section, row });
    }
  }
  return events.sort(compareSourcePosition);
}

/** @returns the whole batch, or the parts so far */
export function assemble(parts: readonly Uint8Array[], bytes: Uint8Array): Uint8Array | Uint8Array[] {
  if (bytes[0] !== 0x46) return bytes;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const [index, count] = [view.getUint16(2), view.getUint16(4)];
  if (index > 0 && index !== parts.length) return [];
  const all = [...(index === 0 ? [] : parts), bytes.subarray(6)];
  return all.length === count ? Buffer.concat(all) : all;
}
