import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Broker, connectNats } from '@tributary/changelog';
import type { StatusTold } from '@tributary/cluster';
import {
  type NatsServer,
  obtainNatsServer,
  type PostgresServer,
  startNats,
  startPostgres,
  temporaryFolder,
} from '@tributary/embedded';
import { Session } from '@tributary/postgres';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Service } from '../fixtures/service.ts';
import { lastJson, tributary } from '../fixtures/system.ts';

const SOURCES = ['a', 'b', 'c', 'd'];
const LEASE_MS = 10_000;

/** Hears which worker runs what. */
class Ear {
  #told = new Map<string, StatusTold>();
  #waiting: { readonly met: () => boolean; readonly resolve: () => void }[] = [];
  #stop: () => Promise<void> = async () => {};

  async open(broker: Broker): Promise<void> {
    this.#stop = await broker.bus.listen('tributary.status', (value) => {
      const told = value as StatusTold;
      this.#told.set(told.worker, told);
      const met = this.#waiting.filter((one) => one.met());
      this.#waiting = this.#waiting.filter((one) => !met.includes(one));
      for (const one of met) one.resolve();
    });
  }

  close(): Promise<void> {
    return this.#stop();
  }

  /** Actors that a worker said it runs. */
  by(worker: string): string[] {
    const actors = this.#told.get(worker)?.actors ?? [];
    return actors.filter((actor) => actor.state === 'running').map((actor) => actor.name);
  }

  takeovers(worker: string): number {
    return this.#told.get(worker)?.takeovers ?? 0;
  }

  /** @returns ms until it was so */
  async until(met: () => boolean): Promise<number> {
    const began = performance.now();
    if (!met()) await new Promise<void>((resolve) => this.#waiting.push({ met, resolve }));
    return performance.now() - began;
  }
}

