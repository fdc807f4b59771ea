import type { BatchDraft, ChangelogWriter } from '@tributary/changelog';
import { SectionDraft } from '@tributary/changelog';
import {
  assert,
  type BatchHeader,
  type Clock,
  compareSourcePosition,
  formatLsn,
  type Lsn,
  maxLsn,
  ORIGIN,
  parseLsn,
  READ_ORDINAL_MIN,
  type SnapshotMark,
  type SourcePosition,
  type TableSchema,
  type Transaction,
} from '@tributary/core';
import { columnOf, pick } from './pick.ts';
import { type OutputState, type Vector, watermarkOf, writeVector } from './vector.ts';

/** Rows of one table on their way out. */
export interface OutSection {
  readonly schema: TableSchema;
  readonly ops: readonly number[];
  /** Per row: index into the transactions of the message. */
  readonly transactions: readonly number[];
  /** Per row: ordinal inside its transaction, a function of the input alone. */
  readonly ordinals: readonly number[];
  readonly columns: SectionDraftColumns;
  readonly old: { readonly rows: readonly number[]; readonly columns: SectionDraftColumns } | null;
}

type SectionDraftColumns = Parameters<typeof SectionDraft.ofColumns>[1]['columns'];

/** A transaction of an input, or one that a transform made of several. */
export type InTransaction = Pick<Transaction, 'xid' | 'committedAt'>;

export interface OutMessage {
  readonly transactions: readonly InTransaction[];
  readonly sections: readonly OutSection[];
  /** The first transaction began in an earlier message, whether or not rows of it went out. */
  readonly continues: boolean;
  /** The last transaction goes on. */
  readonly more: boolean;
}

export interface OutputOptions {
  readonly name: string;
  readonly definition: string;
  readonly writer: ChangelogWriter;
  readonly clock: Clock;
  readonly epoch: string;
  /** Told when a message could not be stored. */
  readonly fail: (error: unknown) => void;
}

/**
 * Gives places to what a transform writes.
 *
 * LSNs of several inputs do not compare, so a transform counts: every transaction that goes out gets the next number as its
 * LSN. Numbers begin anew, and higher, with every leader: the time in seconds stands in their upper half. So a place is
 * never given twice, even when a broker lost messages that this leader's predecessor had written, and the leader can say
 * by a `gap` that whoever stands further goes on behind it: everything that was lost is derived again, from the inputs.
 *
 * T1 Places rise strictly, over all leaders.
 * T2 A message says how far each input went into it, up to complete transactions: the next leader goes on from there.
 * T3 Parts of a transaction are numbered from the last complete one, so the next leader gives each row the place it had,
 *    and leaves out what is there already.
 */
export class Output {
  readonly #options: OutputOptions;
  readonly #old: BatchHeader | null;
  /** See {@link OutputState}. */
  rebuilding: boolean;
  view: boolean;
  until: OutputState['until'] | null = null;
  retell: readonly string[];
  /** Last place given. */
  #place: SourcePosition;
  /** LSN of the last transaction at or before the vector. */
  #complete: Lsn;
  /** LSN of the last transaction that has a row here. */
  #counter: Lsn;
  /** A transaction is being written in parts; its LSN, null while it has no row here. */
  #open: { readonly lsn: Lsn | null } | null = null;
  /** LSN of the transaction whose end is not in the changelog, while its beginning is. */
  #unended: Lsn | null = null;
  /** Up to here the last leader came: rows at or before are there already. */
  #resume: SourcePosition;
  #vector: Vector;
  #epoch: string;
  #sentAt = Number.NEGATIVE_INFINITY;
  #sentVector: Vector | null = null;
  #appended: Promise<number> | null = null;
  #generation = 0;

  constructor(options: OutputOptions, vector: Vector) {
    this.#options = options;
    this.#vector = vector;
    const { last } = options.writer;
    const state = (last?.state ?? null) as OutputState | null;
    this.rebuilding = state !== null && (state.definition !== options.definition || state.rebuilding === true);
    this.view = state?.view === true && state.definition === options.definition;
    this.#old = last?.header ?? null;
    this.until = state?.until ?? null;
    this.retell = this.rebuilding ? [] : (state?.retell ?? []);
    const open = last?.header.more === true && state?.definition === options.definition;
    this.#resume = open ? last.header.position : ORIGIN;
    this.#place = last?.header.position ?? ORIGIN;
    this.#complete = open ? parseLsn(state.counter) : this.#place.lsn;
    this.#counter = this.#complete;
    this.#unended = open ? this.#resume.lsn : null;
    this.#epoch = open ? last.header.epoch : options.epoch;
    this.#generation = last?.header.mark?.generation ?? 0;
    if (!open) this.#begin();
  }

