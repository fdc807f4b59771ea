import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
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
import { lastJson, ROOT, System, tributary } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';

/** What DESIGN.md promises of SIGTERM, ms. */
const STOP_MS_MAX = 1_000;
/** Its compaction takes some tenths of a second at least. */
const ROWS = 150_000;
/** Of which a process that is watched may run so much before it is looked at again, ms. */
const SLICE_MS = 5;

describe('a worker that is told to stop', () => {
  let folder: string;
  let postgres: PostgresServer;
  let nats: NatsServer;
  let session: Session;
  let file = '';
  let lake = '';
  const services: Service[] = [];

  const start = async (service: string, data: string) => {
    const started = await Service.start([service, '-f', file, '--nats', nats.url, '--data', join(folder, data)]);
    services.push(started);
    return started;
  };
  const ask = (...args: string[]) => tributary([...args, '--nats', nats.url, '--json'], { timeoutMs: 180_000 });
  const files = async () => (await readdir(lake, { recursive: true }).catch(() => [])).map(String);
  /** Name of the newest. */
  const manifest = async () =>
    (await files())
      .filter((name) => name.startsWith('manifest-'))
      .toSorted()
      .at(-1) ?? '';
  /** SIGTERM. @returns how long the process took to end, ms */
  const stopped = async (service: Service) => {
    const before = performance.now();
    expect(await service.stop(), service.log).toBe(0);
    return Math.round(performance.now() - before);
  };

  beforeAll(async () => {
    folder = await temporaryFolder('stop');
    lake = join(folder, 'lake', 'shop');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'] });
    nats = await startNats({ dir: join(folder, 'nats'), binary: (await obtainNatsServer({})).path });
    const connection = { host: '127.0.0.1', port: postgres.port, user: 'postgres' };
    session = await Session.open({ ...connection, database: 'shop' }, { name: 'test' });
    await session.run('CREATE TABLE public.t (id int PRIMARY KEY, a text, b text, c text)');
    await session.run(
      `INSERT INTO public.t SELECT n, md5(n::text), md5((n + 1)::text), md5((n + 2)::text) FROM generate_series(1, ${ROWS}) n`,
    );
    file = join(folder, 'tributary.yaml');
    await writeFile(
      file,
      `kind: Cluster
lake: { url: "file:${join(folder, 'lake')}" }
---
kind: Source
name: shop
postgres: "${postgres.url('shop')}"
---
kind: Sink
name: ods
type: ods
postgres: "${postgres.url('ods')}"
---
kind: Sink
name: lake
type: lake
flush: { every: 1s, bytes: 16MiB }
compact: { every: 1h }
`,
    );
  });

  afterEach(async () => {
    await Promise.all(services.splice(0).map((service) => service.kill()));
  });

  afterAll(async () => {
    await session?.close();
    await nats?.stop();
    await postgres?.stop();
  });

  it('ends within a second in the middle of a compaction, which the next worker does again, and the data is right', async () => {
    await start('source', 'source');
    const sink = await start('sink', 'sink');
    expect((await ask('status', '--wait', 'caught-up', '--timeout', '120s')).code).toBe(0);
    const compacting = ask('compact');
    // It stands still while it is looked at, so that it is in the middle of its compaction however fast the machine is.
    await until(
      'the compaction to write',
      async () => {
        sink.signal('SIGCONT');
        await new Promise((resolve) => setTimeout(resolve, SLICE_MS));
        sink.signal('SIGSTOP');
        return (await files()).some((name) => name.includes('current-'));
      },
      60_000,
    );
    const before = await manifest();
    const stopping = stopped(sink);
    sink.signal('SIGCONT');
    const ms = await stopping;
    console.log(`a lake in the middle of a compaction stopped after ${ms} ms`);
    expect(ms).toBeLessThan(STOP_MS_MAX);
    expect(await manifest()).toBe(before);
    expect((await compacting).code).toBe(1);

    await session.run(`UPDATE public.t SET a = 'changed' WHERE id % 1000 = 0`);
    await start('sink', 'sink');
    const verified = lastJson<{ equal: boolean; tables: { rows: number }[] }>(await ask('verify', '--timeout', '120s'));
    expect(verified.equal).toBe(true);
    expect(verified.tables.map(({ rows }) => rows)).toEqual([ROWS, ROWS, ROWS]);
    expect((await manifest()) > before).toBe(true);
  }, 300_000);

  it('ends within a second while its target is locked by somebody', async () => {
    await start('source', 'source');
    const sink = await start('sink', 'sink');
    expect((await ask('status', '--wait', 'caught-up', '--timeout', '120s')).code).toBe(0);
    const owner = await Session.open(
      { host: '127.0.0.1', port: postgres.port, user: 'postgres', database: 'ods' },
      { name: 'owner' },
    );
    try {
      await owner.run('BEGIN');
      await owner.run('LOCK TABLE shop.t');
      await session.run(`UPDATE public.t SET b = 'changed' WHERE id = 1`);
      await until('the ODS to wait for the lock', async () => {
        const waiting = await owner.rows(
          `SELECT FROM pg_stat_activity WHERE application_name = 'tributary ods/shop' AND wait_event_type = 'Lock'`,
        );
        return waiting.length > 0;
      });
      const ms = await stopped(sink);
      console.log(`a sink that waits for a lock stopped after ${ms} ms`);
      expect(ms).toBeLessThan(STOP_MS_MAX);
    } finally {
      await owner.close();
    }
    await start('sink', 'sink');
    expect(lastJson<{ equal: boolean }>(await ask('verify', '--timeout', '120s')).equal).toBe(true);
  }, 300_000);

  it('does not wait for a broker that does not answer', async () => {
    const source = await start('source', 'source');
    const sink = await start('sink', 'sink');
    const watching = await start('console', 'console');
    expect((await ask('status', '--wait', 'caught-up', '--timeout', '120s')).code).toBe(0);
    process.kill(nats.pid, 'SIGSTOP');
    try {
      const took = await Promise.all([stopped(source), stopped(sink), stopped(watching)]);
      console.log(`source, sink and console without a broker stopped after ${took.join(', ')} ms`);
      for (const ms of took) expect(ms).toBeLessThan(2 * STOP_MS_MAX);
    } finally {
      process.kill(nats.pid, 'SIGCONT');
    }
  }, 300_000);
});

