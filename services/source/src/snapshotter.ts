import { type ChangelogWriter, CsvCutter, SectionDraft } from '@tributary/changelog';
import { aborted } from '@tributary/cluster';
import { type Clock, Fault, formatLsn, LIMITS, type Lsn, type TableSchema } from '@tributary/core';
import { type CatalogTable, sqlState, type Visibility } from '@tributary/postgres';
import type { CatalogWatch } from './catalog-watch.ts';
import type { Shape } from './contract.ts';
import type { Rows, SourceSession } from './database.ts';
import { type Range, Ranges } from './ranges.ts';
import { type ChunkRows, reconcile } from './reconcile.ts';
import type { SnapshotState, SourceState, TableState } from './state.ts';
import type { Stream } from './stream.ts';
import { type Flight, keyCells, keyText, type Touches } from './touches.ts';

/** Sessions that read side by side. */
const READERS = 3;
/** Size of a chunk that is aimed at, bytes of CSV: one message of it fits into what a reader asks for at once. */
const CHUNK_BYTES = 768 * 1024;
/** Every so many chunks the whole state goes along, so that the next leader has little to read. */
const STATE_EVERY = 64;
const REREAD_KEYS = 1_000;
const POLL_MS = 25;

export interface SnapshotterOptions {
  readonly source: string;
  readonly open: (name: string) => Promise<SourceSession>;
  readonly watch: CatalogWatch;
  readonly stream: Stream;
  readonly touches: Touches;
  readonly writer: ChangelogWriter;
  readonly state: SourceState;
  readonly clock: Clock;
  /** Makes the stream pass the present WAL position soon. */
  readonly heartbeat: () => void;
  /** Resolves when the stream has stored a commit that was made after this call. */
  readonly pass: () => Promise<unknown>;
}

export interface SnapshotProgress {
  readonly table: string;
  readonly tablesDone: number;
  readonly tablesTotal: number;
  readonly rows: number;
  readonly fraction: number;
}

/** A table changed under its snapshot, or another snapshot of it was asked for: this one is worth nothing. */
class Superseded extends Error {}

/**
 * Takes the snapshots that are due, one table after another, each in ranges that several sessions read side by side.
 * The rules and why they hold: ARCHITECTURE.md, Capture. Streaming never waits for a keyed table.
 */
export class Snapshotter {
  readonly #options: SnapshotterOptions;
  #wake: () => void = () => {};
  #idle: (() => void)[] = [];
  #progress: SnapshotProgress | null = null;
  #done = 0;
  /** The changelog stands behind every transaction below this xid. */
  #behind = -1n;
  rows = 0;

  constructor(options: SnapshotterOptions) {
    this.#options = options;
  }

  get progress(): SnapshotProgress | null {
    return this.#progress;
  }

  /** Some table's snapshot became due. */
  wake(): void {
    this.#wake();
  }

  /** Resolves when no snapshot is due or running. */
  settled(): Promise<void> {
    if (this.#next() === null) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  async run(signal: AbortSignal): Promise<void> {
    const sessions: SourceSession[] = [];
    try {
      while (!signal.aborted) {
        const name = this.#next();
        if (name === null) {
          this.#progress = null;
          this.#done = 0;
          for (const resolve of this.#idle.splice(0)) resolve();
          for (const session of sessions.splice(0)) await session.close();
          await this.#sleepUntilWoken(signal);
          continue;
        }
        while (sessions.length < READERS) sessions.push(await this.#options.open(`snapshot ${sessions.length + 1}`));
        await this.#table(name, sessions, signal);
        this.#done++;
      }
    } finally {
      for (const session of sessions) await session.close();
    }
  }

  /**
   * A table whose snapshot runs or is due: rows that others refer to come before those others, so that projections which check
   * foreign keys wait for as little as possible.
   */
  #next(): string | null {
    const { state, watch } = this.#options;
    const due = Object.keys(state.tables).filter((name) => state.tables[name]?.snapshot);
    const free = due.find((name) => !watch.table(name)?.references.some(({ to }) => due.includes(to)));
    return due.find((name) => state.tables[name]?.snapshot?.begun) ?? free ?? due[0] ?? null;
  }

  async #sleepUntilWoken(signal: AbortSignal): Promise<void> {
    const end = () => this.#wake();
    signal.addEventListener('abort', end);
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      if (this.#next() !== null || signal.aborted) resolve();
    });
    signal.removeEventListener('abort', end);
  }

