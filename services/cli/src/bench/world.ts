import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Broker, connectNats } from '@tributary/changelog';
import type { Log, Runtime } from '@tributary/cluster';
import type { Changelogs } from '@tributary/changelog';
import type { Config, SinkConfig } from '@tributary/config';
import { systemClock } from '@tributary/core';
import {
  type NatsServer,
  obtainNatsServer,
  type PostgresServer,
  startNats,
  startPostgres,
  temporaryFolder,
} from '@tributary/embedded';
import { openLog } from '@tributary/ops';
import { Session } from '@tributary/postgres';

/** Servers of one benchmark on temporary folders and loopback ports. */
export interface World {
  readonly folder: string;
  readonly postgres: PostgresServer;
  readonly nats: NatsServer;
  readonly broker: Broker;
  readonly runtime: Runtime<Changelogs>;
  config(sinks: readonly SinkConfig[]): Config;
  session(database: string): Promise<Session>;
  connection(database: string): { host: string; port: number; user: string; database: string };
  close(): Promise<void>;
}

/** WAL that fits, checkpoints that do not come in between, and no fsync that would measure the disk instead of us. */
const SETTINGS = {
  max_wal_size: '16GB',
  checkpoint_timeout: '1h',
  shared_buffers: '512MB',
  synchronous_commit: 'off',
  autovacuum: 'off',
};

export async function openWorld(
  databases: readonly string[],
  { settings = {} }: { settings?: Readonly<Record<string, string>> } = {},
): Promise<World> {
  const folder = await temporaryFolder('bench');
  const postgres = await startPostgres({ dir: join(folder, 'postgres'), databases, settings: { ...SETTINGS, ...settings } });
  const binary = await obtainNatsServer({});
  const nats = await startNats({ dir: join(folder, 'nats'), binary: binary.path });
  const broker = await connectNats({ url: nats.url, name: 'bench' });
  const log: Log = openLog({ worker: 'bench', level: 'warn' });
  const connection = (database: string) => ({ host: '127.0.0.1', port: postgres.port, user: 'postgres', database });
  const sessions: Session[] = [];
  return {
    folder,
    postgres,
    nats,
    broker,
    runtime: {
      changelogs: broker.changelogs,
      bus: broker.bus,
      kv: broker.kv,
      clock: systemClock,
      log,
      dataDir: join(folder, 'data'),
      worker: 'bench',
      labels: null,
      capacity: 1,
    },
    connection,
    config: (sinks) => ({
      cluster: {
        nats: { replicas: 1 },
        changelog: { maxAgeMs: 0, maxBytes: 0, lingerMs: 5, confirmAfterMs: 120_000 },
        lake: {},
        kpi: { memoryBytes: 256 * 2 ** 20, threads: 2 },
        http: { port: 0, tokens: [] },
      },
      sources: [
        {
          name: 'bench',
          postgres: connection('bench'),
          tables: ['public.*'],
          snapshot: 'initial',
          labels: {},
          schemaChanges: 'apply',
          heartbeatMs: 1_000,
        },
      ],
      transforms: [],
      sinks,
      kpis: [],
      processes: [],
      hooks: [],
    }),
    async session(database) {
      const session = await Session.open(connection(database), { name: 'bench' });
      sessions.push(session);
      return session;
    },
    async close() {
      for (const session of sessions) await session.close();
      await broker.close();
      await nats.stop();
      await postgres.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** The row all benchmarks use: 10 columns of the usual types, about 130 bytes as text. */
export const ORDERS = `CREATE TABLE public.orders (id bigint PRIMARY KEY, customer_id bigint NOT NULL, status text NOT NULL, amount numeric(12,2) NOT NULL,
  currency text NOT NULL, note text, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, qty int NOT NULL, flag boolean NOT NULL)`;

export function ordersFrom(first: number, last: number): string {
  return `INSERT INTO public.orders SELECT i, i % 50000, 'new' || i % 5, (i % 100000) / 7.0, 'EUR', 'some note text of a moderate length here',
    timestamptz '2026-01-01' + i * interval '1 second', timestamptz '2026-06-01' + i * interval '1 second', i % 9, i % 2 = 0 FROM generate_series(${first}, ${last}) i`;
}
