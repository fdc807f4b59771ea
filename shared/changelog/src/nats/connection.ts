import { describeError, Fault } from '@tributary/core';
import { connect, credsAuthenticator, ErrorCode, Events, type NatsConnection, NatsError, type TlsOptions } from 'nats';
import { readFileSync } from 'node:fs';

export interface NatsOptions {
  /** `nats://host:port`, or several separated by commas; user and password may stand in the first one: `nats://user:password@host:port`. */
  readonly url: string;
  /** Path of a credentials file. */
  readonly creds?: string | undefined;
  readonly tls?: { readonly caFile?: string; readonly certFile?: string; readonly keyFile?: string } | undefined;
  /** Copies of the cluster's bucket, where this connection is the one that makes it. Default 1. */
  readonly replicas?: number;
  /** Shown by the server among its connections. */
  readonly name?: string;
  /** How long the first connection is tried for, ms; default: once. For a broker that is known to come back. */
  readonly patienceMs?: number;
}

/** One connection, for ever: it reconnects by itself and tells who must know that it broke. */
export class NatsLink {
  readonly connection: NatsConnection;
  readonly #broken = new Set<() => void>();
  #connected = true;

  constructor(connection: NatsConnection) {
    this.connection = connection;
    void this.#watch();
  }

  /** False from the moment a break is seen until the client has connected again. */
  get connected(): boolean {
    return this.#connected && !this.connection.isClosed();
  }

  onBreak(broken: () => void): () => void {
    this.#broken.add(broken);
    return () => this.#broken.delete(broken);
  }

  async #watch(): Promise<void> {
    for await (const status of this.connection.status()) {
      if (status.type === Events.Disconnect) this.#connected = false;
      if (status.type === Events.Reconnect) this.#connected = true;
      if (status.type === Events.Disconnect || status.type === Events.Reconnect) {
        for (const broken of this.#broken) broken();
      }
    }
  }
}

/** @throws Fault `broker_unreachable` when the first connection cannot be made */
export async function openLink(options: NatsOptions): Promise<NatsLink> {
  const end = performance.now() + (options.patienceMs ?? 0);
  for (;;) {
    try {
      return await openOnce(options);
    } catch (error) {
      if (performance.now() >= end) throw error;
      await new Promise((resolve) => setTimeout(resolve, NOBODY_MS));
    }
  }
}

async function openOnce(options: NatsOptions): Promise<NatsLink> {
  try {
    const connection = await connect({
      ...servers(options.url),
      name: options.name ?? 'tributary',
      // A server that takes the connection and says nothing: the next one is tried.
      timeout: 5_000,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 100,
      reconnectJitter: 50,
      // A way that is cut without a word is noticed within 9 s.
      pingInterval: 3_000,
      maxPingOut: 2,
      ignoreClusterUpdates: false,
      // It would take two more stacks for every message that waits for its acknowledgement: a tenth of what the thread of a source does at 1,000 commits a second.
      noAsyncTraces: true,
      ...(options.creds ? { authenticator: credsAuthenticator(readFileSync(options.creds)) } : {}),
      ...(options.tls ? { tls: options.tls as TlsOptions } : {}),
    });
    return new NatsLink(connection);
  } catch (error) {
    throw new Fault('broker_unreachable', `cannot reach NATS at ${describeBroker(options.url)}: ${describeError(error)}`);
  }
}

/** How long JetStream may take to answer one question, ms. */
export const QUESTION_MS = 2_000;
/** Questions in a row without an answer before the broker counts as unreachable: an election of a leader takes up to 9 s. */
const QUESTIONS_MAX = 5;
const NOBODY_MS = 250;
const UNANSWERED: ReadonlySet<string> = new Set([ErrorCode.Timeout, ErrorCode.NoResponders, ErrorCode.Disconnect]);

/**
 * Asks the broker until it answers. While a cluster has no leader nobody answers, or nobody is there to be asked (503), and a
 * question that was on its way to a server that died is lost, at once where the connection breaks and is made again. Only for
 * questions that may be asked twice.
 */
export async function asking<T>(question: () => Promise<T>, patienceMs = QUESTIONS_MAX * QUESTION_MS): Promise<T> {
  const end = performance.now() + patienceMs;
  for (;;) {
    try {
      return await question();
    } catch (error) {
      const code = error instanceof NatsError && !error.api_error ? error.code : null;
      if (!UNANSWERED.has(code ?? '') || performance.now() > end) throw error;
      if (code !== ErrorCode.Timeout) await new Promise((resolve) => setTimeout(resolve, NOBODY_MS));
    }
  }
}

/** User and password of a URL, as far as the `@`. */
const CREDENTIALS = /(^|\/\/)([^/@,]*)@/;

/** Addresses of brokers, fit for messages: without user and password. */
export function describeBroker(url: string): string {
  return url
    .split(',')
    .map((server) => server.trim().replace(CREDENTIALS, '$1'))
    .join(',');
}

/** The client takes addresses and credentials apart; the first credentials count for every server. */
function servers(url: string): { servers: string[]; user?: string; pass?: string } {
  const [, , credentials = ''] = CREDENTIALS.exec(url) ?? [];
  const [user = '', ...pass] = credentials.split(':');
  return {
    servers: describeBroker(url).split(','),
    ...(user ? { user: decodeURIComponent(user), pass: decodeURIComponent(pass.join(':')) } : {}),
  };
}

/** S2 compression of streams exists since nats-server 2.10. */
export function compresses(version = '0.0'): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > 2 || (major === 2 && minor >= 10);
}
