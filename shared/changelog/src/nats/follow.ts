import { describeError, Fault, LIMITS } from '@tributary/core';
import { type ConsumerConfig, createInbox, type JetStreamManager, type Msg, NatsError, nanos, type Subscription } from 'nats';
import type { Stored } from '../store.ts';
import { asking, type NatsLink } from './connection.ts';

export interface FollowOptions {
  readonly signal: AbortSignal;
  /** Bytes asked for and not yet taken by the reader. */
  readonly readAheadBytes: number;
  readonly consumer: Partial<ConsumerConfig>;
}

/** One request asks for this share of the read-ahead, so that the next is under way while one is served. */
const REQUESTS = 4;
const BATCH_MAX = 4_096;
const EXPIRES_MS = 30_000;
const HEARTBEAT_MS = 1_000;
/** When nothing came for so long, the stream's leader is asked whether there is more. */
const LOOK_MS = 10_000;

/**
 * Pulls by bytes through a short-lived consumer of its own; no state in the server is relied on.
 *
 * Why not the client's ordered consumer: with much outstanding the server cuts it off as a slow consumer and
 * it then waits for ever; and it starts again by itself at a sequence that may mean something else by then.
 * Here whatever is unusual (broken connection, a hole in the sequences, silence past the heartbeats, a server whose copy lacks what the
 * leader's holds: seen on 2.9.10, which calls such a copy current) ends the iteration, and the caller finds its place again, by a consumer
 * that the cluster places anew.
 */
export async function* followStream(
  link: NatsLink,
  jsm: JetStreamManager,
  stream: string,
  options: FollowOptions,
): AsyncIterable<Stored> {
  const pull = new Pull(link, { jsm, stream }, options);
  try {
    await pull.open();
    yield* pull.messages();
  } finally {
    await pull.close();
  }
}

/** One of the requests that are under way side by side, with a subscription of its own to tell them apart. */
interface Slot {
  readonly reply: string;
  readonly subscription: Subscription;
  /** Messages that the running request may still bring; 0 = no request runs. */
  remaining: number;
  /** The message that comes next is larger than a request's bytes: it is asked for alone, whatever its size. */
  alone: boolean;
}

class Pull {
  readonly #link: NatsLink;
  readonly #jsm: JetStreamManager;
  readonly #stream: string;
  readonly #signal: AbortSignal;
  readonly #consumer: Partial<ConsumerConfig>;
  readonly #requestBytes: number;
  #name = '';
  #slots: Slot[] = [];
  #queue: Stored[] = [];
  #queuedBytes = 0;
  /** Sequence of the last message received; 0 = none yet. */
  #last = 0;
  /** When a message came, or the leader was asked for its end. */
  #looked = performance.now();
  /** The leader held more at the last look, and no message came since. */
  #behind = false;
  #ended = false;
  #lastSign = performance.now();
  #wake: () => void = () => {};
  #unwatch: () => void = () => {};

  constructor(link: NatsLink, { jsm, stream }: { jsm: JetStreamManager; stream: string }, options: FollowOptions) {
    this.#link = link;
    this.#jsm = jsm;
    this.#stream = stream;
    this.#signal = options.signal;
    this.#consumer = options.consumer;
    this.#requestBytes = Math.floor(options.readAheadBytes / REQUESTS);
  }