  get vector(): Vector {
    return this.#vector;
  }

  /** Between transactions: a snapshot or a heartbeat may be written. */
  get resting(): boolean {
    return this.#open === null && this.#unended === null;
  }

  /** Resolves with the sequence of the last message, once it is stored. */
  get stored(): Promise<number> {
    return this.#appended ?? Promise.resolve(this.#options.writer.last?.seq ?? 0);
  }

  /** Does the changelog say how far the inputs are now? */
  get level(): boolean {
    return this.#sentVector === this.#vector;
  }

  get sinceSentMs(): number {
    return this.#options.clock.monotonic() - this.#sentAt;
  }

  /** A new leader's first message: its epoch, and that whoever stands in a history that was lost may go on from here. */
  #begin(): void {
    const seconds = BigInt(Math.floor(this.#options.clock.now() / 1_000));
    this.#epoch = this.#options.epoch;
    const lsn = maxLsn(this.#place.lsn + 1n, seconds << 32n);
    this.#complete = this.#counter = lsn;
    this.#place = { lsn, ordinal: READ_ORDINAL_MIN };
    const mark = { step: 'gap', table: '', generation: this.#generation, reset: false, progress: formatLsn(lsn) } as const;
    this.#append({ kind: 'read', continues: false, more: false, transactions: [], mark, sections: [] });
  }

  /** The inputs went so far without anything that goes out. */
  advance(vector: Vector): void {
    this.#vector = vector;
  }

  /** Tells how far the inputs are, without rows. */
  beat(): void {
    assert(this.resting, 'a heartbeat inside a transaction');
    this.#complete = this.#counter = this.#counter + 1n;
    this.#place = { lsn: this.#complete, ordinal: 0 };
    this.#append({ kind: 'stream', continues: false, more: false, transactions: [], mark: null, sections: [] });
  }

  /** @param vector where the inputs are behind it; null inside a transaction */
  write(message: OutMessage, vector: Vector | null): void {
    const used = usedBy(message.sections);
    const last = message.transactions.length - 1;
    const begun = message.continues ? (this.#open?.lsn ?? null) : null;
    // A number is given with the first row, so that it does not depend on where messages were cut.
    const lsns = message.transactions.map((_, i) => (i === 0 && begun !== null ? begun : used[i] ? ++this.#counter : null));
    this.#open = message.more ? { lsn: lsns[last] ?? null } : null;
    if (vector) {
      this.#vector = vector;
      this.#complete = this.#counter;
    }
    this.#send(message, lsns);
    if (this.resting && this.#epoch !== this.#options.epoch) this.#begin();
  }

  #send(message: OutMessage, lsns: readonly (Lsn | null)[]): void {
    const sections = message.sections
      .map((section) => this.#unwritten(section, lsns))
      .filter((section) => section.ops.length > 0);
    const used = usedBy(sections);
    const last = lsns.length - 1;
    // A transaction whose last part says nothing must be ended all the same.
    const unended = this.#unended === null ? -1 : lsns.indexOf(this.#unended);
    const ends = unended !== -1 && !(message.more && unended === last);
    const kept = [...lsns.keys()].filter((i) => used[i] || (i === unended && ends));
    if (kept.length === 0) return;
    const numbers: number[] = [];
    kept.forEach((i, number) => (numbers[i] = number));
    const continues = kept[0] === unended;
    const more = message.more && used[last] === true;
    this.#place = endOf(sections, lsns) ?? { lsn: this.#unended as Lsn, ordinal: this.#place.ordinal + 1 };
    this.#unended = more ? (lsns[last] as Lsn) : null;
    this.#append({
      kind: 'stream',
      continues,
      more,
      mark: null,
      transactions: kept.map((i) => {
        const lsn = lsns[i] as Lsn;
        return { lsn, endLsn: lsn, ...(message.transactions[i] as InTransaction) };
      }),
      sections: sections.map((section) => draftOf(section, (i) => numbers[i] as number)),
    });
  }

  /** Rows of a snapshot, and its marks. */
  read(mark: SnapshotMark | null, sections: readonly OutSection[]): void {
    assert(this.resting, 'a snapshot inside a transaction');
    this.#place = { lsn: this.#place.lsn, ordinal: Math.max(READ_ORDINAL_MIN, this.#place.ordinal + 1) };
    if (mark) this.#generation = Math.max(this.#generation, mark.generation);
    const drafts = sections.map((section) => draftOf(section, () => 0));
    this.#append({ kind: 'read', continues: false, more: false, transactions: [], mark, sections: drafts });
  }

  /** Of the snapshot that began last. */
  get generation(): number {
    return this.#generation;
  }

  /** Of a snapshot that begins here. */
  nextGeneration(): number {
    return this.#generation + 1;
  }

  /** Gives up a transaction that was begun: what it means is told again, in another way. */
  abandon(): void {
    this.#open = null;
    this.#unended = null;
    this.#resume = ORIGIN;
    this.#counter = maxLsn(this.#counter, this.#place.lsn);
    this.#complete = this.#counter;
    if (this.#epoch !== this.#options.epoch) this.#begin();
  }

  /** T3: without the rows that the last leader wrote. */
  #unwritten(section: OutSection, lsns: readonly (Lsn | null)[]): OutSection {
    const { transactions, ordinals } = section;
    const isNew = (row: number) =>
      compareSourcePosition({ lsn: lsns[transactions[row] as number] as Lsn, ordinal: ordinals[row] as number }, this.#resume) >
      0;
    const first = lsns[transactions[0] ?? 0];
    if (!first || first > this.#resume.lsn) return section;
    return rowsOf(section, [...ordinals.keys()].filter(isNew));
  }

  #append(
    message: Pick<BatchHeader, 'kind' | 'continues' | 'more' | 'mark' | 'transactions'> & Pick<BatchDraft, 'sections'>,
  ): void {
    const { name, definition, writer, clock, fail } = this.#options;
    const { sections, ...rest } = message;
    const state: OutputState = {
      inputs: writeVector(this.#vector),
      counter: formatLsn(this.#complete),
      definition,
      ...(this.rebuilding ? { rebuilding: true } : {}),
      ...(this.view ? { view: true } : {}),
      ...(this.retell.length > 0 ? { retell: this.retell } : {}),
      ...(message.more && this.until ? { until: this.until } : {}),
    };
    const watermark = Math.max(watermarkOf(this.#vector), this.#old?.watermark ?? 0);
    const header = {
      source: name,
      epoch: this.#epoch,
      position: this.#place,
      restart: this.#place.lsn,
      watermark,
      state,
      ...rest,
    };
    this.#sentAt = clock.monotonic();
    this.#sentVector = this.#vector;
    const appended = writer.append({ header, sections });
    appended.catch(fail);
    this.#appended = appended;
  }
}

/** Per transaction: does a row of it go out? */
function usedBy(sections: readonly OutSection[]): boolean[] {
  const used: boolean[] = [];
  for (const { transactions } of sections) for (const transaction of transactions) used[transaction] = true;
  return used;
}

/** The columns of a table that may have no rows. */
export function shapeAlone(schema: TableSchema): OutSection {
  return { schema, ops: [], transactions: [], ordinals: [], columns: schema.columns.map(() => columnOf([])), old: null };
}

/** The place of the last row; null when there is none. */
function endOf(sections: readonly OutSection[], lsns: readonly (Lsn | null)[]): SourcePosition | null {
  let end: SourcePosition | null = null;
  for (const { transactions, ordinals } of sections) {
    const row = ordinals.length - 1;
    const place = { lsn: lsns[transactions[row] as number] as Lsn, ordinal: ordinals[row] as number };
    if (!end || compareSourcePosition(place, end) > 0) end = place;
  }
  return end;
}

function draftOf(section: OutSection, transactionOf: (index: number) => number): SectionDraft {
  const { schema, ops, ordinals, columns, old } = section;
  return SectionDraft.ofColumns(schema, { ops, ordinals, columns, old, transactions: section.transactions.map(transactionOf) });
}

/** Chosen rows of a section. */
function rowsOf(section: OutSection, rows: readonly number[]): OutSection {
  const { old } = section;
  const at = new Map(rows.map((row, i) => [row, i]));
  const olds = old ? [...old.rows.keys()].filter((i) => at.has(old.rows[i] as number)) : [];
  return {
    ...section,
    ops: rows.map((row) => section.ops[row] as number),
    transactions: rows.map((row) => section.transactions[row] as number),
    ordinals: rows.map((row) => section.ordinals[row] as number),
    columns: section.columns.map((column) => pick(column, rows)),
    old:
      old && olds.length > 0
        ? {
            rows: olds.map((i) => at.get(old.rows[i] as number) as number),
            columns: old.columns.map((column) => pick(column, olds)),
          }
        : null,
  };
}
