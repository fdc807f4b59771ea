import { memoryBroker } from '@tributary/changelog';
import { ORIGIN, type Position, systemClock, WHOLE } from '@tributary/core';
import { expect, it } from 'vitest';
import { ProjectionActor } from './actor.ts';
import type { Projection } from './projection.ts';

it('tells that a replay is done only when everything has been applied again', async () => {
  const { changelogs, bus } = memoryBroker();
  const writer = await changelogs.write('shop', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
  const header = { source: 'shop', epoch: 'e', kind: 'stream', continues: false, more: false, mark: null, state: null } as const;
  for (const lsn of [1n, 2n]) {
    const place = { position: { lsn, ordinal: 0 }, restart: lsn, watermark: Number(lsn), transactions: [] };
    await writer.append({ header: { ...header, ...place }, sections: [] });
  }
  let position: Position = ORIGIN;
  let gate = Promise.resolve();
  const projection: Projection = {
    position: async () => position,
    apply: async ({ after }) => {
      await gate;
      position = after;
    },
    reset: async () => {
      position = ORIGIN;
    },
    rewind: async () => {},
    held: () => new Map(),
    close: async () => {},
  };
  const clock = { ...systemClock, sleep: () => new Promise<void>((resolve) => setImmediate(resolve)) };
  const open = async () => projection;
  const actor = new ProjectionActor({
    sink: 'ods',
    source: 'shop',
    part: WHOLE,
    changelogs,
    bus,
    clock,
    groupBytes: 1,
    restMs: 0,
    open,
  });
  const stop = new AbortController();
  await new Promise<void>((ready) => void actor.run(stop.signal, ready, async () => {}));
  for await (const _ of bus.ask('tributary.projection.ods.shop.reached', { seq: 2 }));

  let openGate = () => {};
  gate = new Promise<void>((resolve) => (openGate = resolve));
  const told: boolean[] = [];
  for await (const part of bus.ask('tributary.projection.ods.shop.replay', { from: 'start' })) {
    told.push((part as { done: boolean }).done);
    openGate();
  }
  expect(told[0]).toBe(false);
  expect(told.at(-1)).toBe(true);
  stop.abort();
});
