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
    const { transaction } = this.#checkpoints.get(durableSeq) ?? this.#start();
    const next = this.#nextPublished(transaction);
    if (next && next.commitLsn < lsn) {
      this.#world.broke(
        'confirm',
        `confirmed ${lsn}, but transaction ${next.commitLsn} is not durable (durable up to ${durableSeq} of ${this.#lastSeq})`,
      );
    }
  }

  /** The first transaction with a published change that the changelog does not hold; null = it holds all. */
  missing(): Transaction | null {
    return this.#nextPublished(this.#checkpoint().transaction);
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

  #nextPublished(from: number): Transaction | null {
    const start = this.#model.gapped ? Math.max(from, this.#from(this.#model.newestSlotAt)) : from;
    for (let at = start; at < this.#model.wal.length; at++) {
      const transaction = this.#model.wal[at] as Transaction;
      if (this.#publishedOf(transaction).length > 0) return transaction;
    }
    return null;
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
    const place = header.kind === 'stream' ? this.#events(batch, begun) : begun;
    const { transaction, change } = this.#skipEmpty(place.transaction, place.change);
    this.#covers(batch, transaction, change);
    return { transaction, change, position, epoch: header.epoch, parts: [] };
  }

  /** A new epoch begins where its slot does: what lies before is closed by a snapshot. */
  #begun(before: Checkpoint, epoch: string): Pick<Checkpoint, 'transaction' | 'change'> {
    if (before.epoch === epoch || !this.#model.gapped) return before;
    const first = this.#from(this.#model.newestSlotAt);
    return first > before.transaction ? { transaction: first, change: 0 } : before;
  }

  /** Passes over transactions without (further) published changes. */
  #skipEmpty(transaction: number, change: number): { transaction: number; change: number } {
    let at = transaction;
    let next = change;
    for (; at < this.#model.wal.length; at++, next = 0) {
      if (next < this.#publishedOf(this.#model.wal[at] as Transaction).length) break;
    }
    return { transaction: at, change: next };
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

  #events(batch: Batch, before: Pick<Checkpoint, 'transaction' | 'change'>): { transaction: number; change: number } {
    let { transaction, change } = before;
    for (const event of eventsOf(batch)) {
      this.events++;
      ({ transaction, change } = this.#skipEmpty(transaction, change));
      const expected = this.#model.wal[transaction];
      const at = { lsn: event.lsn, ordinal: event.ordinal };
      const next = expected && { lsn: expected.commitLsn, ordinal: change + 1 };
      const order = next ? compareSourcePosition(at, next) : 1;
      if (!expected || !next || order > 0) {
        this.#world.broke('gap', `${formatSourcePosition(at)} came, ${next ? formatSourcePosition(next) : 'nothing'} was next`);
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
    const told = event.section.columns.map((column) => column.values()[event.row]);
    const expected: readonly Cell[] = row
      ? wireRow(old, row)
      : (old ?? []).map((value, index) => (table.key.includes(index) ? value : undefined));
    const code = { insert: 'c', update: 'u', delete: 'd' }[op];
    const same =
      String.fromCharCode(event.section.ops[event.row] as number) === code &&
      told.every((cell, index) => cell === expected[index]);
    if (!same) this.#world.broke('content', `change ${event.lsn}+${event.ordinal} of ${table.name} differs from the WAL`);
  }
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
