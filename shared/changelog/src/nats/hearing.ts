import { type AskOptions, Fault } from '@tributary/core';
import { createInbox, headers, type Msg, type NatsConnection, type Subscription } from 'nats';
import { ENOUGH, STEP, TAKEN, WINDOW, WORKING } from './telling.ts';

/** Of an answer, that may be under way or wait here to be taken, bytes. */
const WINDOW_BYTES = 4 * 2 ** 20;
/** A wait that took so much longer than it should: it is this process that stood still, ms. */
const STOOD_STILL_MS = 500;

/** One answer as it comes in: what was said and not taken yet, at most {@link WINDOW_BYTES} of it and one part. */
export class Hearing {
  readonly #connection: NatsConnection;
  readonly #subject: string;
  readonly #inbox = createInbox();
  readonly #subscription: Subscription;
  readonly #queue: Msg[] = [];
  #heardAt = performance.now();
  /** Where to say what was taken; empty: nobody wants to know yet. */
  #line = '';
  #taken = 0;
  #said = 0;
  #over = false;
  #wake: () => void = () => {};

  constructor(connection: NatsConnection, subject: string) {
    this.#connection = connection;
    this.#subject = subject;
    this.#subscription = connection.subscribe(this.#inbox, { callback: (_error, message) => this.#heard(message) });
  }

  ask(question: Uint8Array): void {
    const about = headers();
    about.set(WINDOW, String(WINDOW_BYTES));
    this.#connection.publish(this.#subject, question, { reply: this.#inbox, headers: about });
  }

  /** Looks again at what it waits for. */
  readonly poke = (): void => this.#wake();

  /** A part of the answer, or its last message. @throws Fault `not_found`, `worker_lost`, `broker_unreachable` */
  async next({ idleMs, lostMs, signal }: Required<Pick<AskOptions, 'idleMs' | 'lostMs'>> & { signal: AbortSignal | undefined }) {
    const askedAt = performance.now();
    while (this.#queue.length === 0) {
      signal?.throwIfAborted();
      const now = performance.now();
      const leftMs = Math.min(askedAt + idleMs, this.#heardAt + lostMs) - now;
      if (leftMs <= 0) throw silent(this.#subject, now - askedAt >= idleMs ? { idleMs } : { lostMs });
      const late = await silence(leftMs, (resolve) => (this.#wake = resolve));
      // What was said to a process that stood still is read after its timers.
      if (late) this.#heardAt = Math.max(this.#heardAt, performance.now() - lostMs + STOOD_STILL_MS);
    }
    signal?.throwIfAborted();
    const message = this.#queue.shift() as Msg;
    if (message.headers?.code === 503) throw unanswered(this.#subject);
    this.#over = message.headers?.has(STEP) ?? false;
    return message;
  }

  /** A part was read: more may be sent. */
  took({ data }: Msg): void {
    this.#taken += data.length;
    if (this.#taken - this.#said < WINDOW_BYTES / 4) return;
    this.#said = this.#taken;
    this.#say(TAKEN, String(this.#taken));
  }

  close(): void {
    this.#subscription.unsubscribe();
    if (!this.#over) this.#say(STEP, ENOUGH);
  }

  #heard(message: Msg): void {
    this.#heardAt = performance.now();
    this.#line = message.reply ?? this.#line;
    // Said while nobody takes the parts that are there, it must not pile up.
    if (message.headers?.get(STEP) !== WORKING) this.#queue.push(message);
    this.#wake();
  }

  #say(name: string, value: string): void {
    if (this.#line === '' || this.#connection.isClosed()) return;
    const told = headers();
    told.set(name, value);
    this.#connection.publish(this.#line, new Uint8Array(), { headers: told });
  }
}

export function unanswered(subject: string): Fault {
  return new Fault('not_found', `nobody answers ${subject}`, { subject });
}

function silent(subject: string, { idleMs, lostMs }: Pick<AskOptions, 'idleMs' | 'lostMs'>): Fault {
  if (idleMs !== undefined) return new Fault('broker_unreachable', `no answer on ${subject} for ${idleMs} ms`, { subject });
  const silence = `not a word for ${lostMs} ms from the worker that took the question on ${subject}`;
  return new Fault('worker_lost', `${silence}: it is lost, or the way to it`, { subject });
}

/** Waits until `arm`'s resolver is called, or `ms` have gone by. @returns did it take far longer than that? */
async function silence(ms: number, arm: (resolve: () => void) => void): Promise<boolean> {
  const end = performance.now() + ms;
  let timer: NodeJS.Timeout | undefined;
  await new Promise<void>((resolve) => {
    arm(resolve);
    timer = setTimeout(resolve, ms);
  });
  clearTimeout(timer);
  return performance.now() > end + STOOD_STILL_MS;
}