  readonly #end = () => {
    this.#ended = true;
    this.#wake();
  };

  async open(): Promise<void> {
    this.#unwatch = this.#link.onBreak(this.#end);
    this.#signal.addEventListener('abort', this.#end);
    if (this.#signal.aborted) return this.#end();
    try {
      // Each question makes a consumer of another name, and may so land on a server that lives.
      this.#name = (await asking(() => this.#jsm.consumers.add(this.#stream, this.#consumer))).name;
    } catch (error) {
      if (!(error instanceof NatsError)) throw error;
      throw new Fault('broker_unreachable', `NATS: reading ${this.#stream}: ${describeError(error)}`, {}, { cause: error });
    }
    this.#lastSign = performance.now();
    this.#slots = Array.from({ length: REQUESTS }, () => this.#slot());
  }

  #slot(): Slot {
    const reply = createInbox();
    const slot: Slot = {
      reply,
      remaining: 0,
      alone: false,
      subscription: this.#link.connection.subscribe(reply, {
        callback: (error, message) => (error ? this.#end() : this.#receive(slot, message)),
      }),
    };
    return slot;
  }

  async *messages(): AsyncIterable<Stored> {
    while (!this.#ended) {
      this.#request();
      if (this.#queue.length === 0) {
        await this.#next();
        continue;
      }
      const queue = this.#queue;
      this.#queue = [];
      for (const stored of queue) {
        if (this.#signal.aborted) return;
        this.#queuedBytes -= stored.bytes.length;
        yield stored;
      }
    }
  }

  /** Keeps requests under way as long as what they may bring fits. */
  #request(): void {
    const idle = this.#slots.filter((slot) => slot.remaining === 0);
    let room = this.#requestBytes * idle.length - this.#queuedBytes;
    for (const slot of idle) {
      if (room < this.#requestBytes) return;
      room -= this.#requestBytes;
      slot.remaining = slot.alone ? 1 : BATCH_MAX;
      this.#link.connection.publish(
        `$JS.API.CONSUMER.MSG.NEXT.${this.#stream}.${this.#name}`,
        JSON.stringify({
          batch: slot.remaining,
          ...(slot.alone ? {} : { max_bytes: this.#requestBytes }),
          expires: nanos(EXPIRES_MS),
          idle_heartbeat: nanos(HEARTBEAT_MS),
        }),
        { reply: slot.reply },
      );
    }
  }

  /** Waits for a message or a sign of the end; silence past several heartbeats is one. */
  async #next(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      timer = setTimeout(resolve, HEARTBEAT_MS);
      if (this.#ended || this.#queue.length > 0) resolve();
    });
    clearTimeout(timer);
    if (performance.now() - this.#lastSign > LIMITS.readerStallMs) this.#end();
    else if (performance.now() - this.#looked > LOOK_MS) {
      if (this.#behind) this.#end();
      else this.#look().catch(this.#end);
    }
  }

  async #look(): Promise<void> {
    const looked = performance.now();
    this.#looked = looked;
    const { state } = await asking(() => this.#jsm.streams.info(this.#stream));
    const held = Math.max(this.#last, (this.#consumer.opt_start_seq ?? 1) - 1);
    this.#behind = this.#looked === looked && state.messages > 0 && state.last_seq > held;
  }

  #receive(slot: Slot, message: Msg): void {
    this.#lastSign = performance.now();
    const code = message.headers?.code ?? 0;
    if (code > 0) return this.#status(slot, code, message.headers?.description ?? '');
    const place = deliveryOf(message.reply ?? '');
    if (this.#last > 0 && place.seq !== this.#last + 1) return this.#end();
    this.#last = place.seq;
    this.#looked = this.#lastSign;
    this.#behind = false;
    slot.remaining--;
    slot.alone = false;
    this.#queuedBytes += message.data.length;
    this.#queue.push({ seq: place.seq, bytes: message.data, storedAt: place.storedAt });
    this.#wake();
  }

  /** 100 = heartbeat; anything else ends one request: expired, its bytes used up, or the consumer is gone. */
  #status(slot: Slot, code: number, description: string): void {
    if (code === 100) return;
    // Refused although it brought nothing yet: asking again for the same bytes would be refused for ever.
    slot.alone = code === 409 && slot.remaining === BATCH_MAX;
    slot.remaining = 0;
    const over = code === 503 || code === 404 || (code === 409 && !/max ?bytes/i.test(description));
    if (over) return this.#end();
    this.#wake();
  }

  async close(): Promise<void> {
    this.#ended = true;
    this.#unwatch();
    this.#signal.removeEventListener('abort', this.#end);
    for (const slot of this.#slots) slot.subscription.unsubscribe();
    if (this.#name && !this.#link.connection.isClosed()) {
      await this.#jsm.consumers.delete(this.#stream, this.#name).catch(() => {
        // The server forgets an unused consumer by itself; a broken connection is no reason to fail the reader.
      });
    }
  }
}

/**
 * Where a delivered message stands, from its reply subject:
 * `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<nanoseconds>.<pending>`, with
 * domain and account hash after `ACK` on newer servers.
 */
function deliveryOf(reply: string): { seq: number; storedAt: number } {
  const tokens = reply.split('.');
  const at = tokens.length >= 11 ? 7 : 5;
  return { seq: Number(tokens[at]), storedAt: Math.floor(Number(tokens[at + 2]) / 1e6) };
}
