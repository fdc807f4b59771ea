import { type Changelogs, type LastBatch, memoryBroker } from '@tributary/changelog';
import { askOne, type Bus, type Clock, type Lsn, systemRandom } from '@tributary/core';
import { Visibility } from '@tributary/postgres';
import { expect, it } from 'vitest';
import type { Replication, Slot, SourceDatabase, SourceSession } from './database.ts';
import { SourceActor, type SourceOptions } from './source-actor.ts';
import { Vitals } from './vitals.ts';

const config = {
  name: 's',
  postgres: { host: 'nowhere', port: 5432, user: 'u', database: 'd' },
  tables: ['public.*'],
  snapshot: 'initial',
  labels: {},
  schemaChanges: 'apply',
  heartbeatMs: 1_000,
} as const;

/** What is waited for with a signal lasts until it aborts; the grace of an actor that is told to stop is over at once. */
const clock: Clock = {
  now: () => 0,
  monotonic: () => 0,
  sleep: async (_, signal) => {
    if (signal) await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
  },
};

const NEW_SLOT: Slot = { name: 'tributary_s', confirmed: 1n, created: true };

/** A database without tables, from which the worker is cut off as soon as it asks for the stream: that never begins, and never ends. */
function database(streams: (from: Lsn) => void, slot = NEW_SLOT): SourceDatabase {
  const visibility = async () => new Visibility('10:10:');
  const session = {
    server: async () => ({ systemId: '1', version: 180_000 }),
    ensurePublications: async () => {},
    ensureSlot: async () => slot,
    slotHealth: async () => null,
    look: async () => ({ visibility: await visibility(), health: null, catalog: '' }),
    visibility,
    nextXid: async () => 10n,
    walPosition: async () => slot.confirmed,
    emit: async () => {},
    tables: async () => [],
    published: async () => ({ all: new Set<number>(), append: new Set<number>() }),
    close: async () => {},
  };
  const never = () => new Promise<never>(() => {});
  const replication = (from: Lsn): Replication => {
    const run = () => {
      streams(from);
      return never();
    };
    return { run, stop: never, confirm: async () => {}, hold() {}, release() {} };
  };
  return { open: async () => session as Partial<SourceSession> as SourceSession, replicate: ({ from }) => replication(from) };
}

const options = { replicas: 1, maxAgeMs: 0, maxBytes: 0 };

function actor(parts: Pick<SourceOptions, 'database' | 'changelogs' | 'bus' | 'warn'>): SourceActor {
  return new SourceActor({
    config,
    changelog: options,
    lingerMs: 5,
    confirmAfterMs: 0,
    clock,
    random: systemRandom,
    vitals: new Vitals(config.heartbeatMs, clock),
    ...parts,
  });
}

it.each(['while the broker hears what it answers', 'before the database streams'])(
  'a source that is left behind answers nobody: it is told to stop %s',
  async (moment) => {
    const { bus, changelogs } = memoryBroker();
    const stop = new AbortController();
    let ended: Promise<unknown> = Promise.resolve();
    const toldEarly = moment.startsWith('while');
    let serving = 0;
    const heard: Bus = {
      ...bus,
      serve: async (subject, answer) => {
        const end = await bus.serve(subject, answer);
        if (toldEarly && ++serving === 2) {
          stop.abort(new Error('to another worker'));
          await ended;
        }
        return end;
      },
    };
    const source = actor({
      database: database(() => stop.abort(new Error('to another worker'))),
      changelogs,
      bus: heard,
      warn: () => {},
    });
    const run = source.run(
      stop.signal,
      () => {},
      async () => {},
    );
    ended = run.catch(() => {});
    await expect(run).rejects.toThrow('to another worker');
    await new Promise((resolve) => setImmediate(resolve));
    for (const what of ['barrier', 'snapshot'])
      await expect(askOne(bus, `tributary.source.s.${what}`, {})).rejects.toMatchObject({ kind: 'not_found' });
  },
);

it.each([true, false])('a changelog that lost its end is looked for on other servers first; is it there: %s', async (there) => {
  const { bus, changelogs } = memoryBroker();
  const stop = new AbortController();
  const commit = async (lsn: Lsn) => {
    const writer = await changelogs.write('s', options);
    const header = {
      source: 's',
      epoch: '1.e',
      kind: 'stream',
      position: { lsn, ordinal: 1 },
      restart: lsn + 10n,
      watermark: 1,
      continues: false,
      more: false,
      transactions: [{ lsn, endLsn: lsn + 10n, xid: 1, committedAt: 1 }],
      mark: null,
      state: null,
    } as const;
    await writer.append({ header, sections: [] });
    await writer.close();
  };
  await commit(100n);
  const holding: boolean[] = [];
  const copied = Object.assign(Object.create(changelogs) as Changelogs, {
    async reconcileCopies(source: string, holds: (last: LastBatch | null) => boolean) {
      holding.push(holds(await changelogs.last(source)));
      if (there) await commit(200n);
      holding.push(holds(await changelogs.last(source)));
      return true;
    },
    ...Object.fromEntries(
      (['write', 'read', 'last', 'status'] as const).map((name) => [name, changelogs[name].bind(changelogs)]),
    ),
  });
  const warned: string[] = [];
  let from: Lsn | null = null;
  const streams = (at: Lsn) => {
    from = at;
    stop.abort(new Error('seen enough'));
  };
  const slot = { name: 'tributary_s', confirmed: 210n, created: false };
  const parts = { database: database(streams, slot), changelogs: copied, bus };
  const source = actor({ ...parts, warn: (_facts, message) => void warned.push(message) });
  const run = source.run(
    stop.signal,
    () => {},
    async () => {},
  );
  await expect(run).rejects.toThrow('seen enough');
  expect(from).toBe(210n);
  expect(holding).toEqual([false, there]);
  expect(warned[0]).toMatch(/copies of the changelog differed/);
  expect((await changelogs.last('s'))?.header.mark?.step ?? null).toBe(there ? null : 'gap');
});
