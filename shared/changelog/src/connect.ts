import type { Bus, Kv } from '@tributary/core';
import type { Changelogs } from './changelog.ts';
import { StoredChangelogs } from './changelogs.ts';
import { memoryBus } from './memory/bus.ts';
import { MemoryKv } from './memory/kv.ts';
import { MemoryLetters } from './memory/letters.ts';
import { MemoryStore } from './memory/store.ts';
import { NatsBus } from './nats/bus.ts';
import { type NatsOptions, openLink } from './nats/connection.ts';
import { NatsEventStreams } from './nats/event-streams.ts';
import { CLUSTER_BUCKET, NatsKv, POSITIONS_BUCKET } from './nats/kv.ts';
import { NatsLetters } from './nats/letters.ts';
import { NatsStore } from './nats/store.ts';

/** A connection to the broker: changelogs, bus, shared memory, and its end. */
export interface Broker {
  readonly changelogs: Changelogs;
  readonly bus: Bus;
  readonly kv: Kv;
  /** e.g. `2.9.10`. */
  readonly version: string;
  /** False while the connection is broken; it is made again by itself. */
  connected(): boolean;
  close(): Promise<void>;
}

/** @throws Fault `broker_unreachable` when the first connection cannot be made; later it reconnects for ever */
export async function connectNats(options: NatsOptions): Promise<Broker> {
  const link = await openLink(options);
  const replicas = options.replicas ?? 1;
  return {
    changelogs: new StoredChangelogs(await NatsStore.open(link), {
      letters: await NatsLetters.open(link),
      eventStreams: await NatsEventStreams.open(link),
      positions: new NatsKv(link, POSITIONS_BUCKET, replicas),
    }),
    bus: new NatsBus(link.connection),
    kv: new NatsKv(link, CLUSTER_BUCKET, replicas),
    version: link.connection.info?.version ?? 'unknown',
    connected: () => link.connected,
    close: () => link.connection.close(),
  };
}

/** The same in memory, with the ways to hurt it (`store.lose`, `store.trim`, `store.breakConnection`). */
export function memoryBroker(messageBytesMax?: number): Broker & { readonly store: MemoryStore } {
  const store = new MemoryStore(messageBytesMax);
  return {
    store,
    changelogs: new StoredChangelogs(store, { letters: new MemoryLetters(store.messageBytesMax) }),
    bus: memoryBus(),
    kv: new MemoryKv(),
    version: 'memory',
    connected: () => true,
    close: async () => store.breakConnection(),
  };
}
