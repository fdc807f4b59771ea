import { describeError, Fault } from '@tributary/core';
import { connect, credsAuthenticator, Events, type NatsConnection, type TlsOptions } from 'nats';
import { readFileSync } from 'node:fs';

export interface NatsOptions {
  /** `nats://host:port`, or several separated by commas. */
  readonly url: string;
  /** Path of a credentials file. */
  readonly creds?: string | undefined;
  readonly tls?: { readonly caFile?: string; readonly certFile?: string; readonly keyFile?: string } | undefined;
  /** Copies of the cluster's bucket, where this connection is the one that makes it. Default 1. */
  readonly replicas?: number;
  /** Shown by the server among its connections. */
  readonly name?: string;
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
  try {
    const connection = await connect({
      servers: options.url.split(',').map((server) => server.trim()),
      name: options.name ?? 'tributary',
      maxReconnectAttempts: -1,
      reconnectTimeWait: 100,
      reconnectJitter: 50,
      pingInterval: 5_000,
      maxPingOut: 3,
      ignoreClusterUpdates: false,
      ...(options.creds ? { authenticator: credsAuthenticator(readFileSync(options.creds)) } : {}),
      ...(options.tls ? { tls: options.tls as TlsOptions } : {}),
    });
    return new NatsLink(connection);
  } catch (error) {
    throw new Fault('broker_unreachable', `cannot reach NATS at ${options.url}: ${describeError(error)}`, {}, { cause: error });
  }
}
