import { until } from '../../fixtures/wait.ts';
import { filesCanBeLimited } from '../../fixtures/worker.ts';
import type { Takeovers } from './takeovers.ts';
import { type Place, SOURCES, type World } from './world.ts';

/** TTL of a lease: a worker that is away for longer must have lost everything it held. */
const LEASE_TTL_MS = 10_000;
/** So small that no file can grow: what a full disk does to whoever writes to it. */
const FULL_BYTES = 4_096;
/** A broker that was killed has caught up with the others long before. */
const WHOLE_MS_MAX = 120_000;

export interface Blow {
  readonly world: World;
  readonly takeovers: Takeovers;
  /** 0 to 1, from the run's seed. */
  readonly random: () => number;
  /** Waits; at once when the run ends, so that every fault heals what it broke. */
  readonly hold: (ms: number) => Promise<void>;
  /** Aborts when the run ends. */
  readonly ending: AbortSignal;
  readonly say: (what: string, facts?: object) => void;
}

/** Breaks something, holds it broken, and makes it whole again. */
export type Fault = (blow: Blow) => Promise<void>;

function pick<T>(all: readonly T[], random: () => number): T {
  return all[Math.floor(random() * all.length)] as T;
}

const between = (random: () => number, min: number, max: number) => min + random() * (max - min);

/** Hurts one worker that nothing else hurts at the moment. */
function hurting(services: readonly string[], hurt: (place: Place, blow: Blow) => Promise<void>): Fault {
  return async (blow) => {
    const { world, random } = blow;
    const place = pick(
      world.places.filter((one) => services.includes(one.service) && !world.hurt.has(one)),
      random,
    );
    world.hurt.add(place);
    await hurt(place, blow);
    world.hurt.delete(place);
  };
}

const ANY = ['source', 'sink', 'console'];

/** kill −9, and a new process after a while that may be longer than a lease lives. */
const killed = hurting(ANY, async ({ worker }, blow) => {
  const actors = blow.takeovers.blow('kill -9', worker.id);
  blow.say(`kill -9 ${worker.name}`, { worker: worker.id, actors });
  await worker.kill();
  await blow.hold(between(blow.random, 500, 1.5 * LEASE_TTL_MS));
  await worker.start();
  blow.say(`${worker.name} is back`, { worker: worker.id });
});

/** SIGSTOP for longer than the lease lives: it wakes and believes that it still leads. */
const paused = hurting(['source', 'sink'], async ({ worker }, blow) => {
  const actors = blow.takeovers.blow('SIGSTOP', worker.id);
  blow.say(`SIGSTOP ${worker.name}`, { worker: worker.id, actors });
  worker.pause();
  await blow.hold(between(blow.random, LEASE_TTL_MS + 2_000, LEASE_TTL_MS + 6_000));
  worker.resume();
  blow.say(`SIGCONT ${worker.name}`);
});

/** Every worker in turn that nothing else hurts: SIGTERM, and a new process as soon as it has ended. */
async function rolled(blow: Blow): Promise<void> {
  const { world, takeovers } = blow;
  for (const place of world.places) {
    if (blow.ending.aborted) return;
    if (world.hurt.has(place)) continue;
    world.hurt.add(place);
    const { worker } = place;
    const actors = takeovers.blow('SIGTERM', worker.id);
    const ms = Math.round(await worker.stop());
    takeovers.ended(place.service, ms);
    blow.say(`SIGTERM ${worker.name}`, { actors, ms });
    await worker.start();
    world.hurt.delete(place);
  }
}

/** Nothing passes between one worker and NATS: reset, or without a word. */
function cut(state: 'refused' | 'silent'): Fault {
  return hurting(ANY, async ({ worker, links }, blow) => {
    const actors = blow.takeovers.blow(`network ${state}`, worker.id);
    blow.say(`network of ${worker.name} ${state}`, { worker: worker.id, actors });
    for (const link of links) link.set(state);
    await blow.hold(between(blow.random, 1_000, 2 * LEASE_TTL_MS));
    for (const link of links) link.set('open');
    blow.takeovers.spared(worker.id);
    blow.say(`network of ${worker.name} open`);
  });
}

const diskFull = hurting(['sink'], async ({ worker }, blow) => {
  blow.say(`disk of ${worker.name} full`);
  await worker.limitFiles(FULL_BYTES);
  await blow.hold(between(blow.random, 5_000, LEASE_TTL_MS));
  await worker.limitFiles(null);
  blow.say(`disk of ${worker.name} free`);
});

/** Back or forth by up to two hours, once more, and then right again. */
const clockJumped = hurting(ANY, async ({ worker }, blow) => {
  for (let jump = 0; jump < 2; jump++) {
    const ms = Math.round(between(blow.random, -2, 2) * 3_600_000);
    blow.say(`clock of ${worker.name} jumps`, { ms });
    worker.shiftClock(ms);
    await blow.hold(between(blow.random, 1_000, 4_000));
  }
  worker.shiftClock(0);
  blow.say(`clock of ${worker.name} right`);
});

/**
 * The broker that leads a changelog; the other two elect a new one. One of three may be away, and one that has not caught up since it was away still is:
 * nats-server 2.9 loses what it acknowledged, and its copies differ from then on, when the next one is killed before that (test/bench/RESULTS.md).
 */
async function brokerKilled(blow: Blow): Promise<void> {
  const { nats } = blow.world;
  const before = performance.now();
  await until('the brokers to be whole', async () => blow.ending.aborted || (await nats.whole()), WHOLE_MS_MAX);
  if (blow.ending.aborted) return;
  const waited = Math.round(performance.now() - before);
  const stream = `CHANGELOG_${pick(SOURCES, blow.random)}`;
  const leader = (await nats.leaderOf(stream)) ?? Math.floor(blow.random() * nats.size);
  blow.say(`kill -9 ${nats.names[leader]}, leader of ${stream}`, { waited });
  await nats.kill(leader);
  await blow.hold(between(blow.random, 500, LEASE_TTL_MS));
  await nats.restart(leader);
  blow.say(`${nats.names[leader]} is back`);
}

function databaseCrashed(which: 'sources' | 'ods'): Fault {
  return async (blow) => {
    blow.say(`PostgreSQL of ${which} crashes`);
    await blow.world[which].restart({ mode: 'immediate' });
    blow.say(`PostgreSQL of ${which} is back`);
  };
}

if (!filesCanBeLimited) console.warn('SKIPPED IN CHAOS: a full disk, because this machine has no prlimit');

/** What happens to processes, to what surrounds them, and to the servers they stand on: one of each at a time. */
export const LANES: readonly (readonly Fault[])[] = [
  [killed, killed, paused, rolled],
  [cut('refused'), cut('silent'), clockJumped, ...(filesCanBeLimited ? [diskFull] : [])],
  [brokerKilled, brokerKilled, databaseCrashed('sources'), databaseCrashed('ods')],
];
