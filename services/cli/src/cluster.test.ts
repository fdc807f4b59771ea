import { memoryBroker } from '@tributary/changelog';
import { Fault, type Kv } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { layoutOf } from './cluster.ts';

const record = {
  service: 'source',
  labels: {},
  capacity: 1,
  assignments: [{ name: 'source/shop', labels: {}, actors: [{ name: 'source/shop', kind: 'source' }] }],
};

describe('layoutOf', () => {
  it('outlasts an election of the leader of the bucket, and a connection that breaks while it reads', async () => {
    const broker = memoryBroker();
    await broker.kv.create('worker.source.one', record);
    let asked = 0;
    const kv: Kv = {
      ...broker.kv,
      watch: async function* (signal, key) {
        asked++;
        if (asked === 1) throw new Fault('broker_unreachable', 'NATS: bucket tributary: TIMEOUT');
        if (asked === 2) return;
        yield* broker.kv.watch(signal, key);
      },
    };
    expect(await layoutOf({ broker: { ...broker, kv } })).toEqual({ sources: ['shop'], transforms: new Set(), projections: [] });
    expect(asked).toBe(3);
    await broker.close();
  });

  it('tells at once what does not pass', async () => {
    const broker = memoryBroker();
    const kv: Kv = {
      ...broker.kv,
      // oxlint-disable-next-line require-yield
      watch: async function* () {
        throw new Fault('config_invalid', 'never so');
      },
    };
    await expect(layoutOf({ broker: { ...broker, kv } })).rejects.toThrow('never so');
    await broker.close();
  });
});
