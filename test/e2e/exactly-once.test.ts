import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { alive, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadPagila, pagilaIsThere } from '../fixtures/pagila.ts';
import { loadRentals } from '../fixtures/rentals.ts';
import { lastJson, System } from '../fixtures/system.ts';
import { checkLedger, createLedger } from '../fixtures/ledger.ts';
import { until } from '../fixtures/wait.ts';
import { runWorkload, seeded } from '../fixtures/workload.ts';

type Postgres = Awaited<ReturnType<typeof startPostgres>>;

interface Verified {
  equal: boolean;
  tables: { table: string; projection: string; rows: number; equal: boolean; differences: unknown }[];
}

/** Every run prints its seed; TRIBUTARY_SEED repeats one. */
const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const load = pagilaIsThere ? loadPagila : loadRentals;
const SAMPLE = pagilaIsThere ? 'Pagila' : 'Rentals of our own';
if (!pagilaIsThere) console.warn('THE PAGILA SAMPLE IS NOT BESIDE THE PROJECT: the same runs use a smaller schema of our own');
/** Between two transactions of the work under which everything is killed: its changes are read several times afterwards. */
const REST_MS = 10;
const TRUNCATABLE = ['film_actor', 'payment', 'film_category'];

interface Digest {
  readonly of: string;
  readonly digest: string | null;
}

interface World {
  readonly postgres: Postgres;
  readonly system: System;
  readonly client: Client;
  close(): Promise<void>;
}

async function openWorld(): Promise<World> {
  const folder = await temporaryFolder('pagila');
  const postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['pagila', 'ods'] });
  await mkdir(join(folder, 'data'), { recursive: true });
  const config = join(folder, 'tributary.yaml');
  await writeFile(
    config,
    `kind: Cluster
lake: { url: "file:${join(folder, 'lake')}" }
---
kind: Source
name: pagila
postgres: "${postgres.url('pagila')}"
tables: ["public.*"]
---
kind: Sink
name: ods
type: ods
from: ["pagila.*"]
postgres: "${postgres.url('ods')}"
---
kind: Sink
name: lake
type: lake
from: ["*"]
flush: { every: 5s, bytes: 16MiB }
`,
  );
  const system = new System(config, join(folder, 'data'));
  const client = new Client({ connectionString: postgres.url('pagila') });
  client.on('error', () => {});
  await client.connect();
  return {
    postgres,
    system,
    client,
    async close() {
      await system.stop();
      await client.end().catch(() => {});
      await postgres.stop();
    },
  };
}

/** Ends nats-server as a crash would, while everything else lives; it is started again by itself. */
async function killBroker(system: System): Promise<void> {
  const file = join(system.data, 'nats', 'nats.pid');
  const pid = Number(await readFile(file, 'utf8').catch(() => '0'));
  if (pid > 0 && alive(pid)) process.kill(pid, 'SIGKILL');
  await until(
    'nats-server to be started again',
    async () => Number(await readFile(file, 'utf8').catch(() => '0')) !== pid || pid === 0,
  );
  // Let the system work on it before the next blow.
  await new Promise((resolve) => setTimeout(resolve, 1_000));
}

/** A digest of every byte of every row, per table, of the ODS and of the lake: one question each. */
async function contents({ postgres, system }: World): Promise<Record<string, string | null>> {
  const ods = new Client({ connectionString: postgres.url('ods') });
  await ods.connect();
  try {
    const { rows } = await ods.query<{ name: string }>(
      `SELECT tablename AS name FROM pg_tables WHERE schemaname = 'pagila' ORDER BY 1`,
    );
    const each = (digest: (table: string) => string) => rows.map(({ name }) => digest(name)).join(' UNION ALL ');
    const all = await ods.query<Digest>(
      each(
        (table) =>
          `SELECT 'ods ${table}' AS of, md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C")) AS digest FROM pagila."${table}" t`,
      ),
    );
    const asked = await system.run([
      'query',
      each(
        (table) =>
          `SELECT 'lake ${table}' AS of, md5(string_agg(r, chr(10) ORDER BY r)) AS digest FROM (SELECT t::VARCHAR AS r FROM pagila."${table}" t)`,
      ),
    ]);
    expect(asked.code, asked.stderr).toBe(0);
    const digests = [...all.rows, ...lastJson<{ rows: Digest[] }>(asked).rows].map((one) => [one.of, one.digest] as const);
    expect(digests.length).toBeGreaterThan(14);
    expect(digests.length).toBe(2 * rows.length);
    return Object.fromEntries(digests);
  } finally {
    await ods.end();
  }
}

