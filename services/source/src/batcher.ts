import { type ChangelogWriter, SectionDraft } from '@tributary/changelog';
import {
  type Clock,
  compareSourcePosition,
  formatLsn,
  LIMITS,
  type Lsn,
  type OpCode,
  READ_ORDINAL_MIN,
  type SnapshotMark,
  type SourcePosition,
  type Transaction,
} from '@tributary/core';
import { traceCapture } from '@tributary/ops';
import type { ConfirmedPrefix } from './confirmed-prefix.ts';
import type { SourceState } from './state.ts';
import type { Track } from './stream.ts';

export interface BatcherOptions {
  readonly source: string;
  readonly epoch: string;
  readonly writer: ChangelogWriter;
  readonly resume: SourcePosition;
  readonly restart: Lsn;
  readonly watermark: number;
  readonly lingerMs: number;
  readonly confirmed: ConfirmedPrefix;
  readonly hold: (reason: string) => void;
  readonly release: (reason: string) => void;
  readonly fail: (error: unknown) => void;
  readonly clock: Clock;
}

interface Current {
  readonly lsn: Lsn;
  readonly xid: number;
  readonly committedAt: number;
}

/** While this much is on its way a batch that is not full waits: bigger batches, fewer acknowledgements. */
const BUSY_BYTES = 1024 * 1024;

/**
 * Gathers changes into batches and sends them.
 *
 * A batch goes out at `batchBytes`, or `lingerMs` after its first transaction ended, always at a transaction end,
 * unless one transaction alone outgrows `transactionBytes`: then its parts go out as they come, marked `more`.
 * The last part of such a transaction always holds a change, so positions rise strictly.
 */
export class Batcher {
  readonly #options: BatcherOptions;
  #sections: SectionDraft[] = [];
  #drafts = new Map<Track, SectionDraft>();
  #transactions: Transaction[] = [];
  #current: Current | null = null;
  /** Index of the present transaction in this batch; -1 = it has no change here yet. */
  #index = -1;
  #bytes = 0;
  /** The present transaction has changes in an earlier message of the changelog. */
  #begunBefore = false;
  #continues = false;
  #position: SourcePosition;
  #sentPosition: SourcePosition;
  #restart: Lsn;
  #watermark: number;
  /** A batch waits for company; a timer that finds another number than its own was overtaken by a full batch. */
  #lingering = false;
  #sends = 0;
  /** It has waited long enough, in the middle of a transaction: it goes out where that ends. */
  #overdue = false;
  #closed = false;
  #tokens: string[] = [];
  readonly #heard = new Map<string, (seq: Promise<number>) => void>();
  /** Since when, monotonic ms; null = the reader flows. */
  #heldAt: number | null = null;
  #heldMs = 0;
  #lagMs = 0;
  #storedWatermark = 0;
  #storedLsn: Lsn;

  constructor(options: BatcherOptions) {
    this.#options = options;
    this.#position = options.resume;
    this.#sentPosition = options.resume;
    this.#restart = options.restart;
    this.#watermark = options.watermark;
    this.#storedLsn = options.resume.lsn;
  }

  begin(lsn: Lsn, xid: number, committedAt: number): void {
    this.#current = { lsn, xid, committedAt };
    this.#index = -1;
    this.#begunBefore = false;
  }

