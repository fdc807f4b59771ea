import { type AskOptions, type Bus, describeError, Fault, type FaultFacts, type FaultKind } from '@tributary/core';
import { Packr, Unpackr } from 'msgpackr';
import type { Msg, NatsConnection, Subscription } from 'nats';
import { asking } from './connection.ts';
import { Hearing, unanswered } from './hearing.ts';
import { PARTS, STEP, Telling } from './telling.ts';

const packr = new Packr({ useRecords: false });
const unpackr = new Unpackr({ useRecords: false });

/** Whoever has not said anything for so long has lost his leases as well, ms. */
const LOST_MS = 10_000;

interface SentFault {
  readonly kind: FaultKind | null;
  readonly message: string;
  /** Workers of other versions send none. */
  readonly facts?: FaultFacts;
}

/**
 * Questions over core NATS: an answer is any number of parts, then `end` or a fault. The broker tells whoever asks a subject that nobody serves; of
 * one that dies with a question in his hands nobody tells. So whoever works on an answer says so every second, and silence means that he is lost.
 */
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
    const telling = new Telling(this.#connection, message);
    try {
      for await (const part of answer(unpackr.unpack(message.data))) await telling.part(packr.pack(part));
      telling.end('end', new Uint8Array());
    } catch (error) {
      const told = error instanceof Fault ? { kind: error.kind, facts: error.facts } : { kind: null };
      const sent: SentFault = { ...told, message: describeError(error) };
      telling.end('fault', packr.pack(sent));
    } finally {
      telling.close();
    }
  }

  async *ask(subject: string, question: unknown, options: AskOptions = {}): AsyncIterable<unknown> {
    const { idleMs = 60_000, lostMs = LOST_MS, signal } = options;
    const hearing = new Hearing(this.#connection, subject);
    signal?.addEventListener('abort', hearing.poke);
    try {
      hearing.ask(packr.pack(question));
      for (let parts = 0; ; parts++) {
        const message = await hearing.next({ idleMs, lostMs, signal });
        const step = message.headers?.get(STEP);
        if (step === 'fault') throw received(unpackr.unpack(message.data) as SentFault);
        if (step === 'end') {
          if (Number(message.headers?.get(PARTS) || parts) === parts) return;
          throw new Fault('worker_lost', `parts of the answer on ${subject} were lost with a connection`, { subject });
        }
        yield unpackr.unpack(message.data);
        hearing.took(message);
      }
    } finally {
      signal?.removeEventListener('abort', hearing.poke);
      hearing.close();
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

function received(sent: SentFault): Error {
  return sent.kind ? new Fault(sent.kind, sent.message, sent.facts) : new Error(sent.message);
}