async function caughtUp(system: System): Promise<void> {
  const caught = await system.run(['status', '--wait', 'caught-up', '--timeout', '180s'], { timeoutMs: 200_000 });
  expect(caught.code, caught.stderr + system.stderr).toBe(0);
}

async function expectEqual(system: System): Promise<Verified> {
  await caughtUp(system);
  const verified = await system.run(['verify'], { timeoutMs: 200_000 });
  const result = lastJson<Verified>(verified);
  expect(result.tables.filter((t) => !t.equal)).toEqual([]);
  expect(result.equal).toBe(true);
  expect(verified.code).toBe(0);
  return result;
}

describe(`${SAMPLE}, captured while it is loaded and changed (seed ${seed})`, () => {
  let world: World;
  beforeAll(async () => {
    world = await openWorld();
  });
  afterAll(() => world?.close());

  it('is equal in ods, lake and query, and in the changelog exactly once', async () => {
    const { system, client, postgres } = world;
    await system.start();
    await load(client);
    await createLedger(client);
    const work = runWorkload({
      url: postgres.url('pagila'),
      schema: 'public',
      seed,
      operations: 5_000,
      truncatable: TRUNCATABLE,
    });
    expect(await work).toBeGreaterThanOrEqual(5_000);
    const result = await expectEqual(system);
    const names = new Set(result.tables.map((t) => `${t.projection} ${t.table}`));
    for (const table of ['rental', 'payment', 'film', 'country', 'staff', 'ledger']) {
      for (const projection of ['ods', 'lake', 'query']) expect(names).toContain(`${projection} public.${table}`);
    }
    await checkLedger({ changes: system.changes('pagila'), client, fromTheStart: false });
  }, 400_000);
});

describe(`${SAMPLE} under kill -9 and restarts of broker and database (seed ${seed})`, () => {
  let world: World;
  beforeAll(async () => {
    world = await openWorld();
  });
  afterAll(() => world?.close());

  it('is equal, exactly once, and replay gives the same again', async () => {
    const { system, client, postgres } = world;
    const random = seeded(seed);
    await system.start();
    await load(client);
    await createLedger(client);
    const enough = new AbortController();
    const work = runWorkload({
      url: postgres.url('pagila'),
      schema: 'public',
      seed: seed + 1,
      operations: Number.POSITIVE_INFINITY,
      restMs: REST_MS,
      signal: enough.signal,
      truncatable: TRUNCATABLE,
    });
    // Told where it is awaited.
    work.catch(() => {});
    for (let kills = 1; kills <= 10; kills++) {
      // Some fall while tables are read for the first time. The others must not: what comes in a snapshot cannot come twice.
      if (kills === 6) {
        await system.kill();
        await system.start();
        await caughtUp(system);
      }
      // The moment is what is random here: between a start in progress and a system at work.
      await new Promise((resolve) => setTimeout(resolve, 200 + random() * 2_500));
      if (kills % 4 === 0) await killBroker(system);
      if (kills % 5 === 0) await postgres.restart({ mode: kills % 10 === 0 ? 'fast' : 'immediate' });
      await system.kill();
      system.launch();
    }
    await system.kill();
    enough.abort();
    await system.start();
    expect(await work).toBeGreaterThan(1_000);
    await expectEqual(system);
    const again = new Client({ connectionString: postgres.url('pagila') });
    again.on('error', () => {});
    await again.connect();
    try {
      await checkLedger({ changes: system.changes('pagila'), client: again, fromTheStart: false });
    } finally {
      await again.end();
    }
    const before = await contents(world);
    for (const projection of ['ods', 'lake']) {
      const replayed = await system.run(['replay', projection], { timeoutMs: 200_000 });
      expect(replayed.code, replayed.stderr).toBe(0);
    }
    await expectEqual(system);
    expect(await contents(world)).toEqual(before);
  }, 600_000);
});