  /** Where the next change of a table goes. Sends what is full first. */
  section(track: Track, bytes: number, ordinal: number): SectionDraft {
    if (this.#bytes >= LIMITS.transactionBytes) this.#send(this.#index !== -1);
    if (this.#index === -1) this.#enter(ordinal);
    this.#bytes += bytes;
    let draft = this.#drafts.get(track);
    if (!draft) {
      draft = new SectionDraft(track.schema);
      this.#drafts.set(track, draft);
      this.#sections.push(draft);
    }
    return draft;
  }

  #enter(ordinal: number): void {
    const { lsn, xid, committedAt } = this.#current as Current;
    if (this.#transactions.length === 0) {
      // Changes before this one may also be in the changelog from an earlier leader.
      const resumed = this.#options.resume.lsn === lsn && ordinal > 1 && this.#options.resume.ordinal > 0;
      this.#continues = this.#begunBefore || resumed;
    }
    this.#index = this.#transactions.length;
    this.#transactions.push({ lsn, endLsn: lsn, xid, committedAt });
  }

  row(draft: SectionDraft, op: OpCode, ordinal: number): void {
    draft.row(op, this.#index, ordinal);
    this.#position = { lsn: (this.#current as Current).lsn, ordinal };
  }

  commit(endLsn: Lsn, changes: number): void {
    const { lsn, committedAt } = this.#current as Current;
    if (this.#index !== -1) {
      const entered = this.#transactions[this.#index] as Transaction;
      this.#transactions[this.#index] = { ...entered, endLsn };
    }
    const end = { lsn, ordinal: changes };
    if (compareSourcePosition(end, this.#position) > 0) this.#position = end;
    if (endLsn > this.#restart) this.#restart = endLsn;
    if (committedAt > this.#watermark) this.#watermark = committedAt;
    this.#current = null;
    if (this.#overdue || this.#bytes >= LIMITS.batchBytes) this.#send(false);
    else this.#linger();
  }

  token(text: string): void {
    this.#tokens.push(text);
  }

  heard(token: string): Promise<number> {
    return new Promise((resolve) => this.#heard.set(token, resolve));
  }

  publish(mark: SnapshotMark | null, sections: readonly SectionDraft[], state: SourceState | null): Promise<number> {
    this.#send(false);
    const { lsn, ordinal } = this.#position;
    this.#position = { lsn, ordinal: Math.max(READ_ORDINAL_MIN, ordinal + 1) };
    return this.#append({ kind: 'read', more: false, mark, sections, state, transactions: [], continues: false });
  }

  close(): void {
    this.#closed = true;
  }

  facts() {
    const { writer, clock } = this.#options;
    return {
      lsn: formatLsn(this.#storedLsn),
      lagMs: this.#lagMs,
      watermark: this.#storedWatermark,
      pendingBytes: writer.pendingBytes,
      heldMs: this.#heldMs + (this.#heldAt === null ? 0 : clock.monotonic() - this.#heldAt),
    };
  }

  #linger(): void {
    if (this.#lingering) return;
    this.#lingering = true;
    const { clock, lingerMs, writer, fail } = this.#options;
    const sends = this.#sends;
    clock
      .sleep(lingerMs)
      .then(() => {
        if (this.#closed || sends !== this.#sends) return;
        this.#lingering = false;
        if (writer.pendingBytes > BUSY_BYTES) this.#linger();
        else if (this.#current) this.#overdue = true;
        else this.#send(false);
      })
      .catch(fail);
  }

  /** Sends what has been gathered, if it brings the changelog forward. */
  #send(more: boolean): void {
    if (!more && compareSourcePosition(this.#position, this.#sentPosition) === 0) return;
    const sent = { sections: this.#sections, transactions: this.#transactions, continues: this.#continues };
    this.#sections = [];
    this.#drafts = new Map();
    this.#transactions = [];
    this.#index = -1;
    this.#bytes = 0;
    this.#continues = false;
    this.#begunBefore = more;
    this.#sends++;
    this.#lingering = false;
    this.#overdue = false;
    void this.#append({ kind: 'stream', more, mark: null, state: null, ...sent });
  }

  /** Never rejects: a failed append ends the stream through `fail`, and its promise stays open. */
  #append(message: {
    kind: 'stream' | 'read';
    more: boolean;
    continues: boolean;
    mark: SnapshotMark | null;
    state: SourceState | null;
    transactions: readonly Transaction[];
    sections: readonly SectionDraft[];
  }): Promise<number> {
    const { writer, source, epoch, confirmed, clock, fail } = this.#options;
    const { sections, ...rest } = message;
    const header = { source, epoch, position: this.#position, restart: this.#restart, watermark: this.#watermark, ...rest };
    this.#sentPosition = this.#position;
    const stored = confirmed.sent(this.#restart, clock.monotonic());
    const committedAt = rest.transactions.at(-1)?.committedAt;
    const lsn = this.#position.lsn;
    const traced = traceCapture(header, clock.now());
    const appended = new Promise<number>((resolve) => {
      writer.append({ header, sections }).then((seq) => {
        stored(clock.monotonic());
        const now = clock.now();
        traced?.(now, seq);
        if (committedAt !== undefined) this.#lagMs = Math.max(0, now - committedAt / 1_000);
        if (lsn > this.#storedLsn) this.#storedLsn = lsn;
        this.#storedWatermark = Math.max(this.#storedWatermark, header.watermark);
        resolve(seq);
      }, fail);
    });
    if (!rest.more) this.#answerTokens(appended);
    this.#press();
    return appended;
  }

  #answerTokens(appended: Promise<number>): void {
    for (const token of this.#tokens) {
      this.#heard.get(token)?.(appended);
      this.#heard.delete(token);
    }
    this.#tokens = [];
  }

  /** Back-pressure: what the broker has not stored yet is bounded. */
  #press(): void {
    const { writer, hold, release, fail, clock } = this.#options;
    if (this.#heldAt !== null || writer.pendingBytes <= LIMITS.pendingBytes) return;
    const heldAt = clock.monotonic();
    this.#heldAt = heldAt;
    hold('changelog');
    writer.belowPending(LIMITS.pendingBytes / 2).then(() => {
      this.#heldMs += clock.monotonic() - heldAt;
      this.#heldAt = null;
      release('changelog');
    }, fail);
  }
}
