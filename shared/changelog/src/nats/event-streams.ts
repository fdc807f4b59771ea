import { describeError, Fault } from '@tributary/core';
import {
  DiscardPolicy,
  headers as emptyHeaders,
  type JetStreamClient,
  type JetStreamManager,
  type MsgHdrs,
  NatsError,
  nanos,
  RetentionPolicy,
  StorageType,
  StoreCompression,
  type StreamConfig,
  type StreamState,
} from 'nats';
import type { EventMessage, EventStreamOptions, EventStreams, EventStreamWriter } from '../event-stream.ts';
import { Unanswered } from '../unanswered.ts';
import { asking, compresses, type NatsLink, QUESTION_MS } from './connection.ts';

/** Room that headers and protocol take of the largest message. */
const HEADROOM_BYTES = 8192;
const PUBLISH_TIMEOUT_MS = 10_000;
const WRONG_LAST_SEQUENCE = 10071;
const WRONG_LAST_ID = 10070;
const STREAM_NOT_FOUND = 10059;
const STORAGE_EXCEEDED = 10047;
const SUBJECTS_OVERLAP = 10065;
const ID_HEADER = 'nats-msg-id';

/** JetStream streams as {@link EventStreams}: file storage, S2 where the server has it. */
export class NatsEventStreams implements EventStreams {
  readonly #link: NatsLink;
  readonly #jsm: JetStreamManager;

  private constructor(link: NatsLink, jsm: JetStreamManager) {
    this.#link = link;
    this.#jsm = jsm;
  }

  static async open(link: NatsLink): Promise<NatsEventStreams> {
    return new NatsEventStreams(link, await link.connection.jetstreamManager({ checkAPI: false, timeout: QUESTION_MS }));
  }

  async open(name: string, options: EventStreamOptions): Promise<EventStreamWriter> {
    const state = await asked(name, () => this.#make(name, options));
    const last = state.messages === 0 ? null : await asked(name, () => this.#headers(name, state.last_seq));
    return new NatsEventStreamWriter(this.#link, name, { lastSeq: state.last_seq, lastHeaders: last });
  }

  async #make(name: string, { subject, replicas, maxAgeMs, maxBytes }: EventStreamOptions): Promise<StreamState> {
    const config = {
      name,
      subjects: [subject],
      storage: StorageType.File,
      retention: RetentionPolicy.Limits,
      discard: DiscardPolicy.Old,
      num_replicas: replicas,
      max_age: nanos(maxAgeMs),
      max_bytes: maxBytes === 0 ? -1 : maxBytes,
      ...(compresses(this.#link.connection.info?.version) ? { compression: StoreCompression.S2 } : {}),
    } as Partial<StreamConfig> & { name: string };
    const there = await this.#there(name);
    const put = (wanted: typeof config) => (there ? this.#jsm.streams.update(name, wanted) : this.#jsm.streams.add(wanted));
    try {
      return (await put(config)).state;
    } catch (error) {
      // The server reserves what a stream may grow to; where it has less, its own limit bounds the stream.
      if (answer(error) === STORAGE_EXCEEDED) return (await put({ ...config, max_bytes: -1 })).state;
      if (answer(error) !== SUBJECTS_OVERLAP) throw error;
      throw new Fault(
        'config_invalid',
        `the subjects ${subject} of stream ${name} overlap with those of another stream: name another nats.subject`,
        { stream: name },
        { cause: error },
      );
    }
  }

  async #there(name: string): Promise<boolean> {
    try {
      await this.#jsm.streams.info(name);
      return true;
    } catch (error) {
      if (answer(error) === STREAM_NOT_FOUND) return false;
      throw error;
    }
  }

  async #headers(name: string, seq: number): Promise<ReadonlyMap<string, string> | null> {
    try {
      return read((await this.#jsm.streams.getMessage(name, { seq })).header);
    } catch (error) {
      if (error instanceof NatsError && (error.code === '404' || error.api_error?.code === 404)) return null;
      throw error;
    }
  }
}

class NatsEventStreamWriter implements EventStreamWriter {
  readonly bodyBytesMax: number;
  readonly lastSeq: number;
  readonly lastHeaders: ReadonlyMap<string, string> | null;
  readonly #js: JetStreamClient;
  readonly #name: string;
  readonly #unwatch: () => void;
  #seq: number;
  #lastId: string | null;
  #failure: unknown = null;
  readonly #unanswered = new Unanswered();

  constructor(link: NatsLink, name: string, last: Pick<EventStreamWriter, 'lastSeq' | 'lastHeaders'>) {
    this.bodyBytesMax = (link.connection.info?.max_payload ?? 1024 * 1024) - HEADROOM_BYTES;
    this.lastSeq = last.lastSeq;
    this.lastHeaders = last.lastHeaders;
    this.#js = link.connection.jetstream({ timeout: PUBLISH_TIMEOUT_MS });
    this.#name = name;
    this.#seq = last.lastSeq;
    this.#lastId = last.lastHeaders?.get(ID_HEADER) ?? null;
    this.#unwatch = link.onBreak(() => {
      this.#failure ??= new Fault('broker_unreachable', `connection lost while writing stream ${name}`, { stream: name });
      this.#unanswered.fail(this.#failure);
    });
  }

  async append({ subject, id, headers, body }: EventMessage): Promise<number> {
    if (this.#failure) throw this.#failure;
    const after = this.#seq++;
    const expect = { lastSequence: after, ...(this.#lastId === null ? {} : { lastMsgID: this.#lastId }) };
    this.#lastId = id;
    const all = emptyHeaders();
    for (const [name, value] of Object.entries(headers)) all.set(name, value);
    try {
      const { seq } = await this.#unanswered.wait(this.#js.publish(subject, body, { msgID: id, expect, headers: all }));
      if (seq !== after + 1) throw this.#fenced(after);
    } catch (error) {
      this.#failure ??= this.#known(error, after);
    }
    // Also when only an earlier message was refused: this one was then refused or never had a place.
    if (this.#failure) throw this.#failure;
    return after + 1;
  }

  close(): void {
    this.#unwatch();
    this.#failure ??= new Fault('fenced', `stream ${this.#name} was closed for writing`, { stream: this.#name });
  }

  #known(error: unknown, after: number): unknown {
    const code = answer(error);
    if (code === WRONG_LAST_SEQUENCE || code === WRONG_LAST_ID) return this.#fenced(after, error);
    return unreachable(error, this.#name);
  }

  #fenced(after: number, cause?: unknown): Fault {
    const stream = this.#name;
    return new Fault('fenced', `another writer took over stream ${stream}`, { stream, after }, { cause });
  }
}

function read(header: MsgHdrs | undefined): ReadonlyMap<string, string> {
  return new Map((header?.keys() ?? []).map((name) => [name.toLowerCase(), header?.get(name) ?? '']));
}

function answer(error: unknown): number | null {
  return error instanceof NatsError ? (error.api_error?.err_code ?? null) : null;
}

async function asked<T>(stream: string, question: () => Promise<T>): Promise<T> {
  try {
    return await asking(question);
  } catch (error) {
    throw unreachable(error, stream);
  }
}

function unreachable(error: unknown, stream: string): unknown {
  if (!(error instanceof NatsError)) return error;
  return new Fault('broker_unreachable', `NATS: stream ${stream}: ${describeError(error)}`, { stream }, { cause: error });
}