  async #table(name: string, sessions: readonly SourceSession[], signal: AbortSignal): Promise<void> {
    const { watch, state, stream, clock } = this.#options;
    const table = watch.table(name);
    const known = state.tables[name];
    if (!table || !known) {
      await stream.whenPassed(0n, () => {
        delete state.tables[name];
        const mark = { step: 'end', table: name, generation: known?.snapshot?.generation ?? 0, reset: false } as const;
        if (known?.open) void stream.publish(mark, [], state);
      });
      return;
    }
    try {
      if (known.mode === 'keyed') await this.#keyed(name, table, sessions, signal);
      else await this.#whole(name, table, sessions[0] as SourceSession, signal);
    } catch (error) {
      // The table was dropped, altered or locked away while it was read: look again and start over.
      const altered = error instanceof Superseded || /^(42P01|42703|XX000)$/.test(sqlState(error));
      if (!altered || signal.aborted) throw error;
      stream.stopCollecting(name);
      await watch.check(false);
      const now = state.tables[name];
      if (now?.snapshot?.begun) watch.request(name);
      await clock.sleep(POLL_MS, signal);
    }
  }

  /**
   * Waits until every transaction whose touches nobody remembers, or that wrote before the table was published, is visible;
   * then until the changelog stands behind the latter. What they wrote unpublished is in chunks and never in the stream: at a
   * position before their commits nothing would tell that the database was set back past them. Nor does a projection stand
   * beyond that place, as it may beyond the one where the stream began.
   */
  async #waitTracked(name: string, session: SourceSession, signal: AbortSignal): Promise<void> {
    const { touches, watch, clock, pass } = this.#options;
    while (!signal.aborted) {
      const unpublished = watch.unpublishedBelow(name);
      const { xmin } = await session.visibility();
      if (xmin < unpublished || xmin < touches.untrackedBelow) {
        await clock.sleep(POLL_MS, signal);
        continue;
      }
      if (unpublished <= this.#behind) return;
      await Promise.race([pass(), aborted(signal)]);
      if (!signal.aborted) this.#behind = xmin;
    }
    signal.throwIfAborted();
  }

  async #keyed(name: string, table: CatalogTable, sessions: readonly SourceSession[], signal: AbortSignal): Promise<void> {
    const { stream, touches, state, watch } = this.#options;
    const known = state.tables[name] as TableState;
    const run: Run = {
      name,
      table,
      shape: await watch.shapeOf(table),
      snapshot: known.snapshot as SnapshotState,
      still: () => state.tables[name]?.snapshot === run.snapshot,
      chunks: 0,
    };
    await this.#waitTracked(name, sessions[0] as SourceSession, signal);
    if (!run.snapshot.begun) {
      await stream.whenPassed(0n, () => {
        check(run);
        const touched = touches.keys(name);
        const kept = run.shape.absent.size > 0;
        const reset = !known.churn && touched.length === 0 && !state.regained && !kept;
        run.snapshot.reread = touched;
        stream.collectIncomplete(name, touched);
        run.snapshot.begun = true;
        known.open = false;
        known.churn = 'captured';
        void stream.publish({ step: 'begin', table: name, generation: run.snapshot.generation, reset }, [], this.#stateNow(name));
      });
    }
    await this.#readRanges(run, sessions, signal);
    await this.#reread(run, sessions[0] as SourceSession, signal);
    await stream.whenPassed(0n, () => {
      check(run);
      stream.stopCollecting(name);
      const mark = { step: 'end', table: name, generation: run.snapshot.generation, reset: false } as const;
      known.snapshot = null;
      void stream.publish(mark, shapeAlone(run.shape.schema), state);
    });
  }

  /** The state as it travels: with the keys that are to be read again as they are now. */
  #stateNow(name: string): SourceState {
    const { state, stream } = this.#options;
    const snapshot = state.tables[name]?.snapshot;
    if (snapshot) snapshot.reread = [...stream.incomplete(name)];
    return state;
  }

  async #readRanges(run: Run, sessions: readonly SourceSession[], signal: AbortSignal): Promise<void> {
    const ranges = new Ranges(run.table, run.snapshot, CHUNK_BYTES);
    // Chunks are published in the order of their ranges, so that progress is one place.
    let turn: Promise<void> = Promise.resolve();
    await Promise.all(
      sessions.map(async (session) => {
        for (let range = ranges.next(); range && !signal.aborted; range = ranges.next()) {
          const before = turn;
          const mine = this.#chunk(run, session, { rows: range.rows, before, range }, signal).then(({ bytes }) =>
            ranges.learn(range.blocks, bytes),
          );
          // Where one fails those behind it fail too: published alone, their progress would say that the failed range was read.
          turn = mine.then(() => {});
          turn.catch(() => {
            // Thrown by whoever awaits its own chunk.
          });
          await mine;
        }
      }),
    );
    signal.throwIfAborted();
  }

  /**
   * Reads rows that the stream brought incomplete, by key. One that moved to its key in a transaction that is not visible
   * yet can only be read when it is: the snapshot does not end before.
   */
  async #reread(run: Run, session: SourceSession, signal: AbortSignal): Promise<void> {
    let keys: readonly string[] = [...this.#options.stream.incomplete(run.name)];
    while (keys.length > 0) {
      const open: string[] = [];
      for (let at = 0; at < keys.length; at += REREAD_KEYS) {
        const rows = { kind: 'keys', keys: keys.slice(at, at + REREAD_KEYS).map(keyCells) } as const;
        open.push(...(await this.#chunk(run, session, { rows, before: Promise.resolve(), range: null }, signal)).open);
      }
      keys = open;
      if (keys.length > 0) await this.#options.clock.sleep(POLL_MS, signal);
    }
  }

  /** Reads one chunk, waits until the stream has passed it, publishes what is left of it. */
  async #chunk(run: Run, session: SourceSession, job: Job, signal: AbortSignal): Promise<ChunkRead> {
    const { stream, touches, writer, heartbeat } = this.#options;
    for (;;) {
      check(run);
      await this.#waitTracked(run.name, session, signal);
      const epoch = touches.epoch;
      const flight = touches.takeOff();
      try {
        const { chunk, passed } = await this.#read(session, { ...run, flight }, job.rows);
        await job.before;
        await writer.belowPending(LIMITS.pendingBytes);
        if (stream.passed < passed) heartbeat();
        const published = await stream.whenPassed(passed, () => {
          check(run);
          if (touches.epoch !== epoch) return null;
          const reconciled = reconcile(job.sweeps ? { ...chunk, sweeps: true } : chunk, touches);
          this.#publish(run, job, reconciled.draft);
          return reconciled;
        });
        if (!published) continue;
        this.rows += chunk.rows;
        this.#report(run, chunk.rows);
        return { bytes: chunk.csv.length, open: published.open };
      } finally {
        touches.land(flight);
      }
    }
  }

  #publish(run: Run, { range }: Job, draft: SectionDraft | null): void {
    const { stream } = this.#options;
    if (range) {
      run.snapshot.leaf = range.leaf;
      run.snapshot.block = range.end;
    }
    const whole = ++run.chunks % STATE_EVERY === 0;
    if (!draft && !whole) return;
    const progress = range ? { progress: `${range.leaf}:${range.end}` } : {};
    const mark = { step: 'chunk', table: run.name, generation: run.snapshot.generation, reset: false, ...progress } as const;
    void stream.publish(mark, draft ? [draft] : [], whole ? this.#stateNow(run.name) : null);
  }

  /** One short transaction: what it sees, the rows, and a WAL position after everything it sees. */
  async #read(
    session: SourceSession,
    { table, shape, flight }: Pick<Run, 'table' | 'shape'> & { readonly flight: Flight },
    chosen: Rows,
  ): Promise<{ chunk: ChunkRows; passed: Lsn }> {
    const snapshot = await session.begin();
    flight.seen = snapshot;
    try {
      const pieces: Buffer[] = [];
      const copy = session.copy(table, shape.read, chosen);
      let step = await copy.next();
      for (; !step.done; step = await copy.next()) pieces.push(step.value);
      const passed = await session.walPosition();
      await session.end();
      const asked = chosen.kind === 'keys' ? chosen.keys.map(keyText) : [];
      return { chunk: { shape, csv: Buffer.concat(pieces), rows: step.value, snapshot, asked }, passed };
    } catch (error) {
      await session.end().catch(() => {});
      throw error;
    }
  }

  /**
   * A table without usable key, in one piece: the stream rests between two transactions until the table has been read by a
   * snapshot that sees everything streamed of it; what that snapshot sees beyond is skipped when the stream brings it.
   */
  async #whole(name: string, table: CatalogTable, session: SourceSession, signal: AbortSignal): Promise<void> {
    const { stream, touches, state, watch, clock } = this.#options;
    const schema = await watch.schemaOf(table);
    const snapshot = state.tables[name]?.snapshot;
    await this.#waitTracked(name, session, signal);
    while (!signal.aborted) {
      const resume = await stream.pause();
      const flight = touches.takeOff();
      try {
        if (state.tables[name]?.snapshot !== snapshot) throw new Superseded();
        const seen = await session.begin(table);
        flight.seen = seen;
        if (!touches.any(name, seen) && seen.xmin >= touches.untrackedBelow) {
          await this.#publishWhole({ name, table, schema, seen }, session);
          return;
        }
      } finally {
        await session.end().catch(() => {});
        touches.land(flight);
        resume();
      }
      await clock.sleep(POLL_MS, signal);
    }
    signal.throwIfAborted();
  }

  async #publishWhole(
    whole: { name: string; table: CatalogTable; schema: TableSchema; seen: Visibility },
    session: SourceSession,
  ): Promise<void> {
    const { name, table, schema, seen } = whole;
    const { stream, state, watch, writer, heartbeat } = this.#options;
    const known = state.tables[name] as TableState;
    const { generation } = known.snapshot as SnapshotState;
    const mark = (step: 'begin' | 'chunk' | 'end') => ({ step, table: name, generation, reset: true });
    // Everything that the snapshot sees was committed before this place.
    const until = await session.walPosition();
    known.open = true;
    void stream.publish({ ...mark('begin'), progress: formatLsn(stream.placeOf(until)) }, [], state);
    const cutter = new CsvCutter(CHUNK_BYTES);
    const send = async (cut: { bytes: Uint8Array; rows: number } | null) => {
      if (!cut) return;
      this.rows += cut.rows;
      void stream.publish(mark('chunk'), [SectionDraft.fromCsv(schema, cut.bytes, cut.rows)], null);
      await writer.belowPending(LIMITS.pendingBytes);
    };
    for await (const piece of session.copy(table, schema, { kind: 'all' })) {
      await send(cutter.push(piece));
    }
    await send(cutter.end());
    known.content = await watch.contentOf(session, table);
    known.churn = table.churn;
    known.skip = { snapshot: seen.text, until: formatLsn(until) };
    known.snapshot = null;
    known.open = false;
    stream.skip(name, seen, until);
    watch.settled(name);
    void stream.publish(mark('end'), shapeAlone(schema), state);
    // Readers take it when the stream has passed `until`.
    heartbeat();
  }

  /**
   * Reads the rows of a table that a condition chooses, or those of given keys (of which the ones without a row are named
   * as deleted), beside any snapshot. @returns rows read
   */
  async choose(name: string, chosen: Chosen, signal: AbortSignal): Promise<number> {
    const { watch, open, state } = this.#options;
    const table = watch.table(name);
    const known = state.tables[name];
    if (!table || !known) throw new Fault('not_found', `there is no captured table ${name}`);
    if (known.mode !== 'keyed')
      throw new Fault('source_misconfigured', `${name} has no usable key: it can only be read as a whole`);
    const session = await open('snapshot chosen');
    try {
      const run: Run = {
        name,
        table,
        shape: await watch.shapeOf(table),
        snapshot: { generation: state.generation, begun: true, leaf: 0, block: 0, reread: [] },
        still: () => true,
        chunks: 0,
      };
      const counted = this.rows;
      const before = Promise.resolve();
      for (const rows of piecesOf(chosen)) await this.#chunk(run, session, { rows, before, range: null, sweeps: true }, signal);
      return this.rows - counted;
    } finally {
      await session.close();
    }
  }

  #report(run: Run, rows: number): void {
    const due = Object.values(this.#options.state.tables).filter((table) => table.snapshot).length;
    const blocks = run.table.leaves.reduce((sum, leaf) => sum + leaf.blocks, 0);
    const before = run.table.leaves.filter((leaf) => leaf.oid < run.snapshot.leaf).reduce((sum, leaf) => sum + leaf.blocks, 0);
    const sum = (this.#progress?.table === run.name ? this.#progress.rows : 0) + rows;
    this.#progress = {
      table: run.name,
      tablesDone: this.#done,
      tablesTotal: this.#done + due,
      rows: sum,
      fraction: blocks === 0 ? 1 : Math.min(1, (before + run.snapshot.block) / blocks),
    };
  }
}

