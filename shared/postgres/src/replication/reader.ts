import type { Socket } from 'node:net';
import { assert, formatLsn, type Lsn } from '@tributary/core';
import type { Client } from 'pg';
import { LogicalReplicationService } from 'pg-logical-replication';
import type { ConnectionConfig } from '../connection.ts';
import { databaseFault } from '../fault.ts';
import { applicationName } from '../session.ts';
import { Frames } from './frames.ts';
import { PacedSocket } from './paced-socket.ts';

export interface ReplicationOptions {
  readonly connection: ConnectionConfig;
  readonly slot: string;
  readonly publications: readonly string[];
  /** START_REPLICATION from here; PostgreSQL never starts before what was confirmed. */
  readonly from: Lsn;
  /** One pgoutput message, from `start` to `end`; the bytes are only valid during the call. Must not throw: report through `failed`. */
  readonly message: (bytes: Buffer, start: number, end: number) => void;
  /** `walEnd`: everything before it was sent. */
  readonly keepalive: (walEnd: Lsn, replyRequested: boolean) => void;
}

/** The text of values must not depend on what a role or server is set to: the same as in {@link Session}. */
const DIALECT =
  '-c client_encoding=UTF8 -c datestyle=ISO,MDY -c intervalstyle=postgres -c extra_float_digits=1 -c bytea_output=hex -c timezone=UTC -c lc_monetary=C -c search_path=pg_catalog';

/**
 * How long PostgreSQL waits for a sign of life before it ends the connection and frees the slot. Shorter than a lease
 * (10 s), so that the slot of a worker that was stopped or cut off is free when another one takes over; the default is
 * a minute. We answer every second.
 */
const SENDER_TIMEOUT = '-c wal_sender_timeout=8s';

/** CopyData that holds XLogData: what stands before the message of the plugin (header, kind, three times 8 bytes). */
const XLOG_DATA = { code: 0x64, kind: 0x77, kindAt: 5, payloadAt: 30 } as const;

interface Internals {
  readonly _connection: { readonly stream: Socket } | null;
  readonly _client: Client | null;
}

/**
 * One replication connection, through pg-logical-replication, with its four traps avoided:
 * 1. `timeoutSeconds: 0`: its timer would confirm what was only received.
 * 2. Its `acknowledge(lsn)` sends lsn + 1, which may skip the next transaction: {@link confirm} subtracts 1.
 * 3. `auto: false`: with auto a throwing handler loses its message.
 * 4. A second `subscribe()` on one instance goes on from the last *received* position: one instance a connection.
 *
 * XLogData is taken from the socket before the libraries see it: they make two buffers, an object, a text and a promise of each, and pass it
 * through three emitters, which was about a third of what the thread of a source did for small transactions. Everything else goes their way.
 * */
export class ReplicationReader {
  readonly #options: ReplicationOptions;
  readonly #service: LogicalReplicationService;
  /** Reasons to hold the socket; it flows when there is none. */
  readonly #holds = new Set<string>();
  #socket: PacedSocket | null = null;
  #stopped = false;

  constructor(options: ReplicationOptions) {
    this.#options = options;
    this.#service = new LogicalReplicationService(
      {
        ...options.connection,
        application_name: applicationName(options.slot),
        keepAlive: true,
        connectionTimeoutMillis: 10_000,
        options: `${DIALECT} ${SENDER_TIMEOUT}`,
        ssl: options.connection.ssl ?? false,
      },
      { acknowledge: { auto: false, timeoutSeconds: 0 } },
    );
  }

  /**
   * Streams until `stop`, or until the connection fails.
   * @param started called once PostgreSQL streams
   * @throws Fault `slot_in_use`, `database_unreachable`, `database_rejected`
   */
  async run(started: () => void): Promise<void> {
    let failure: unknown = null;
    this.#service.on('error', (error: unknown) => {
      failure ??= error;
      void this.#service.stop();
    });
    this.#service.on('start', started);
    this.#service.on('heartbeat', (lsn: string, _time: number, replyRequested: boolean) => {
      const [high = '0', low = '0'] = lsn.split('/');
      this.#options.keepalive((BigInt(`0x${high}`) << 32n) | BigInt(`0x${low}`), replyRequested);
    });
    const plugin = new Passthrough(this.#options, () => this.#takeOver());
    try {
      await this.#service.subscribe(plugin, this.#options.slot, formatLsn(this.#options.from));
    } catch (error) {
      failure ??= error;
    }
    if (this.#stopped) return;
    throw databaseFault(failure ?? new Error('the server ended the stream'), `replication slot ${this.#options.slot}`, {
      slot: this.#options.slot,
    });
  }

  /** Tells PostgreSQL that everything before `lsn` may be forgotten. The only caller of the library's acknowledge. */
  async confirm(lsn: Lsn): Promise<void> {
    if (lsn > 0n) await this.#service.acknowledge(formatLsn(lsn - 1n));
  }

  /** Stops taking bytes from the socket until the same reason is released. */
  hold(reason: string): void {
    this.#holds.add(reason);
    this.#socket?.hold();
  }

  release(reason: string): void {
    if (this.#holds.delete(reason) && this.#holds.size === 0) this.#socket?.release();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#socket?.release();
    await this.#service.stop().catch(() => {});
  }

  /** Nothing is on its way yet, so the first byte that comes begins a message. */
  #takeOver(): void {
    const socket = (this.#service as unknown as Internals)._connection?.stream;
    const parsers = socket?.listeners('data') ?? [];
    assert(socket && parsers.length === 1, 'a connection that is not read by one parser');
    const [parse] = parsers as [(bytes: Buffer) => void];
    const frames = new Frames((bytes, start, end) => {
      if (bytes[start] === XLOG_DATA.code && bytes[start + XLOG_DATA.kindAt] === XLOG_DATA.kind)
        this.#options.message(bytes, start + XLOG_DATA.payloadAt, end);
      else parse.call(socket, bytes.subarray(start, end));
    });
    socket.off('data', parse);
    this.#socket = new PacedSocket(socket, (chunk) => frames.push(chunk));
    if (this.#holds.size > 0) this.#socket.hold();
  }
}

/** Where the service asks what to stream; it is never asked to decode anything. */
class Passthrough {
  readonly options = {};
  readonly #stream: ReplicationOptions;
  readonly #ready: () => void;

  constructor(stream: ReplicationOptions, ready: () => void) {
    this.#stream = stream;
    this.#ready = ready;
  }

  get name(): string {
    return 'pgoutput';
  }

  parse(): never {
    throw new Error('XLogData that was not taken from the socket');
  }

  start(client: Client, slot: string, lsn: string): Promise<unknown> {
    this.#ready();
    const publications = this.#stream.publications.map((name) => `"${name}"`).join(',');
    return client.query(
      `START_REPLICATION SLOT "${slot}" LOGICAL ${lsn} (proto_version '1', publication_names '${publications}', messages 'true')`,
    );
  }
}
