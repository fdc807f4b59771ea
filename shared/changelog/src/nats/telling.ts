import { Fault } from '@tributary/core';
import { createInbox, headers, type Msg, type NatsConnection, type Subscription } from 'nats';

/** Header of what is no part of an answer: `working` while there is no next part yet; of the last message `end`, or `fault` with the fault as its body. */
export const STEP = 'Tributary-Step';
export const WORKING = 'working';
/** Header of a question: how many bytes of its answer may be under way that were not taken. */
export const WINDOW = 'Tributary-Window';
/** Header of the end: how many parts there were. */
export const PARTS = 'Tributary-Parts';
/** Header of what whoever asked says on the line: how many bytes he has taken in all. */
export const TAKEN = 'Tributary-Taken';
/** The same, when he wants no more. */
export const ENOUGH = 'enough';

/** Whoever works on an answer says so this often, ms. */
const WORKING_MS = 1_000;
/** Answers up to this size need no line, bytes. */
const SMALL_BYTES = 256 * 1024;
/** Whoever takes nothing for so long while there is more does not get it, ms: an answer may hold a snapshot of a state open. */
const UNREAD_MS = 30_000;

/**
 * One answer on its way. Core NATS holds nobody up: what is sent to somebody who does not read piles up with him, and with the broker until it cuts him
 * off. So an answer that is long, or takes long, has a line of its own, on which whoever asked says how much he has taken; more than a window beyond that is
 * not sent. Where he is no longer there the broker says so on the line (503), to what is sent, be it only that the work goes on; nothing is sent then, and what was
 * begun (a command, perhaps) is ended as if he were there.
 */
export class Telling {
  readonly #connection: NatsConnection;
  readonly #question: Msg;
  readonly #window: number;
  readonly #working: NodeJS.Timeout;
  #line: { readonly inbox: string; readonly subscription: Subscription } | null = null;
  #parts = 0;
  #sent = 0;
  #taken = 0;
  #gone = false;
  #wake: () => void = () => {};

  constructor(connection: NatsConnection, question: Msg) {
    this.#connection = connection;
    this.#question = question;
    const window = Number(question.headers?.get(WINDOW));
    // Who does not say so, a worker of another version, never says what he has taken.
    this.#window = window > 0 ? window : Number.POSITIVE_INFINITY;
    this.#working = setInterval(() => this.#send(new Uint8Array(), { step: WORKING, listen: true }), WORKING_MS);
  }

  /**
   * Resolves when the next part may be made.
   * @throws Fault `query_refused` when nothing was taken for too long
   */
  async part(bytes: Uint8Array): Promise<void> {
    // Others have their turn, also where parts cost no waiting.
    if (this.#gone) return new Promise((resolve) => setImmediate(resolve));
    this.#parts++;
    this.#sent += bytes.length;
    this.#send(bytes, { listen: this.#sent > SMALL_BYTES });
    while (!this.#gone && this.#sent - this.#taken >= this.#window) {
      const before = this.#taken;
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        timer = setTimeout(resolve, UNREAD_MS);
      });
      clearTimeout(timer);
      if (!this.#gone && this.#taken === before)
        throw new Fault('query_refused', `the answer was not read for ${UNREAD_MS} ms`, { bytes: this.#sent });
    }
  }

  end(step: 'end' | 'fault', bytes: Uint8Array): void {
    this.close();
    this.#send(bytes, { step });
  }

  close(): void {
    clearInterval(this.#working);
    this.#line?.subscription.unsubscribe();
    this.#line = null;
  }

  #send(bytes: Uint8Array, { step, listen = false }: { readonly step?: string; readonly listen?: boolean }): void {
    if (this.#gone || this.#connection.isClosed()) return;
    if (listen) this.#line ??= this.#listen();
    const told = headers();
    if (step !== undefined) told.set(STEP, step);
    if (step === 'end') told.set(PARTS, String(this.#parts));
    this.#question.respond(bytes, {
      ...(step === undefined ? {} : { headers: told }),
      ...(this.#line ? { reply: this.#line.inbox } : {}),
    });
  }

  #listen() {
    const inbox = createInbox();
    const subscription = this.#connection.subscribe(inbox, {
      callback: (error, message) => {
        if (error) return;
        if (message.headers?.code === 503 || message.headers?.get(STEP) === ENOUGH) this.#gone = true;
        this.#taken = Math.max(this.#taken, Number(message.headers?.get(TAKEN)) || 0);
        this.#wake();
      },
    });
    return { inbox, subscription };
  }
}
