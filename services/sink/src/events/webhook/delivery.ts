import type { WebhookTarget } from '@tributary/config';
import { type Clock, Fault, type Position } from '@tributary/core';
import type { Answer, Backoff, Message, Receiver } from '@tributary/projection';
import type { OutEvent } from '../event.ts';
import type { Standing } from '../outlet.ts';
import { formatPlace } from '../place.ts';
import type { StandingNote } from '../standing.ts';
import { Lanes } from './lanes.ts';
import { type Entry, Ledger } from './ledger.ts';
import type { EventQuarantine } from './quarantine.ts';

/** Taken and not settled; beyond it the sink stops reading. */
const OPEN_EVENTS_MAX = 512;
const OPEN_BYTES_MAX = 4 * 1024 * 1024;
/** One request holds no more, unless one event does. */
const REQUEST_BYTES_MAX = 1024 * 1024;
/** What is under way when it is to stop may still come to its end for so long. */
const DRAIN_MS = 500;
/** How often it is noted where it stands while nothing is sent. */
const NOTE_MS = 5_000;

export interface DeliveryOptions {
  readonly target: Pick<WebhookTarget, 'concurrency' | 'batch' | 'retries'>;
  readonly onError: 'halt' | 'quarantine';
  readonly receiver: Pick<Receiver, 'post'>;
  readonly backoff: Backoff;
  readonly note: Pick<StandingNote, 'write'>;
  readonly quarantine: EventQuarantine;
  readonly clock: Clock;
}

interface Sending extends Pick<OutEvent, 'keys' | 'tables'> {
  readonly event: OutEvent;
  readonly entry: Entry;
  readonly bytes: number;
  attempts: number;
  /** How many events the receiver had taken when this one was first sent: more since then, and it is not away. */
  takenBefore: number;
}

interface Waiter {
  readonly ready: () => boolean;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** The sending to a webhook from one opening to the next: see {@link WebhookOutlet}. */
export class Delivery {
  readonly replay: number;
  readonly #options: DeliveryOptions;
  readonly #ledger: Ledger;
  readonly #lanes = new Lanes<Sending>();
  readonly #ended = new AbortController();
  /** To be sent again as soon as there is room, before any other. */
  readonly #again: Sending[] = [];
  #active = 0;
  #openBytes = 0;
  #taken = 0;
  #settled = 0;
  #retries = 0;
  /** No request before this moment of the monotonic clock: the receiver asked for it. */
  #pausedUntil = 0;
  #failure: unknown = null;
  #draining = false;
  #waiters: Waiter[] = [];
  /** How many events were settled when it was last noted. */
  #noted = 0;
  #notedOn: number;
  #noting: Promise<void> | null = null;

  constructor(options: DeliveryOptions, standing: Standing) {
    this.#options = options;
    this.replay = standing.replay;
    this.#ledger = new Ledger(standing);
    this.#notedOn = options.clock.monotonic();
  }

