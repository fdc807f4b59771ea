import { describeError, Fault } from '@tributary/core';
import {
  DiscardPolicy,
  type JetStreamClient,
  type JetStreamManager,
  NatsError,
  RetentionPolicy,
  StorageType,
  type StreamConfig,
} from 'nats';
import type { LetterStore } from '../dead-letters.ts';
import { asking, type NatsLink, QUESTION_MS } from './connection.ts';

const STREAM = 'DEADLETTERS';
const SUBJECT = 'deadletters';
const HEADROOM_BYTES = 4096;
const STREAM_NOT_FOUND = 10059;
/** Two elections, of the broker cluster's leader and of the stream's, on a busy machine. */
const PATIENCE_MS = 20_000;

/**
 * One stream for all projections, made with the first letter; one message per subject, so that a letter is there once, and
 * everything may be asked again while a broker cluster elects a leader.
 */
export class NatsLetters implements LetterStore {
  readonly valueBytesMax: number;
  readonly #js: JetStreamClient;
  readonly #jsm: JetStreamManager;

  private constructor(link: NatsLink, jsm: JetStreamManager) {
    this.#js = link.connection.jetstream();
    this.#jsm = jsm;
    this.valueBytesMax = (link.connection.info?.max_payload ?? 1024 * 1024) - HEADROOM_BYTES;
  }

  static async open(link: NatsLink): Promise<NatsLetters> {
    return new NatsLetters(link, await link.connection.jetstreamManager({ checkAPI: false, timeout: QUESTION_MS }));
  }

  async put(key: string, value: Uint8Array): Promise<void> {
    await this.#asked(async () => {
      if (!(await this.#there())) await this.#create();
      await this.#js.publish(`${SUBJECT}.${key}`, value);
    });
  }

  async keys(prefix: string): Promise<string[]> {
    return this.#asked(async () => {
      if (!(await this.#there())) return [];
      const subjects_filter = prefix === '' ? `${SUBJECT}.>` : `${SUBJECT}.${prefix}.>`;
      const { state } = await this.#jsm.streams.info(STREAM, { subjects_filter });
      return Object.keys(state.subjects ?? {}).map((subject) => subject.slice(SUBJECT.length + 1));
    });
  }

  async get(key: string): Promise<Uint8Array | null> {
    return this.#asked(async () => {
      try {
        return (await this.#jsm.streams.getMessage(STREAM, { last_by_subj: `${SUBJECT}.${key}` })).data;
      } catch (error) {
        if (error instanceof NatsError && (error.code === '404' || error.api_error?.code === 404)) return null;
        throw error;
      }
    });
  }

  async purge(prefix: string): Promise<void> {
    await this.#asked(async () => {
      if (await this.#there()) await this.#jsm.streams.purge(STREAM, { filter: `${SUBJECT}.${prefix}.>` });
    });
  }

  async #there(): Promise<boolean> {
    try {
      await this.#jsm.streams.info(STREAM);
      return true;
    } catch (error) {
      if (error instanceof NatsError && error.api_error?.err_code === STREAM_NOT_FOUND) return false;
      throw error;
    }
  }

  /** As many replicas as the changelogs have. Full means refused, so that nothing is lost: the projection then halts. */
  async #create(): Promise<void> {
    let replicas = 1;
    for await (const name of this.#jsm.streams.names('changelog.>')) {
      replicas = Math.max(replicas, (await this.#jsm.streams.info(name)).config.num_replicas);
    }
    const config: Partial<StreamConfig> & { name: string } = {
      name: STREAM,
      subjects: [`${SUBJECT}.>`],
      storage: StorageType.File,
      retention: RetentionPolicy.Limits,
      discard: DiscardPolicy.Old,
      max_msgs_per_subject: 1,
      num_replicas: replicas,
    };
    await this.#jsm.streams.add(config);
  }

  async #asked<T>(question: () => Promise<T>): Promise<T> {
    try {
      return await asking(question, PATIENCE_MS);
    } catch (error) {
      if (!(error instanceof NatsError)) throw error;
      throw new Fault('broker_unreachable', `NATS: dead letters: ${describeError(error)}`, {}, { cause: error });
    }
  }
}
