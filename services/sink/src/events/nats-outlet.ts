import type { EventStreams, EventStreamWriter } from '@tributary/changelog';
import type { NatsTarget } from '@tributary/config';
import { type Clock, Fault, type Kv, type Position } from '@tributary/core';
import type { Log } from '@tributary/cluster';
import type { OutEvent } from './event.ts';
import type { Outlet, Standing } from './outlet.ts';
import { formatPosition, NOTHING_SENT, type Noted, parsePosition, standingAt, StandingNote } from './standing.ts';
import { placeOf, sequenceOf } from './place.ts';
import { Subjects } from './subject.ts';

/** Sent and not yet stored; beyond it the sink stops reading. */
const PENDING_EVENTS_MAX = 512;
const PENDING_BYTES_MAX = 4 * 1024 * 1024;
/** How often it is noted where it stands while nothing is sent that would tell. */
const NOTE_MS = 5_000;

/** Headers by which the next leader finds its place; written in lower case, as they are read. */
const SEQUENCE = 'tributary-sequence';
const RESUME = 'tributary-resume';
const REPLAY = 'tributary-replay';

export interface NatsOutletOptions {
  readonly sink: string;
  readonly source: string;
  readonly target: NatsTarget;
  readonly replicas: number;
  readonly streams: EventStreams;
  readonly positions: Kv;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Sends events to a JetStream stream of its own, each exactly once.
 *
 * The message is the effect, and its headers are the position: one atomic write (I6). Messages are fenced like those of a
 * changelog. Beside that it is noted, every few seconds, how far it came without sending anything, because heartbeats
 * and changes that the filter leaves out make no message. Which of the two counts is told by the stream: the note names
 * the sequence behind which it was written, so a message behind that is newer, and a stream that ends before it has lost
 * its tail, which is then sent again from the last message that is there.
 */
export class NatsOutlet implements Outlet {
  readonly #options: NatsOutletOptions;
  readonly #note: StandingNote;
  readonly #subjects: Subjects;
  readonly #stream: string;
  #writer: EventStreamWriter | null = null;
  #replay = 0;
  #sent = 0;
  #stored = 0;
  #pendingBytes = 0;
  #lastSeq = 0;
  #failure: unknown = null;
  #waiters: { readonly ready: () => boolean; readonly resolve: () => void; readonly reject: (error: unknown) => void }[] = [];
  #unnoted: Noted | null = null;
  #notedOn = 0;

  constructor(options: NatsOutletOptions) {
    this.#options = options;
    const { sink, source, target, positions } = options;
    this.#note = new StandingNote(positions, `${sink}/${source}`);
    this.#subjects = new Subjects(target.subject, options);
    this.#stream = target.stream.replaceAll('{sink}', sink).replaceAll('{source}', source);
  }

