import type { Kv, KvEvent } from '@tributary/core';
import { connectNats, memoryBroker } from '@tributary/changelog';
import { obtainNatsServer, startNats, temporaryFolder } from '@tributary/embedded';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

interface Kind {
  readonly name: string;
  /** Two connections to the same bucket. */
  open(): Promise<{ kv: Kv; other: Kv; close(): Promise<void> }>;
}

const kinds: Kind[] = [
  {
    name: 'memory',
    async open() {
      const { kv, close } = memoryBroker();
      return { kv, other: kv, close };
    },
  },
  {
    name: 'nats',
    async open() {
      const folder = await temporaryFolder('kv');
      const server = await startNats({ dir: folder, binary: (await obtainNatsServer({})).path });
      const one = await connectNats({ url: server.url });
      const two = await connectNats({ url: server.url });
      return {
        kv: one.kv,
        other: two.kv,
        async close() {
          await one.close();
          await two.close();
          await server.stop();
        },
      };
    },
  },
];

describe.each(kinds)('kv on $name', ({ open }) => {
  let world: Awaited<ReturnType<Kind['open']>>;
  beforeAll(async () => {
    world = await open();
  });
  afterAll(() => world.close());

  it('creates a key once, also when two try at the same moment', async () => {
    const { kv, other } = world;
    expect(await kv.get('lease.a')).toBeNull();
    const outcomes = await Promise.all([kv.create('lease.a', { owner: 'x' }), other.create('lease.a', { owner: 'y' })]);
    expect(outcomes.filter((revision) => revision !== null)).toHaveLength(1);
    const winner = outcomes[0] === null ? 'y' : 'x';
    expect(await other.get('lease.a')).toEqual({
      key: 'lease.a',
      value: { owner: winner },
      revision: outcomes[0] ?? outcomes[1],
    });
  });

  it('writes only over the revision it was made from', async () => {
    const { kv, other } = world;
    const first = (await kv.create('lease.b', 1)) as number;
    const second = (await kv.update('lease.b', 2, first)) as number;
    expect(second).toBeGreaterThan(first);
    expect(await other.update('lease.b', 3, first)).toBeNull();
    expect(await other.delete('lease.b', first)).toBe(false);
    expect((await kv.get('lease.b'))?.value).toBe(2);
  });

  it('makes a deleted key anew, with a higher revision', async () => {
    const { kv } = world;
    const first = (await kv.create('worker.c', 'here')) as number;
    expect(await kv.delete('worker.c', first)).toBe(true);
    expect(await kv.get('worker.c')).toBeNull();
    expect(await kv.update('worker.c', 'back', first)).toBeNull();
    expect(await kv.create('worker.c', 'again')).toBeGreaterThan(first);
  });

  it('tells what stands, then every change', async () => {
    const { kv, other } = world;
    const first = (await kv.create('config.d', { n: 1 })) as number;
    const stop = new AbortController();
    const told: KvEvent[] = [];
    let stood: KvEvent[] | null = null;
    for await (const event of other.watch(stop.signal)) {
      if (event.kind === 'current') {
        stood = told.splice(0);
        const second = (await kv.update('config.d', { n: 2 }, first)) as number;
        await kv.delete('config.d', second);
      } else told.push(event);
      if (event.kind === 'delete' && stood) break;
    }
    stop.abort();
    expect(stood).toContainEqual({ kind: 'put', key: 'config.d', value: { n: 1 }, revision: first });
    expect(told).toEqual([
      { kind: 'put', key: 'config.d', value: { n: 2 }, revision: first + 1 },
      { kind: 'delete', key: 'config.d', revision: first + 2 },
    ]);
  });

  it('watches one key alone', async () => {
    const { kv } = world;
    const first = (await kv.create('config.e', 1)) as number;
    await kv.create('config.f', 1);
    const told: string[] = [];
    for await (const event of kv.watch(new AbortController().signal, 'config.e')) {
      if (event.kind === 'current') {
        await kv.create('config.g', 1);
        await kv.update('config.e', 2, first);
      } else told.push(`${event.key} ${event.revision === first ? 1 : 2}`);
      if (told.length === 2) break;
    }
    expect(told).toEqual(['config.e 1', 'config.e 2']);
  });

  it('ends a watch when it is told to', async () => {
    const stop = new AbortController();
    let events = 0;
    for await (const event of world.kv.watch(stop.signal)) {
      events++;
      if (event.kind === 'current') stop.abort();
    }
    expect(events).toBeGreaterThan(0);
  });
});