  /** As an outlet's. @throws Fault `receiver_refused`, `receiver_away`, `fenced`: then nothing more is sent */
  send(event: OutEvent, resume: Position): Promise<void> | null {
    if (this.#failure) return Promise.reject(this.#failure as Error);
    const bytes = Buffer.byteLength(event.body ?? '');
    const { keys, tables } = event;
    this.#openBytes += bytes;
    this.#lanes.add({ event, keys, tables, bytes, entry: this.#ledger.take(event.place, resume), attempts: 0, takenBefore: 0 });
    this.#pump();
    return this.#full() ? this.#until(() => !this.#full()) : null;
  }

  /** As an outlet's. */
  async settle(after: Position): Promise<void> {
    const end = this.#ledger.end(after);
    let settled: number | null = null;
    await this.#until(() => {
      if (!this.#ledger.closed(end)) return false;
      settled ??= this.#settled;
      return this.#noted >= settled;
    });
    if (this.#options.clock.monotonic() - this.#notedOn > NOTE_MS) this.#noteDown();
  }

  /** Takes nothing more, lets what is under way come to its end for a moment, and notes where it stands. */
  async drain(): Promise<void> {
    this.#draining = true;
    const late = new AbortController();
    const stopped = this.#options.clock.sleep(DRAIN_MS, late.signal).catch(() => {});
    await Promise.race([this.#until(() => this.#active === 0).catch(() => {}), stopped]);
    late.abort(new Error('drained'));
    this.#ended.abort(new Error('the delivery has ended'));
    await this.#noting;
    // Another worker may have taken over: then its note counts, and what was settled here since may come twice.
    await this.#write().catch(() => {});
    this.#fail(new Fault('fenced', 'the delivery has ended'));
  }

  /** Sends letters again, or gives them up. @returns how many */
  letters(what: 'retry' | 'drop', table: string | undefined): Promise<number> {
    const { quarantine, receiver } = this.#options;
    if (what === 'drop') return quarantine.drop(table);
    return quarantine.retry(table, (message) => receiver.post(message, this.#ended.signal));
  }

  facts(): Record<string, unknown> {
    return {
      sent: this.#taken,
      pending: this.#ledger.open,
      retries: this.#retries,
      quarantine: this.#options.quarantine.facts(),
    };
  }

  #full(): boolean {
    return this.#ledger.open >= OPEN_EVENTS_MAX || this.#openBytes >= OPEN_BYTES_MAX;
  }

  #pump(): void {
    const { target, clock } = this.#options;
    while (this.#active < target.concurrency && !this.#draining && !this.#failure) {
      if (clock.monotonic() < this.#pausedUntil) return;
      const sendings = this.#next();
      if (sendings.length === 0) return;
      this.#active++;
      this.#deliver(sendings)
        .catch((error: unknown) => this.#fail(error))
        .finally(() => {
          this.#active--;
          this.#wake();
          this.#pump();
        });
    }
  }

  /** What goes into the next request: one that is sent again goes alone. */
  #next(): Sending[] {
    const again = this.#again.shift();
    if (again) return [again];
    const sendings: Sending[] = [];
    for (let bytes = 0; sendings.length < this.#options.target.batch && bytes < REQUEST_BYTES_MAX; ) {
      const next = this.#lanes.take();
      if (!next) break;
      sendings.push(next);
      bytes += next.bytes;
    }
    return sendings;
  }

  async #deliver(taken: readonly Sending[]): Promise<void> {
    const { quarantine, receiver, clock } = this.#options;
    const sendings: Sending[] = [];
    for (const one of taken) {
      if (quarantine.holds(one.event)) await this.#putAside(one, null);
      else sendings.push(one);
    }
    if (sendings.length === 0) return;
    for (const one of sendings) if (one.attempts === 0) one.takenBefore = this.#taken;
    const answer = await receiver.post(messageOf(sendings), this.#ended.signal);
    // Whether it was taken is not known, or not to be noted any more: it is sent again by whoever goes on.
    if (this.#ended.signal.aborted) return;
    if (answer.kind === 'taken') {
      this.#taken += sendings.length;
      for (const one of sendings) this.#settle(one);
      return;
    }
    this.#retries++;
    if (answer.retryAfterMs !== null && answer.kind === 'away') this.#pause(clock.monotonic() + answer.retryAfterMs);
    for (const one of sendings) await this.#notTaken(one, answer, sendings.length === 1);
  }

  /** Again, aside, or the end of everything. @param alone false: nobody knows which of several was the reason */
  async #notTaken(one: Sending, answer: Exclude<Answer, { kind: 'taken' }>, alone: boolean): Promise<void> {
    const { target, backoff, onError } = this.#options;
    const { attempts } = target.retries;
    if (answer.kind !== 'gone' && !alone)
      return this.#later(one, answer.kind === 'refused' ? 0 : backoff.ms(1, answer.retryAfterMs));
    one.attempts++;
    if (answer.kind !== 'gone' && one.attempts < attempts) return this.#later(one, backoff.ms(one.attempts, answer.retryAfterMs));
    const { table, place } = one.event;
    const message = `${answer.reason} to an event of ${table} at ${formatPlace(place)}, after ${one.attempts} attempt(s)`;
    const facts = { table, attempts: one.attempts };
    const away = answer.kind === 'away' && this.#taken === one.takenBefore;
    if (away) throw new Fault('receiver_away', message, facts);
    if (onError === 'halt' || answer.kind === 'gone') throw new Fault('receiver_refused', message, facts);
    await this.#putAside(one, { kind: 'receiver_refused', message });
  }

  async #putAside(one: Sending, reason: { readonly kind: string; readonly message: string } | null): Promise<void> {
    await this.#options.quarantine.put(one.event, reason);
    this.#settle(one);
  }

  #later(one: Sending, ms: number): void {
    this.#options.clock.sleep(ms, this.#ended.signal).then(
      () => {
        this.#again.push(one);
        this.#pump();
      },
      () => {},
    );
  }

  #pause(until: number): void {
    if (until <= this.#pausedUntil) return;
    this.#pausedUntil = until;
    const { clock } = this.#options;
    clock.sleep(until - clock.monotonic(), this.#ended.signal).then(
      () => {
        // A timer may fire a moment before its time: what was slept through is over, whatever the clock says.
        if (this.#pausedUntil === until) this.#pausedUntil = 0;
        this.#pump();
      },
      () => {},
    );
  }

  #settle(one: Sending): void {
    this.#lanes.release(one);
    this.#ledger.settle(one.entry);
    this.#openBytes -= one.bytes;
    this.#settled++;
    this.#noteDown();
    this.#wake();
  }

  /** Notes where it stands, again and again until nothing has changed meanwhile. */
  #noteDown(): void {
    if (this.#noting) return;
    this.#noting = this.#write()
      .catch((error: unknown) => this.#fail(error))
      .finally(() => {
        this.#noting = null;
        this.#wake();
        if (this.#settled > this.#noted && !this.#failure) this.#noteDown();
      });
  }

  async #write(): Promise<void> {
    const settled = this.#settled;
    this.#notedOn = this.#options.clock.monotonic();
    await this.#options.note.write({ ...this.#ledger.standing(), replay: this.replay, streamSeq: 0 });
    this.#noted = settled;
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

/** Several events go as a JSON list, named by the first of them and how many more there are. */
function messageOf(sendings: readonly Sending[]): Message {
  const [first, ...more] = sendings.map(({ event }) => event) as [OutEvent, ...OutEvent[]];
  if (more.length === 0) return { id: first.id, contentType: first.contentType, headers: first.headers, body: first.body ?? '' };
  return {
    id: `${first.id}+${more.length}`,
    contentType: first.contentType.replace('application/cloudevents+json', 'application/cloudevents-batch+json'),
    headers: {},
    body: `[${[first, ...more].map(({ body }) => body).join(',')}]`,
  };
}
