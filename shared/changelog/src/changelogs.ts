import {
  type Batch,
  type BatchHeader,
  type Clock,
  compareSourcePosition,
  Fault,
  formatSourcePosition,
  type Kv,
  parseLsn,
  type Position,
  type Random,
  type SourcePosition,
  type StoredBatch,
  systemClock,
  systemOf,
  systemRandom,
} from '@tributary/core';
import type {
  ChangelogOptions,
  Changelogs,
  ChangelogStatus,
  ChangelogWriter,
  LastBatch,
  Placed,
  ReadOptions,
  Sought,
} from './changelog.ts';
import { batchAfter, decodeBatch } from './codec.ts';
import { DeadLetters, type LetterStore } from './dead-letters.ts';
import { Assembler, fragmentOf, isFragment } from './fragments.ts';
import type { EventStreams } from './event-stream.ts';
import { MemoryEventStreams } from './memory/event-streams.ts';
import { MemoryKv } from './memory/kv.ts';
import { MemoryLetters } from './memory/letters.ts';
import type { Store } from './store.ts';
import { Writer } from './writer.ts';

/** How often a reader looks for a changelog that is not there yet, ms. */
const ABSENT_POLL_MS = 250;

interface ChangelogsParts {
  readonly clock?: Clock;
  readonly random?: Random;
  readonly letters?: LetterStore;
  readonly eventStreams?: EventStreams;
  readonly positions?: Kv;
}

/** Changelogs over any {@link Store}. */
export class StoredChangelogs implements Changelogs {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #random: Random;

  readonly deadLetters: DeadLetters;
  readonly eventStreams: EventStreams;
  readonly positions: Kv;

  /** @param parts what is not the system's own; what is beside changelogs is kept in memory unless a place is given */
  constructor(store: Store, parts: ChangelogsParts = {}) {
    const { clock = systemClock, random = systemRandom, letters = new MemoryLetters() } = parts;
    this.deadLetters = new DeadLetters(letters);
    this.eventStreams = parts.eventStreams ?? new MemoryEventStreams();
    this.positions = parts.positions ?? new MemoryKv();
    this.#store = store;
    this.#clock = clock;
    this.#random = random;
  }

  async write(source: string, options: ChangelogOptions): Promise<ChangelogWriter> {
    await this.#store.create(source, options);
    const status = await this.status(source);
    const last = await this.last(source);
    return new Writer(this.#store, { source, last, lastSeq: status?.lastSeq ?? 0, random: this.#random });
  }

  status(source: string): Promise<ChangelogStatus | null> {
    return this.#store.status(source);
  }

  list(): Promise<string[]> {
    return this.#store.list();
  }

  async last(source: string): Promise<LastBatch | null> {
    const status = await this.status(source);
    if (!status || status.messages === 0) return null;
    const found = await this.#wholeAtOrBefore(source, status.lastSeq, status.firstSeq);
    if (!found) return null;
    const { header } = found.batch;
    const carrier =
      header.state === null && header.stateSeq > 0
        ? await this.#wholeAtOrBefore(source, header.stateSeq, header.stateSeq)
        : found;
    const state = carrier?.batch.header.state ?? null;
    const statePosition = carrier && state !== null ? { seq: carrier.seq, ...carrier.batch.header.position } : null;
    return { seq: found.seq, header, state, statePosition };
  }

  /** The newest whole batch whose last message is at or before `seq`: fragments without an end are passed over. */
  async #wholeAtOrBefore(source: string, seq: number, floor: number): Promise<{ seq: number; batch: Batch } | null> {
    for (let at = seq; at >= floor; at--) {
      const stored = await this.#store.get(source, at);
      if (!stored) continue;
      if (!isFragment(stored.bytes)) return { seq: at, batch: decodeBatch(stored.bytes) };
      const { index, count } = fragmentOf(stored.bytes);
      if (index < count - 1) continue;
      const assembler = new Assembler();
      let whole: Uint8Array | null = null;
      for (let part = at - index; part <= at; part++) {
        const message = await this.#store.get(source, part);
        whole = message && assembler.offer(message.bytes);
      }
      if (whole) return { seq: at, batch: decodeBatch(whole) };
    }
    return null;
  }

