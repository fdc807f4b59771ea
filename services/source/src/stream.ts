import type { ChangelogWriter, ColumnDraft, SectionDraft } from '@tributary/changelog';
import {
  assert,
  type Clock,
  compareSourcePosition,
  Fault,
  formatLsn,
  keyColumns,
  type Lsn,
  Op,
  READ_ORDINAL_MIN,
} from '@tributary/core';
import type { SnapshotMark, SourcePosition, TableSchema } from '@tributary/core';
import { tableName } from '@tributary/core';
import type { Visibility } from '@tributary/postgres';
import { Batcher } from './batcher.ts';
import { type Anchor, branchOf } from './continuity.ts';
import type { Shape } from './contract.ts';
import type { ConfirmedPrefix } from './confirmed-prefix.ts';
import { readLsn, readRelation, readTime, readTuple, type RelationMessage, Tag, TupleKind } from './pgoutput.ts';
import type { SourceState } from './state.ts';
import { keyText, type Touches } from './touches.ts';

/** Everything the stream knows of one captured table in its present shape. */
export interface Track {
  readonly name: string;
  readonly schema: TableSchema;
  /** Indices of the key columns. */
  readonly key: readonly number[];
  /** Columns of a tuple that the WAL tells of old rows. */
  readonly identity: readonly boolean[];
  /** Columns of a tuple that are taken; null = all of them, and the table has no others. */
  readonly taken: readonly boolean[] | null;
  /** Of the table and not of its tuples: see {@link Shape.absent}. */
  readonly absent: ReadonlySet<number>;
  /** Its changes are counted and left out. */
  readonly leftOut: boolean;
  /** Changes of the table so far, whatever shape it had. */
  readonly counter: { changes: number };
}

export interface StreamOptions {
  readonly source: string;
  readonly epoch: string;
  readonly writer: ChangelogWriter;
  /** What the changelog holds already: changes at or before it are dropped. */
  readonly resume: SourcePosition;
  readonly restart: Lsn;
  /** What must come first; null = whatever comes. */
  readonly anchor: Anchor | null;
  readonly watermark: number;
  readonly lingerMs: number;
  readonly touches: Touches;
  readonly confirmed: ConfirmedPrefix;
  /** Catalog lookup for a shape seen for the first time. */
  readonly lookup: (relation: RelationMessage) => Promise<Shape>;
  /** Stops and goes on taking bytes from the socket. */
  readonly hold: (reason: string) => void;
  readonly release: (reason: string) => void;
  readonly fail: (error: unknown) => void;
  readonly clock: Clock;
}

/** Changes that a whole-table snapshot saw before the stream brought them. */
interface Skip {
  readonly snapshot: Visibility;
  readonly until: Lsn;
}

/**
 * Turns pgoutput messages into batches.
 *
 * I1 Ordinals count every change of a transaction before any filter, so they depend on the WAL alone.
 * I8 Snapshot messages are let in only between transactions ({@link whenPassed}).
 *
 * Everything runs synchronously inside the socket's data event. When something must be awaited (a shape that is not
 * known, a whole-table snapshot) the few messages of the present read are queued and the socket rests.
 */
export class Stream {
  readonly #options: StreamOptions;
  readonly #batcher: Batcher;
  readonly #tracks = new Map<number, Track>();
  readonly #shapes = new Map<string, Track>();
  readonly #skips = new Map<string, Skip>();
  /** Per table with a snapshot under way: keys whose unchanged columns the stream did not bring. */
  readonly #incomplete = new Map<string, Set<string>>();
  #queue: Buffer[] = [];
  #blocks = 0;
  #failed = false;
  #inTransaction = false;
  /** Until the anchor has come nothing is let in, and nothing goes out. */
  #anchor: Anchor | null;
  /** PostgreSQL's LSN, and the place in the changelog that belongs to it. */
  #commitLsn: Lsn = 0n;
  #place: Lsn = 0n;
  readonly #branch: Lsn;
  #ordinal = 0;
  #xid = 0;
  /** The transaction's xid while its touches are to be remembered. */
  #touching: bigint | null = null;
  #skipping = true;
  #passed: Lsn;
  #waiting: { readonly lsn: Lsn; readonly run: () => void; readonly cancel: (error: Fault) => void }[] = [];
  readonly #counters = new Map<string, { changes: number }>();
  changes = 0;
  /** Commits seen since the stream began, heartbeats among them. */
  commits = 0;

