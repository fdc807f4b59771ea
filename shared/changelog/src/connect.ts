import type { Bus } from '@tributary/core';
import type { Changelogs } from './changelog.ts';
import { StoredChangelogs } from './changelogs.ts';
import { memoryBus } from './memory/bus.ts';
import { MemoryStore } from './memory/store.ts';
import { NatsBus } from './nats/bus.ts';
import { type NatsOptions, openLink } from './nats/connection.ts';
import { NatsStore } from './nats/store.ts';

/** A connection to the broker: changelogs, bus, and its end. */
export interface Broker {
  readonly changelogs: Changelogs;
  readonly bus: Bus;
  /** e.g. `2.9.10`. */
  readonly version: string;
  close(): Promise<void>;
}

/** @throws Fault `broker_unreachable` when the first connection cannot be made; later it reconnects for ever */
export async function connectNats(options: NatsOptions): Promise<Broker> {
  const link = await openLink(options);
  return {
    changelogs: new StoredChangelogs(await NatsStore.open(link)),
    bus: new NatsBus(link.connection),
    version: link.connection.info?.version ?? 'unknown',
    close: () => link.connection.close(),
  };
}

/** The same in memory, with the ways to hurt it (`store.lose`, `store.trim`, `store.breakConnection`). */
export function memoryBroker(messageBytesMax?: number): Broker & { readonly store: MemoryStore } {
  const store = new MemoryStore(messageBytesMax);
  return {
    store,
    changelogs: new StoredChangelogs(store),
    bus: memoryBus(),
    version: 'memory',
    close: async () => store.breakConnection(),
  };
}