  async reconcileCopies(source: string, holds: (last: LastBatch | null) => boolean): Promise<boolean> {
    const { copies } = this.#store;
    const count = copies ? await copies.count(source) : 1;
    if (!copies || count < 2) return false;
    let longest = 0;
    // Who comes next is for the broker to say: some time the same one comes again.
    const foundThat = async (holds: (last: LastBatch | null) => boolean): Promise<boolean> => {
      for (let looks = 2 * count; looks > 0; looks--) {
        const last = await this.last(source);
        longest = Math.max(longest, last?.seq ?? 0);
        if (holds(last)) return true;
        if (!(await copies.another(source))) return false;
      }
      return false;
    };
    // Where none holds it, none has more than the longest.
    if (!(await foundThat(holds))) await foundThat((last) => (last?.seq ?? 0) === longest);
    await copies.renew(source);
    return true;
  }

  async find(source: string, storedAt: number): Promise<Position | null> {
    const status = await this.status(source);
    if (!status || status.messages === 0) return null;
    let low = status.firstSeq;
    let high = status.lastSeq + 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const stored = await this.#store.get(source, middle);
      if (stored && stored.storedAt < storedAt) low = middle + 1;
      else high = middle;
    }
    const found = await this.#firstWhole(source, low, status.lastSeq);
    return found && { seq: found.seq, ...found.header.position };
  }

  async seek(source: string, holds: (header: BatchHeader) => boolean): Promise<Sought | null> {
    const status = await this.status(source);
    if (!status || status.messages === 0) return null;
    const first = await this.#firstWhole(source, status.firstSeq, status.lastSeq);
    const last = await this.#wholeAtOrBefore(source, status.lastSeq, status.firstSeq);
    if (!first || !last) return null;
    const found = await this.#lastThat(source, status, holds);
    return { first, last: { seq: last.seq, header: last.batch.header }, found };
  }

  /** The last whole batch of the prefix that `holds`; null when it is empty. */
  async #lastThat(
    source: string,
    { firstSeq, lastSeq }: ChangelogStatus,
    holds: (header: BatchHeader) => boolean,
  ): Promise<Placed | null> {
    let found: Placed | null = null;
    // An empty stream may say that its first message is number 0; the broker refuses to be asked for that.
    let low = Math.max(1, firstSeq);
    let high = lastSeq + 1;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const one = await this.#firstWhole(source, middle, lastSeq);
      if (one && holds(one.header)) {
        found = one;
        low = one.seq + 1;
      } else high = middle;
    }
    return found;
  }

  /** The first whole batch that ends at or after `seq`. */
  async #firstWhole(source: string, seq: number, last: number): Promise<Placed | null> {
    for (let at = seq; at <= last; at++) {
      const found = await this.#wholeAtOrBefore(source, at, at);
      if (found) return { seq: at, header: found.batch.header };
    }
    return null;
  }

  /**
   * I7 Yields a batch only if it follows what the reader holds. Where the stream was cut anew (lost tail,
   * trimmed head), the reader finds its place by source position, which rises strictly along the stream.
   */
  async *read(source: string, { after, signal, wants, resumes = () => true }: ReadOptions): AsyncIterable<StoredBatch> {
    let held: Position = after;
    while (!signal.aborted) {
      const from = await this.#locate(source, held, signal);
      if (from === null) return;
      const assembler = new Assembler();
      let settled = false;
      let passed: string | undefined;
      for await (const stored of this.#store.follow(source, from, signal)) {
        const whole = assembler.offer(stored.bytes);
        if (!whole) continue;
        const batch = decodeBatch(whole, wants);
        if (batch.header.epoch !== passed && isForeign(batch.header, held)) {
          if (!(await this.#heals(source, { seq: stored.seq, header: batch.header }, held)))
            throw await this.#foreign(source, held);
          passed = batch.header.epoch;
        }
        const joined = join(batch, held);
        if (joined === 'gap') {
          // The stream was cut anew under a running reader: look for the place. There is none: history is gone.
          if (settled) break;
          throw trimmed(source, batch.header.follows, held);
        }
        settled = true;
        if (joined === 'before') continue;
        yield { ...joined, seq: stored.seq, storedAt: stored.storedAt };
        held = { seq: stored.seq, ...joined.header.position, epoch: joined.header.epoch };
      }
      if (!signal.aborted && !resumes())
        throw new Fault('broker_unreachable', `the connection broke while changelog ${source} was read`, { source });
    }
  }

  /** The sequence to read from so that nothing after `held` is missed; null when aborted. */
  async #locate(source: string, held: Position, signal: AbortSignal): Promise<number | null> {
    let status = await this.status(source);
    while (!status) {
      await this.#clock.sleep(ABSENT_POLL_MS);
      if (signal.aborted) return null;
      status = await this.status(source);
    }
    if (held.seq === 0 && held.lsn === 0n) return Math.max(1, status.firstSeq);
    const { from, foreign } = await this.#placeIn(source, status, held);
    if (foreign) throw await this.#foreign(source, held);
    return from;
  }

  async foreign(source: string, held: Position): Promise<Fault | null> {
    const status = await this.status(source);
    const found = status && held.epoch !== undefined ? await this.#placeIn(source, status, held) : null;
    return found?.foreign ? this.#foreign(source, held) : null;
  }

  async reached(source: string, held: Position): Promise<number> {
    const status = await this.status(source);
    if (!status || (held.seq === 0 && held.lsn === 0n)) return 0;
    return (await this.#placeIn(source, status, held)).from - 1;
  }

  async #placeIn(
    source: string,
    status: ChangelogStatus,
    held: Position,
  ): Promise<{ readonly from: number; readonly foreign: boolean }> {
    const { firstSeq, lastSeq } = status;
    const same = held.seq >= firstSeq ? await this.#wholeAtOrBefore(source, held.seq, held.seq) : null;
    if (same && isPlace(same.batch.header, held)) return { from: held.seq + 1, foreign: false };
    const place = streamPlace(held);
    const found = await this.#lastThat(source, status, ({ position }) => compareSourcePosition(position, place) <= 0);
    const from = found ? found.seq + 1 : Math.max(1, firstSeq);
    // What lies there, or the end where nothing does yet, must belong to the history that the reader knows.
    const next = (await this.#firstWhole(source, from, lastSeq)) ?? found;
    const foreign = next !== null && isForeign(next.header, held) && !(await this.#heals(source, next, held));
    return { from, foreign };
  }

  /** Did the epoch of a batch begin with a gap that a reader which stands there passes? Everything is read again behind it. */
  async #heals(source: string, { seq, header: { epoch } }: Placed, held: Position): Promise<boolean> {
    const status = await this.status(source);
    if (!status || isOtherSystem(held.epoch, epoch)) return false;
    const before = await this.#endBefore(source, { floor: status.firstSeq, end: seq, epoch });
    const begin = await this.#firstWhole(source, before + 1, seq);
    const { step, progress } = begin?.header.mark ?? {};
    return step === 'gap' && progress !== undefined && held.lsn <= parseLsn(progress);
  }

  /**
   * Why a reader's position means nothing in this changelog, and from where a replay would make it follow again: from the
   * end of what they have in common, because an epoch begins by reading every table again.
   */
  async #foreign(source: string, held: Position): Promise<Fault> {
    const last = await this.last(source);
    const ours = held.epoch ?? '';
    const theirs = last?.header.epoch ?? '';
    const at = formatSourcePosition(held);
    const facts = { source, held: at, epoch: ours, changelogEpoch: theirs };
    const [system, other] = [systemOf(ours), systemOf(theirs)];
    if (system !== null && other !== null && system !== other) {
      const message = `changelog ${source} is of database cluster ${other}, but this reader stands at ${at} of cluster ${system}`;
      return new Fault('other_system', message, { ...facts, replayFrom: 'start' });
    }
    const common = await this.#lastOfEpoch(source, ours);
    if (!common) {
      const message = `changelog ${source} was begun anew (epoch ${theirs}); this reader stands at ${at} of epoch ${ours}, of which it holds nothing`;
      return new Fault('other_epoch', message, { ...facts, replayFrom: 'start' });
    }
    const end = formatSourcePosition(common.header.position);
    const message = `this reader stands at ${at}, but changelog ${source} lost what lay behind ${end} and goes on with another epoch (${theirs})`;
    return new Fault('ahead_of_history', message, { ...facts, replayFrom: end });
  }

  /** The last batch of an epoch. Epochs are runs of the changelog: each is passed over by halving, from the end backwards. */
  async #lastOfEpoch(source: string, epoch: string): Promise<Placed | null> {
    const status = await this.status(source);
    let high = status?.lastSeq ?? 0;
    while (status && high >= status.firstSeq) {
      const at = await this.#wholeAtOrBefore(source, high, status.firstSeq);
      if (!at) return null;
      if (at.batch.header.epoch === epoch) return { seq: at.seq, header: at.batch.header };
      const other = at.batch.header.epoch;
      high = await this.#endBefore(source, { floor: status.firstSeq, end: at.seq, epoch: other });
    }
    return null;
  }

  /** The sequence before the run of one epoch that ends at `end`. */
  async #endBefore(source: string, run: { floor: number; end: number; epoch: string }): Promise<number> {
    let low = run.floor;
    let high = run.end;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      const one = await this.#firstWhole(source, middle, run.end);
      if (one?.header.epoch === run.epoch) high = middle;
      else low = Math.max(middle, one?.seq ?? middle) + 1;
    }
    return low - 1;
  }
}