/** Told to stop, it never ends by itself, and a thread of its is in native code. */
const ENDLESS = `
import { Database } from '@tributary/duckdb';
import { stopSignal } from '@tributary/ops';
const stop = stopSignal();
const database = await Database.open({ path: ':memory:', memoryBytes: 64 * 2 ** 20, threads: 1, spillDir: '' });
const duck = await database.connect();
void duck.run('SELECT count(*) FROM range(3000000) a, range(30000) b WHERE (a.range * b.range) % 7 = 3');
stop.addEventListener('abort', () => console.log('stops'));
setInterval(() => {}, 1000);
console.log('runs');
`;

describe('a process that is told to stop twice', () => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    it(`ends at once at the second ${signal}, whatever it is doing, and says that nothing is lost`, async () => {
      const child = spawn(process.execPath, ['--input-type=module', '-e', ENDLESS], { cwd: join(ROOT, 'test') });
      try {
        let said = '';
        child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
        const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
        expect((await lines.next()).value).toBe('runs');
        child.kill(signal);
        expect((await lines.next()).value).toBe('stops');
        const ended = once(child, 'close');
        child.kill(signal);
        const [, by] = (await ended) as [number | null, NodeJS.Signals | null];
        // What a shell shows as 128 + its number: 143 and 130.
        expect(by).toBe(signal);
        expect(said).toContain('Nothing is lost');
      } finally {
        child.kill('SIGKILL');
      }
    });
  }
});

it('a system that is told to stop while it starts does so, though what it waits for never comes', async () => {
  const folder = await temporaryFolder('stop-early');
  const file = join(folder, 'tributary.yaml');
  await writeFile(file, 'kind: Source\nname: shop\npostgres: "postgres://nobody@127.0.0.1:1/none"\n');
  const system = new System(file, join(folder, 'data'));
  system.launch();
  try {
    // Its parts are under way then, and it is not ready: that waits for the source.
    await until('the console to listen', async () => system.stderr.includes('console listens'));
    expect(await system.stop()).toBe(0);
  } finally {
    await system.kill();
  }
});
