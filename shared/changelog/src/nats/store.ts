import { assert, describeError, Fault, LIMITS } from '@tributary/core';
import {
  AckPolicy,
  DeliverPolicy,
  DiscardPolicy,
  type JetStreamClient,
  type JetStreamManager,
  NatsError,
  nanos,
  RetentionPolicy,
  StorageType,
  StoreCompression,
  type StreamConfig,
} from 'nats';
import type { ChangelogOptions, ChangelogStatus } from '../changelog.ts';
import type { Copies, Place, Store, Stored } from '../store.ts';
import { asking, compresses, type NatsLink, QUESTION_MS } from './connection.ts';
import { copiesOf, copyAnew, leadByAnother } from './copies.ts';
import { followStream } from './follow.ts';

const STREAM_PREFIX = 'CHANGELOG_';
/** Room that headers and protocol take of the largest message. */
const HEADROOM_BYTES = 4096;
const WRONG_LAST_SEQUENCE = 10071;
const WRONG_LAST_ID = 10070;
/** JetStream's answer when a stream may grow beyond what the server has. */
const STORAGE_EXCEEDED = 10047;
const STREAM_NOT_FOUND = 10059;
const PUBLISH_TIMEOUT_MS = 10_000;

function streamName(source: string): string {
  return STREAM_PREFIX + source;
}

function subject(source: string): string {
  return `changelog.${source}`;
}

/** True for JetStream's own answer with this error code. */
function answered(error: unknown, code: number): boolean {
  return error instanceof NatsError && error.api_error?.err_code === code;
}

/** JetStream as a {@link Store}: file storage, one stream and one subject per source. */
export class NatsStore implements Store {
  readonly messageBytesMax: number;
  readonly copies: Copies;
  readonly #link: NatsLink;
  readonly #js: JetStreamClient;
  readonly #jsm: JetStreamManager;

  private constructor(link: NatsLink, jsm: JetStreamManager) {
    this.#link = link;
    this.#js = link.connection.jetstream({ timeout: PUBLISH_TIMEOUT_MS });
    this.#jsm = jsm;
    this.messageBytesMax = (link.connection.info?.max_payload ?? 1024 * 1024) - HEADROOM_BYTES;
    this.copies = {
      count: (source) => this.#asked(source, () => copiesOf(jsm, streamName(source))),
      another: (source) => this.#asked(source, () => leadByAnother(link, jsm, streamName(source))),
      renew: (source) => this.#asked(source, () => copyAnew(jsm, streamName(source))),
    };
  }

  static async open(link: NatsLink): Promise<NatsStore> {
    return new NatsStore(link, await link.connection.jetstreamManager({ checkAPI: false, timeout: QUESTION_MS }));
  }

  async create(source: string, options: ChangelogOptions): Promise<void> {
    const config = {
      name: streamName(source),
      subjects: [subject(source)],
      storage: StorageType.File,
      retention: RetentionPolicy.Limits,
      discard: DiscardPolicy.Old,
      num_replicas: options.replicas,
      max_age: nanos(options.maxAgeMs),
      max_bytes: options.maxBytes === 0 ? -1 : options.maxBytes,
      ...(compresses(this.#link.connection.info?.version) ? { compression: StoreCompression.S2 } : {}),
    } as Partial<StreamConfig> & { name: string };
    await this.#asked(source, async () => {
      const existing = await this.#status(source);
      const put = (wanted: typeof config) =>
        existing ? this.#jsm.streams.update(config.name, wanted) : this.#jsm.streams.add(wanted);
      try {
        await put(config);
      } catch (error) {
        // The server reserves what a stream may grow to; where it has less, its own limit bounds the changelog.
        if (!answered(error, STORAGE_EXCEEDED)) throw error;
        await put({ ...config, max_bytes: -1 });
      }
    });
  }

  status(source: string): Promise<ChangelogStatus | null> {
    return this.#asked(source, () => this.#status(source));
  }

  async #status(source: string): Promise<ChangelogStatus | null> {
    try {
      const { state } = await this.#jsm.streams.info(streamName(source));
      return { firstSeq: state.first_seq, lastSeq: state.last_seq, messages: state.messages, bytes: state.bytes };
    } catch (error) {
      if (answered(error, STREAM_NOT_FOUND)) return null;
      throw error;
    }
  }

  async list(): Promise<string[]> {
    return this.#asked('*', async () => {
      const names: string[] = [];
      for await (const name of this.#jsm.streams.names('changelog.>')) {
        if (name.startsWith(STREAM_PREFIX)) names.push(name.slice(STREAM_PREFIX.length));
      }
      return names.sort();
    });
  }

  async get(source: string, seq: number): Promise<Stored | null> {
    return this.#asked(source, async () => {
      try {
        const message = await this.#jsm.streams.getMessage(streamName(source), { seq });
        return { seq: message.seq, bytes: message.data, storedAt: message.time.getTime() };
      } catch (error) {
        if (error instanceof NatsError && (error.code === '404' || error.api_error?.code === 404)) return null;
        throw error;
      }
    });
  }

  async publish(source: string, bytes: Uint8Array, { after, afterId, id }: Place): Promise<void> {
    const expect = { lastSequence: after, ...(afterId === null ? {} : { lastMsgID: afterId }) };
    try {
      const ack = await this.#js.publish(subject(source), bytes, { msgID: id, expect });
      assert(ack.seq === after + 1, `broker stored ${ack.seq} after ${after} in ${source}`);
    } catch (error) {
      if (answered(error, WRONG_LAST_SEQUENCE) || answered(error, WRONG_LAST_ID)) {
        throw new Fault('fenced', `another writer took over changelog ${source}`, { source, after }, { cause: error });
      }
      throw unreachableBroker(error, source);
    }
  }

  onBreak(broken: () => void): () => void {
    return this.#link.onBreak(broken);
  }

  follow(source: string, from: number, signal: AbortSignal): AsyncIterable<Stored> {
    return followStream(this.#link, this.#jsm, streamName(source), {
      signal,
      readAheadBytes: LIMITS.readAheadBytes,
      consumer: {
        ack_policy: AckPolicy.None,
        deliver_policy: DeliverPolicy.StartSequence,
        opt_start_seq: from,
        mem_storage: true,
        num_replicas: 1,
        inactive_threshold: nanos(60_000),
      },
    });
  }

  async #asked<T>(source: string, question: () => Promise<T>): Promise<T> {
    try {
      return await asking(question);
    } catch (error) {
      throw unreachableBroker(error, source);
    }
  }
}

function unreachableBroker(error: unknown, source: string): Error {
  if (!(error instanceof NatsError)) return error as Error;
  return new Fault('broker_unreachable', `NATS: changelog ${source}: ${describeError(error)}`, { source }, { cause: error });
}