/**
 * Where a reader looks for its place in a stream that was cut anew. Snapshot messages of a lost tail are not
 * written again with the same places, but reading rows again at the same point of the stream changes nothing:
 * so the place is the end of the transaction they followed.
 */
function streamPlace(held: SourcePosition): SourcePosition {
  return { lsn: held.lsn, ordinal: Math.min(held.ordinal, 2 ** 32 - 1) };
}

/** Is this the very batch that the reader holds? */
function isPlace({ position, epoch }: BatchHeader, held: Position): boolean {
  return compareSourcePosition(position, held) === 0 && (held.epoch === undefined || held.epoch === epoch);
}

/**
 * A batch of another epoch that begins before what the reader holds ends: its epoch goes on from something else, unless it
 * began with a `gap` that heals that. (One that begins later leaves a gap, whatever its epoch.)
 */
function isForeign({ follows, epoch }: BatchHeader, held: Position): boolean {
  if (held.epoch === undefined || held.epoch === epoch) return false;
  return compareSourcePosition(follows, held) < 0 || isOtherSystem(held.epoch, epoch);
}

function isOtherSystem(held: string | undefined, epoch: string): boolean {
  const [system, other] = [held === undefined ? null : systemOf(held), systemOf(epoch)];
  return system !== null && other !== null && system !== other;
}

/** The batch, without what the reader holds already; `before`: it holds all of it; `gap`: something lies between. */
function join(batch: Batch, held: Position): Batch | 'before' | 'gap' {
  const { follows, position } = batch.header;
  if (compareSourcePosition(follows, held) === 0) return batch;
  const place = streamPlace(held);
  if (compareSourcePosition(position, place) <= 0) return 'before';
  const gap = compareSourcePosition(follows, place);
  if (gap > 0) return 'gap';
  return gap === 0 || batch.header.kind === 'read' ? batch : batchAfter(batch, place);
}

function trimmed(source: string, follows: SourcePosition, held: Position): Fault {
  const names = { source, held: formatSourcePosition(held), follows: formatSourcePosition(follows) };
  return new Fault(
    'history_trimmed',
    `changelog ${source} begins after ${names.follows}, but this reader stands at ${names.held}`,
    names,
  );
}