  async open(): Promise<Standing> {
    const { target, replicas, streams, clock } = this.#options;
    this.#forget();
    const { maxAgeMs, maxBytes } = target;
    const writer = await streams.open(this.#stream, { subject: this.#subjects.all, replicas, maxAgeMs, maxBytes });
    this.#writer = writer;
    this.#lastSeq = writer.lastSeq;
    const noted = await this.#note.read();
    const standing = this.#standing(writer, noted);
    // Also when nothing has changed: from now on no earlier leader can note anything.
    await this.#note.write(standing);
    this.#notedOn = clock.monotonic();
    this.#replay = standing.replay;
    return standing;
  }

  #standing({ lastSeq, lastHeaders }: EventStreamWriter, noted: Noted | null): Noted {
    if (noted && noted.streamSeq === lastSeq) return noted;
    if (!lastHeaders) {
      if (noted && lastSeq < noted.streamSeq) {
        const { sink, source, log } = this.#options;
        const mend = `what it held is not sent again by itself; if it is wanted: tributary replay ${sink}/${source} --from …`;
        log.warn({ stream: this.#stream, lastSeq, notedSeq: noted.streamSeq }, `the event stream was lost or made anew; ${mend}`);
      }
      return { ...(noted ?? NOTHING_SENT), streamSeq: lastSeq };
    }
    const done = placeOf(lastHeaders.get(SEQUENCE) ?? '');
    const resume = parsePosition(lastHeaders.get(RESUME) ?? '');
    if (!done || !resume) {
      throw new Fault(
        'target_conflict',
        `the last message of stream ${this.#stream} was not sent by this sink, which must be its only writer: name another nats.stream`,
        { stream: this.#stream },
      );
    }
    return { resume, done, missing: new Set(), replay: Number(lastHeaders.get(REPLAY) ?? 0), streamSeq: lastSeq };
  }

  send(event: OutEvent, resume: Position): Promise<void> | null {
    if (this.#failure) return Promise.reject(this.#failure as Error);
    const writer = this.#writer as EventStreamWriter;
    const body = event.body ?? '';
    const bytes = Buffer.byteLength(body);
    if (bytes > writer.bodyBytesMax) return Promise.reject(this.#tooLarge(event, bytes));
    this.#sent++;
    this.#pendingBytes += bytes;
    const sending = writer.append({
      subject: this.#subjects.of(event),
      id: this.#replay === 0 ? event.id : `${event.id}#${this.#replay}`,
      headers: {
        'Content-Type': event.contentType,
        ...event.headers,
        [SEQUENCE]: sequenceOf(event.place),
        [RESUME]: formatPosition(resume),
        [REPLAY]: String(this.#replay),
      },
      body,
    });
    sending.then(
      (seq) => {
        if (writer !== this.#writer) return;
        this.#stored++;
        this.#pendingBytes -= bytes;
        this.#lastSeq = seq;
        this.#wake();
      },
      (error: unknown) => {
        if (writer === this.#writer) this.#fail(error);
      },
    );
    return this.#full() ? this.#until(() => !this.#full()) : null;
  }

  #full(): boolean {
    return this.#sent - this.#stored > PENDING_EVENTS_MAX || this.#pendingBytes > PENDING_BYTES_MAX;
  }

  #tooLarge({ table, place }: OutEvent, bytes: number): Fault {
    return new Fault(
      'poison',
      `an event of ${table} (${bytes} bytes) is larger than a message of the broker may be: raise its max_payload`,
      { sourceTable: table, lsn: place.lsn, ordinal: place.ordinal, bytes },
    );
  }

  async settle(after: Position): Promise<void> {
    const sent = this.#sent;
    await this.#until(() => this.#stored >= sent);
    this.#unnoted = { ...standingAt(after), replay: this.#replay, streamSeq: this.#lastSeq };
    if (this.#options.clock.monotonic() - this.#notedOn > NOTE_MS) await this.#noteDown();
  }

  async #noteDown(): Promise<void> {
    const noting = this.#unnoted;
    if (!noting) return;
    this.#unnoted = null;
    this.#notedOn = this.#options.clock.monotonic();
    await this.#note.write(noting);
  }

  async moveTo(to: Position): Promise<void> {
    const sent = this.#sent;
    await this.#until(() => this.#stored >= sent);
    this.#unnoted = { ...standingAt(to), replay: this.#replay + 1, streamSeq: this.#lastSeq };
    await this.#noteDown();
  }

  async close(): Promise<void> {
    try {
      const sent = this.#sent;
      await this.#until(() => this.#stored >= sent);
      await this.#noteDown();
    } finally {
      this.#forget();
    }
  }

  facts(): Record<string, unknown> {
    return { stream: this.#stream, sent: this.#stored, pending: this.#sent - this.#stored };
  }

  #forget(): void {
    this.#writer?.close();
    this.#writer = null;
    this.#sent = 0;
    this.#stored = 0;
    this.#pendingBytes = 0;
    this.#failure = null;
    this.#waiters = [];
    this.#unnoted = null;
  }

  #until(ready: () => boolean): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure as Error);
    if (ready()) return Promise.resolve();
    return new Promise((resolve, reject) => this.#waiters.push({ ready, resolve, reject }));
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#wake();
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (this.#failure) waiter.reject(this.#failure);
      else if (waiter.ready()) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }
}
