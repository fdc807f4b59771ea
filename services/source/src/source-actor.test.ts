import { memoryBroker } from '@tributary/changelog';
import { askOne, type Bus, type Clock, systemRandom } from '@tributary/core';
import { Visibility } from '@tributary/postgres';
import { expect, it } from 'vitest';
import type { Replication, SourceDatabase, SourceSession } from './database.ts';
import { SourceActor } from './source-actor.ts';
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

/** A database without tables, from which the worker is cut off as soon as it asks for the stream: that never begins, and never ends. */
function database(streams: () => void): SourceDatabase {
  const visibility = async () => new Visibility('10:10:');
  const session = {
    server: async () => ({ systemId: '1', version: 180_000 }),
    ensurePublications: async () => {},
    ensureSlot: async () => ({ name: 'tributary_s', confirmed: 1n, created: true }),
    slotHealth: async () => null,
    look: async () => ({ visibility: await visibility(), health: null, catalog: '' }),
    visibility,
    nextXid: async () => 10n,
    walPosition: async () => 1n,
    emit: async () => {},
    tables: async () => [],
    published: async () => ({ all: new Set<number>(), append: new Set<number>() }),
    close: async () => {},
  };
  const never = () => new Promise<never>(() => {});
  const run = () => {
    streams();
    return never();
  };
  const replication: Replication = { run, stop: never, confirm: async () => {}, hold() {}, release() {} };
  return { open: async () => session as Partial<SourceSession> as SourceSession, replicate: () => replication };
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
    const source = new SourceActor({
      config,
      database: database(() => stop.abort(new Error('to another worker'))),
      changelogs,
      changelog: { replicas: 1, maxAgeMs: 0, maxBytes: 0 },
      lingerMs: 5,
      confirmAfterMs: 0,
      bus: heard,
      clock,
      random: systemRandom,
      warn: () => {},
      vitals: new Vitals(config.heartbeatMs, clock),
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