describe('workers of a cluster', () => {
  let postgres: PostgresServer;
  let nats: NatsServer;
  let broker: Broker;
  let file = '';
  let folder = '';
  const ear = new Ear();
  const services: Service[] = [];
  const sessions = new Map<string, Session>();

  const start = async (service: string, extra: readonly string[] = []) => {
    const data = join(folder, `data-${services.length}`);
    const started = await Service.start([service, '-f', file, '--nats', nats.url, '--data', data, ...extra]);
    services.push(started);
    return started;
  };
  const everySource = SOURCES.map((name) => `source/${name}`);
  const insert = (n: number) =>
    Promise.all(
      [...sessions.values()].map((session) =>
        session.run(`INSERT INTO public.t SELECT n, 'v' || n FROM generate_series(${n}, ${n + 99}) n`),
      ),
    );
  const verified = async () => lastJson<{ equal: boolean }>(await tributary(['verify', '--nats', nats.url, '--json'])).equal;

  beforeAll(async () => {
    folder = await temporaryFolder('cluster');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: [...SOURCES, 'ods'] });
    nats = await startNats({ dir: join(folder, 'nats'), binary: (await obtainNatsServer({})).path });
    broker = await connectNats({ url: nats.url, name: 'test' });
    await ear.open(broker);
    for (const name of SOURCES) {
      const session = await Session.open(
        { host: '127.0.0.1', port: postgres.port, user: 'postgres', database: name },
        { name: 'test' },
      );
      await session.run('CREATE TABLE public.t (id int PRIMARY KEY, v text)');
      sessions.set(name, session);
    }
    const sources = SOURCES.map((name) => `kind: Source\nname: ${name}\npostgres: "${postgres.url(name)}"\n---\n`);
    file = join(folder, 'tributary.yaml');
    await writeFile(file, `${sources.join('')}kind: Sink\nname: ods\ntype: ods\npostgres: "${postgres.url('ods')}"\n`);
  });

  afterEach(async () => {
    await Promise.all(services.splice(0).map((service) => service.stop()));
  });

  afterAll(async () => {
    await ear.close();
    for (const session of sessions.values()) await session.close();
    await broker.close();
    await nats.stop();
    await postgres.stop();
  });

  it('share the sources; one that is told to stop hands over at once, and nothing is lost', async () => {
    const first = await start('source');
    await ear.until(() => ear.by(first.worker).length === 4);
    const second = await start('source');
    await start('sink');
    await ear.until(() => ear.by(first.worker).length === 2 && ear.by(second.worker).length === 2);
    await insert(1);
    const handed = ear.until(() => ear.by(second.worker).length === 4);
    expect(await first.stop()).toBe(0);
    const ms = await handed;
    console.log(`handed over after ${Math.round(ms)} ms`);
    expect(ms).toBeLessThan(LEASE_MS);
    expect(ear.takeovers(second.worker)).toBe(0);
    await insert(101);
    expect(await verified()).toBe(true);
  });

  it('take over from one that was killed, when its leases have ended', async () => {
    const first = await start('source');
    const second = await start('source');
    const sink = await start('sink');
    const spare = await start('sink');
    await ear.until(() => ear.by(first.worker).length === 2 && ear.by(second.worker).length === 2);
    await ear.until(() => ear.by(sink.worker).length === 2 && ear.by(spare.worker).length === 2);
    await insert(1_001);
    const before = [ear.takeovers(second.worker), ear.takeovers(spare.worker)];
    await Promise.all([first.kill(), sink.kill()]);
    const [ms, sinkMs] = await Promise.all([
      ear.until(() => ear.by(second.worker).length === 4),
      ear.until(() => ear.by(spare.worker).length === 4),
    ]);
    console.log(`sources taken over after ${Math.round(ms)} ms, projections after ${Math.round(sinkMs)} ms`);
    expect(ear.by(second.worker).toSorted()).toEqual(everySource);
    expect([ear.takeovers(second.worker), ear.takeovers(spare.worker)]).toEqual(before.map((count) => count + 2));
    await insert(1_101);
    expect(await verified()).toBe(true);
  });

  it('take over from one that only stands still, and it does no harm when it goes on', async () => {
    const first = await start('source');
    const second = await start('source');
    const sink = await start('sink');
    const spare = await start('sink');
    await ear.until(() => ear.by(first.worker).length === 2 && ear.by(second.worker).length === 2);
    await ear.until(() => ear.by(sink.worker).length === 2 && ear.by(spare.worker).length === 2);
    for (const one of [first, sink]) one.signal('SIGSTOP');
    await insert(2_001);
    const [ms, sinkMs] = await Promise.all([
      ear.until(() => ear.by(second.worker).length === 4),
      ear.until(() => ear.by(spare.worker).length === 4),
    ]);
    console.log(
      `sources taken over after ${Math.round(ms)} ms, projections after ${Math.round(sinkMs)} ms, from workers that stood still`,
    );
    await insert(2_101);
    expect(await verified()).toBe(true);
    for (const one of [first, sink]) one.signal('SIGCONT');
    await ear.until(() => ear.by(first.worker).length === 2 && ear.by(second.worker).length === 2);
    await ear.until(() => ear.by(sink.worker).length === 2 && ear.by(spare.worker).length === 2);
    await insert(2_201);
    expect(await verified()).toBe(true);
  });

  it('run a source with labels only where they are given', async () => {
    const pinned = join(folder, 'pinned.yaml');
    await writeFile(
      pinned,
      `kind: Source\nname: a\npostgres: "${postgres.url('a')}"\nlabels: { network: shop }\n---\nkind: Source\nname: b\npostgres: "${postgres.url('b')}"\n`,
    );
    file = pinned;
    const outside = await start('source', ['--labels', 'network=elsewhere']);
    await ear.until(() => ear.by(outside.worker).includes('source/b'));
    const inside = await start('source', ['--labels', 'network=shop']);
    await ear.until(() => ear.by(inside.worker).includes('source/a'));
    expect(ear.by(outside.worker)).toEqual(['source/b']);
  });
});