interface Run {
  readonly name: string;
  readonly table: CatalogTable;
  readonly shape: Shape;
  readonly snapshot: SnapshotState;
  readonly still: () => boolean;
  chunks: number;
}

interface ChunkRead {
  readonly bytes: number;
  /** See {@link reconcile}. */
  readonly open: readonly string[];
}

interface Job {
  readonly rows: Rows;
  /** Chunks of earlier ranges have been published. */
  readonly before: Promise<void>;
  readonly range: Range | null;
  /** Keys that have no row are named as deleted. */
  readonly sweeps?: boolean;
}

/** What a chosen snapshot reads. */
type Chosen = Extract<Rows, { kind: 'keys' | 'where' }>;

/** In chunks of as many keys as one statement takes. */
function piecesOf(chosen: Chosen): Chosen[] {
  if (chosen.kind === 'where') return [chosen];
  const { keys } = chosen;
  return Array.from({ length: Math.ceil(keys.length / REREAD_KEYS) }, (_, i) => ({
    kind: 'keys',
    keys: keys.slice(i * REREAD_KEYS, (i + 1) * REREAD_KEYS),
  }));
}

/** What is told of a table that has no rows: projections make it, and follow its columns. */
function shapeAlone(schema: TableSchema): SectionDraft[] {
  return [new SectionDraft(schema)];
}

function check(run: Run): void {
  if (!run.still()) throw new Superseded();
}
