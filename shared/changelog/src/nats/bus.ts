import { type AskOptions, type Bus, describeError, Fault, type FaultFacts, type FaultKind } from '@tributary/core';
import { Packr, Unpackr } from 'msgpackr';
import { createInbox, headers, type Msg, type NatsConnection, type Subscription } from 'nats';
import { asking } from './connection.ts';

const packr = new Packr({ useRecords: false });
const unpackr = new Unpackr({ useRecords: false });

/** Header of the last message of an answer: `end`, or `fault` with the fault as its body. */
const STEP = 'Tributary-Step';

interface SentFault {
  readonly kind: FaultKind | null;
  readonly message: string;
  /** Workers of other versions send none. */
  readonly facts?: FaultFacts;
}

/** Questions over core NATS: an answer is any number of parts, then `end` or a fault. */
export class NatsBus implements Bus {
  readonly #connection: NatsConnection;

  constructor(connection: NatsConnection) {
    this.#connection = connection;
  }

  async serve(subject: string, answer: (question: unknown) => AsyncIterable<unknown>): Promise<() => Promise<void>> {
    let ended = false;
    const refuse = (): never => {
      throw unanswered(subject);
    };
    const subscription = this.#connection.subscribe(subject, {
      callback: (error, message) => {
        if (!error && message.reply) void this.#answer(message, ended ? refuse : answer);
      },
    });
    await this.#heard(subscription);
    return async () => {
      ended = true;
      // Until the broker knows of the end it hands questions over as before. Whoever asked one is told, or he would wait until he gives up.
      subscription.drain().catch(() => {});
    };
  }

  /**
   * Resolves when the broker knows of a subscription; one that the connection breaks away from is told to the next server by the client.
   * @throws Fault `broker_unreachable`, and then nothing is subscribed
   */
  async #heard(subscription: Subscription): Promise<void> {
    try {
      await asking(() => this.#connection.flush());
    } catch (error) {
      subscription.unsubscribe();
      const subject = subscription.getSubject();
      throw new Fault(
        'broker_unreachable',
        `NATS: listening on ${subject}: ${describeError(error)}`,
        { subject },
        { cause: error },
      );
    }
  }

  async #answer(message: Msg, answer: (question: unknown) => AsyncIterable<unknown>): Promise<void> {
    const step = headers();
    let last: Uint8Array = new Uint8Array();
    try {
      for await (const part of answer(unpackr.unpack(message.data))) message.respond(packr.pack(part));
      step.set(STEP, 'end');
    } catch (error) {
      step.set(STEP, 'fault');
      const told = error instanceof Fault ? { kind: error.kind, facts: error.facts } : { kind: null };
      const sent: SentFault = { ...told, message: describeError(error) };
      last = packr.pack(sent);
    }
    if (!this.#connection.isClosed()) message.respond(last, { headers: step });
  }

  async *ask(subject: string, question: unknown, options: AskOptions = {}): AsyncIterable<unknown> {
    const { idleMs = 60_000, signal } = options;
    const inbox = createInbox();
    const queue: Msg[] = [];
    let wake = () => {};
    const poke = () => wake();
    const subscription = this.#connection.subscribe(inbox, {
      callback: (_error, message) => {
        queue.push(message);
        wake();
      },
    });
    signal?.addEventListener('abort', poke);
    try {
      this.#connection.publish(subject, packr.pack(question), { reply: inbox });
      for (;;) {
        if (queue.length === 0) await silence(idleMs, (resolve) => (wake = resolve));
        signal?.throwIfAborted();
        const message = queue.shift();
        if (!message) throw new Fault('broker_unreachable', `no answer on ${subject} for ${idleMs} ms`, { subject });
        if (message.headers?.code === 503) throw unanswered(subject);
        const step = message.headers?.get(STEP);
        if (step === 'end') return;
        if (step === 'fault') throw received(unpackr.unpack(message.data) as SentFault);
        yield unpackr.unpack(message.data);
      }
    } finally {
      signal?.removeEventListener('abort', poke);
      subscription.unsubscribe();
    }
  }

  tell(subject: string, value: unknown): void {
    if (!this.#connection.isClosed()) this.#connection.publish(subject, packr.pack(value));
  }

  async listen(subject: string, heard: (value: unknown, subject: string) => void): Promise<() => Promise<void>> {
    const subscription = this.#connection.subscribe(subject, {
      callback: (error, message) => {
        if (!error) heard(unpackr.unpack(message.data), message.subject);
      },
    });
    await this.#heard(subscription);
    return async () => subscription.unsubscribe();
  }
}

function unanswered(subject: string): Fault {
  return new Fault('not_found', `nobody answers ${subject}`, { subject });
}

/** Waits until `arm`'s resolver is called, or `ms` have gone by. */
async function silence(ms: number, arm: (resolve: () => void) => void): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  await new Promise<void>((resolve) => {
    arm(resolve);
    timer = setTimeout(resolve, ms);
  });
  clearTimeout(timer);
}

function received(sent: SentFault): Error {
  return sent.kind ? new Fault(sent.kind, sent.message, sent.facts) : new Error(sent.message);
}