  constructor(options: StreamOptions) {
    this.#options = options;
    this.#batcher = new Batcher(options);
    this.#passed = options.restart;
    this.#anchor = options.anchor;
    this.#branch = branchOf(options.resume.lsn);
  }

  /** One pgoutput message: the bytes from `start` to `end`. Never throws: what goes wrong ends the stream through `fail`. */
  message(bytes: Buffer, start = 0, end = bytes.length): void {
    if (this.#failed) return;
    if (this.#blocks > 0) {
      this.#queue.push(Buffer.from(bytes.subarray(start, end)));
      return;
    }
    try {
      this.#handle(bytes, start, end);
    } catch (error) {
      this.#fail(error);
    }
  }

  keepalive(walEnd: Lsn): void {
    if (this.#blocks > 0 || this.#queue.length > 0 || this.#inTransaction || this.#failed || this.#anchor) return;
    if (walEnd > this.#passed) this.#passed = walEnd;
    this.#runWaiting();
  }

  /**
   * Runs `step` between two transactions as soon as everything before `lsn` has been streamed. `step` may publish.
   * In the order of their positions; at once when the stream is there already.
   */
  whenPassed<T>(lsn: Lsn, step: () => T): Promise<T> {
    if (this.#failed) return Promise.reject(closed());
    return new Promise((resolve, reject) => {
      const run = () => {
        try {
          resolve(step());
        } catch (error) {
          reject(error as Error);
        }
      };
      this.#waiting.push({ lsn, run, cancel: reject });
      this.#waiting.sort((a, b) => (a.lsn < b.lsn ? -1 : a.lsn > b.lsn ? 1 : 0));
      if (this.#blocks === 0) this.#runWaiting();
    });
  }

  /** Stops the stream between two transactions. @returns the function that lets it go on */
  async pause(): Promise<() => void> {
    await this.whenPassed(0n, () => this.#block());
    return () => this.#unblock();
  }

  /** Everything streamed so far goes out, then this message. Call inside `whenPassed` or a pause only. */
  publish(mark: SnapshotMark | null, sections: readonly SectionDraft[], state: SourceState | null): Promise<number> {
    assert(!this.#inTransaction, 'a snapshot message inside a transaction');
    return this.#batcher.publish(mark, sections, state);
  }

  /** The place in the changelog that belongs to a position of the database. */
  placeOf(lsn: Lsn): Lsn {
    return this.#branch + lsn;
  }

  /** From now on changes of this table by transactions that `snapshot` sees are dropped, up to `until`. */
  skip(table: string, snapshot: Visibility, until: Lsn): void {
    this.#skips.set(table, { snapshot, until });
  }

  /** Begins to collect keys of rows that the stream brings incomplete. */
  collectIncomplete(table: string, known: Iterable<string>): Set<string> {
    const keys = new Set(known);
    this.#incomplete.set(table, keys);
    return keys;
  }

  /** Keys collected so far. */
  incomplete(table: string): ReadonlySet<string> {
    return this.#incomplete.get(table) ?? new Set();
  }

  stopCollecting(table: string): void {
    this.#incomplete.delete(table);
  }

  /** Resolves with the sequence of the batch that carries this heartbeat, once it is stored. */
  heard(token: string): Promise<number> {
    return this.#batcher.heard(token);
  }

  get passed(): Lsn {
    return this.#passed;
  }

  facts() {
    return this.#batcher.facts();
  }

  close(): void {
    this.#failed = true;
    this.#batcher.close();
    for (const waiting of this.#waiting.splice(0)) waiting.cancel(closed());
  }

  #fail(error: unknown): void {
    if (this.#failed) return;
    this.close();
    this.#options.fail(error);
  }

  #block(): void {
    this.#blocks++;
    this.#options.hold('stream');
  }

  #unblock(): void {
    this.#blocks--;
    if (this.#blocks > 0 || this.#failed) return;
    const queue = this.#queue;
    this.#queue = [];
    // A message may block again: the rest of the queue is then queued anew, in order.
    for (const bytes of queue) this.message(bytes);
    if (this.#blocks > 0) return;
    this.#runWaiting();
    if (this.#blocks === 0) this.#options.release('stream');
  }

  #runWaiting(): void {
    while (!this.#inTransaction && this.#blocks === 0 && !this.#failed && !this.#anchor) {
      const first = this.#waiting[0];
      if (!first || first.lsn > this.#passed) return;
      this.#waiting.shift();
      first.run();
    }
  }

  #handle(bytes: Buffer, start: number, end: number): void {
    switch (bytes[start]) {
      case Tag.insert:
        return this.#insert(bytes, start, end);
      case Tag.update:
        return this.#update(bytes, start, end);
      case Tag.delete:
        return this.#delete(bytes, start, end);
      case Tag.begin:
        return this.#begin(bytes, start);
      case Tag.commit:
        return this.#commit(bytes, start);
      case Tag.relation:
        return this.#relation(bytes.subarray(start, end));
      case Tag.truncate:
        return this.#truncate(bytes.subarray(start, end));
      case Tag.message:
        return this.#logical(bytes.subarray(start, end));
      default:
        // Origin and type messages carry nothing that the catalog does not tell better.
        return undefined;
    }
  }

  #begin(bytes: Buffer, start: number): void {
    assert(!this.#inTransaction, 'a transaction inside a transaction');
    this.#inTransaction = true;
    this.#commitLsn = readLsn(bytes, start + 1);
    this.#place = this.#branch + this.#commitLsn;
    const committedAt = readTime(bytes, start + 9);
    if (this.#anchor) this.#hold(this.#anchor, committedAt);
    this.#xid = bytes.readUInt32BE(start + 17);
    this.#ordinal = 0;
    this.#touching = this.#options.touches.begin(this.#xid);
    this.#skipping = this.#place <= this.#options.resume.lsn;
    this.#batcher.begin(this.#place, this.#xid, committedAt);
  }

  /** The first transaction must be the one the changelog ends with. @throws Fault `source_rewound` */
  #hold({ commit, committedBy }: Anchor, committedAt: number): void {
    if (this.#commitLsn !== commit || (committedBy !== null && committedAt > committedBy)) {
      const names = { expected: formatLsn(commit), found: formatLsn(this.#commitLsn) };
      throw new Fault(
        'source_rewound',
        `the changelog ends with a transaction at ${names.expected}, but the database has another one at ${names.found}`,
        names,
      );
    }
    this.#anchor = null;
  }

  #commit(bytes: Buffer, start: number): void {
    const endLsn = readLsn(bytes, start + 10);
    this.#inTransaction = false;
    this.commits++;
    if (endLsn > this.#passed) this.#passed = endLsn;
    this.#batcher.commit(endLsn, this.#ordinal);
    if (this.#waiting.length > 0) this.#runWaiting();
  }

  /** @returns the table when this change is to be captured; counts it in any case */
  #next(bytes: Buffer, start: number): Track | null {
    const ordinal = ++this.#ordinal;
    assert(ordinal < READ_ORDINAL_MIN, 'a transaction of more than 2^32 changes');
    const track = this.#tracks.get(bytes.readUInt32BE(start + 1));
    assert(track, 'a change of a relation that was never described');
    if (this.#skipping && compareSourcePosition({ lsn: this.#place, ordinal }, this.#options.resume) <= 0) return null;
    const skip = this.#skips.size > 0 ? this.#skips.get(track.name) : undefined;
    if (skip) {
      if (this.#commitLsn >= skip.until) this.#skips.delete(track.name);
      else if (skip.snapshot.sees(skip.snapshot.widen(this.#xid))) return null;
    }
    if (track.leftOut) return null;
    this.changes++;
    track.counter.changes++;
    return track;
  }

  #insert(bytes: Buffer, start: number, end: number): void {
    const track = this.#next(bytes, start);
    if (!track) return;
    const draft = this.#batcher.section(track, end - start, this.#ordinal);
    readTuple(bytes, start + 6, draft.cells, track.taken, null);
    this.#batcher.row(draft, Op.created, this.#ordinal);
    if (this.#touching !== null) this.#touch(track, draft.cells, { deleted: false, complete: true });
  }

  #update(bytes: Buffer, start: number, end: number): void {
    const track = this.#next(bytes, start);
    if (!track) return;
    const draft = this.#batcher.section(track, end - start, this.#ordinal);
    const kind = bytes[start + 5];
    let at = start + 6;
    if (kind !== TupleKind.new) {
      const old = draft.oldCells();
      at = readTuple(bytes, at, old, kind === TupleKind.key ? track.identity : track.taken) + 1;
      if (this.#touching !== null) this.#touch(track, old, { deleted: true, complete: true });
    }
    readTuple(bytes, at, draft.cells, track.taken);
    this.#batcher.row(draft, Op.updated, this.#ordinal);
    if (this.#touching !== null || this.#incomplete.size > 0)
      this.#touch(track, draft.cells, { deleted: false, complete: false });
  }

  #delete(bytes: Buffer, start: number, end: number): void {
    const track = this.#next(bytes, start);
    if (!track) return;
    const draft = this.#batcher.section(track, end - start, this.#ordinal);
    readTuple(bytes, start + 6, draft.cells, bytes[start + 5] === TupleKind.key ? track.identity : track.taken);
    this.#batcher.row(draft, Op.deleted, this.#ordinal);
    if (this.#touching !== null) this.#touch(track, draft.cells, { deleted: true, complete: true });
  }

  #truncate(bytes: Buffer): void {
    const count = bytes.readUInt32BE(1);
    for (let i = 0; i < count; i++) {
      const track = this.#next(bytes, 5 + i * 4);
      if (!track) continue;
      const draft = this.#batcher.section(track, 16, this.#ordinal);
      for (const cells of draft.cells) cells.push(null);
      this.#batcher.row(draft, Op.truncated, this.#ordinal);
      if (this.#touching !== null) this.#options.touches.truncated(track.name, this.#touching);
    }
  }

  /** Remembers the row whose cells were just pushed. */
  #touch(track: Track, columns: readonly ColumnDraft[], change: { deleted: boolean; complete: boolean }): void {
    const key = track.key.length === 0 ? '*' : keyText(track.key.map((c) => columns[c]?.last()));
    let unchanged: Set<number> | null = null;
    if (!change.complete) {
      for (let c = 0; c < columns.length; c++) {
        if (columns[c]?.last() === undefined && !track.absent.has(c)) unchanged = (unchanged ?? new Set<number>()).add(c);
      }
      if (unchanged) this.#incomplete.get(track.name)?.add(key);
    }
    if (this.#touching !== null) {
      this.#options.touches.note(track.name, key, { xid: this.#touching, deleted: change.deleted, unchanged });
    }
  }

  #relation(bytes: Buffer): void {
    const relation = readRelation(bytes);
    const signature = JSON.stringify(relation);
    const known = this.#shapes.get(signature);
    if (known) {
      this.#tracks.set(relation.oid, known);
      return;
    }
    this.#block();
    this.#options.lookup(relation).then(
      ({ schema, absent, leftOut }) => {
        const taken = relation.columns.map((_, c) => !absent.has(c));
        const track: Track = {
          name: tableName(schema),
          schema,
          key: keyColumns(schema),
          identity: relation.columns.map((column, c) => column.key && taken[c] === true),
          taken: absent.size === 0 ? null : taken,
          absent,
          leftOut,
          counter: this.#counter(tableName(schema)),
        };
        this.#shapes.set(signature, track);
        this.#tracks.set(relation.oid, track);
        this.#unblock();
      },
      (error: unknown) => this.#fail(error),
    );
  }

  /** Changes of a table that this stream has brought. */
  changesOf(table: string): number {
    return this.#counter(table).changes;
  }

  #counter(table: string): { changes: number } {
    let counter = this.#counters.get(table);
    if (!counter) this.#counters.set(table, (counter = { changes: 0 }));
    return counter;
  }

  /** Shapes are looked up again: a key or a type may have changed without a word in the stream. */
  forgetShapes(): void {
    this.#shapes.clear();
  }

  #logical(bytes: Buffer): void {
    const end = bytes.indexOf(0, 10);
    if (bytes.toString('latin1', 10, end) !== 'tributary') return;
    const length = bytes.readUInt32BE(end + 1);
    this.#batcher.token(bytes.toString('utf8', end + 5, end + 5 + length));
  }
}

function closed(): Fault {
  return new Fault('fenced', 'the stream was closed');
}
