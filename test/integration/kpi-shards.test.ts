import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { type Broker, connectNats } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { askOne, formatSourcePosition, systemClock } from '@tributary/core';
import { obtainNatsServer, startNats, startPostgres, temporaryFolder } from '@tributary/embedded';
import { openLog } from '@tributary/ops';
import { startSources } from '@tributary/source';
import { startTransforms } from '@tributary/transform';
import { connect, type NatsConnection } from 'nats';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { streamLength, streamMessages } from '../fixtures/event-streams.ts';
import { Service } from '../fixtures/service.ts';
import { commitsSince, type Days, ShoeShard } from '../fixtures/shoe-shards.ts';
import { until } from '../fixtures/wait.ts';
import { seeded } from '../fixtures/workload.ts';

/** Every run prints its seed; TRIBUTARY_SEED repeats one, TRIBUTARY_KPI_KILLS makes it longer. */
const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const KILLS = Number(process.env['TRIBUTARY_KPI_KILLS'] ?? 2);
const SHARDS = Array.from({ length: 8 }, (_, i) => `shard_${i + 1}`);
/** Between two transactions of one shard: a load, not a race for the processor. */
const REST_MS = 200;
/** Positions of the past that are asked for once more. */
const AGAIN = 6;

/** How many shoes did we sell, day by day: over the orders as a transform brings them together, and over eight changelogs at once. */
const KPIS = `
kind: Transform
name: orders_all
from: [${SHARDS.map((shard) => `${shard}.public.orders`).join(', ')}]
to: public.orders
steps: [{ set: { shard: "source" } }]
key: [shard, id]
---
kind: Kpi
name: shoes
engine: merged
from: { o: orders_all.public.orders }
time: { column: o.sold_at, zone: Europe/Berlin, grains: [day] }
where: "o.category = 'shoes'"
dimensions: { shard: o.shard }
measures: { sold: { sql: "sum(o.qty - o.returned)" }, orders: { sql: "count(*)" } }
publish: { nats: true, grain: day, by: [shard], every: 0ms }
---
kind: Kpi
name: shoes_everywhere
engine: vectors
every: 0ms
sql: |
  SELECT strftime(sold_at AT TIME ZONE 'Europe/Berlin', '%Y-%m-%d') AS day, sum(qty - returned) AS sold, count(*) AS orders
  FROM (${SHARDS.map((shard) => `FROM ${shard}.orders`).join(' UNION ALL ')}) WHERE category = 'shoes' GROUP BY 1
publish: { nats: true, every: 0ms }
`;

interface Value {
  readonly bucket?: string;
  readonly dimensions?: { readonly shard?: string };
  readonly values?: Readonly<Record<string, unknown>>;
  readonly [column: string]: unknown;
}

interface Said {
  readonly whole: boolean;
  readonly parts?: number;
  readonly rows: readonly Value[];
  readonly freshness: { readonly position: string };
}

/** Values at a position, by what they are values of: a day, or a shard and a day. */
interface State {
  readonly position: string;
  readonly days: Days;
}

describe(`one KPI over eight sharded databases (seed ${seed})`, () => {
  const random = seeded(seed);
  const closing: (() => Promise<unknown>)[] = [];
  const shards: ShoeShard[] = [];
  let broker: Broker;
  let nats: NatsConnection;
  let server: Client;
  let from: string;
  let startWorker: () => Promise<Service>;
  let worker: Service;

  beforeAll(async () => {
    const folder = await temporaryFolder('kpi-shards');
    closing.push(() => rm(folder, { recursive: true, force: true }));
    const settings = { max_connections: '150', max_replication_slots: '16', max_wal_senders: '16' };
    const postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: SHARDS, settings });
    closing.push(() => postgres.stop());
    const { path } = await obtainNatsServer({});
    const { url, stop } = await startNats({ dir: join(folder, 'nats'), binary: path });
    closing.push(stop);
    server = new Client({ connectionString: postgres.url('postgres') });
    await server.connect();
    closing.push(() => server.end());
    from = (await server.query<{ at: string }>('SELECT pg_current_wal_insert_lsn() AS at')).rows[0]?.at ?? '';
    for (const name of SHARDS) {
      const shard = await ShoeShard.open(name, postgres.url(name), random);
      shards.push(shard);
      closing.push(() => shard.close());
    }
    const sources = SHARDS.map(
      (name) => `kind: Source\nname: ${name}\npostgres: "${postgres.url(name)}"\ntables: [public.orders]\n---`,
    );
    const file = join(folder, 'tributary.yaml');
    await writeFile(file, `${sources.join('\n')}${KPIS}`);
    broker = await connectNats({ url });
    closing.push(() => broker.close());
    nats = await connect({ servers: url });
    closing.push(() => nats.close());
    const { loadConfig } = await configReading();
    const config = await loadConfig([file], { env: {} });
    const { changelogs, bus, kv } = broker;
    const common = { changelogs, bus, kv, clock: systemClock, log: openLog({ worker: 'test', level: 'error' }) };
    const runtime = { ...common, dataDir: folder, worker: 'test', labels: null, capacity: 1 };
    const capture = await startSources(config, runtime);
    closing.push(() => capture.stop());
    const merging = await startTransforms(config, runtime);
    closing.push(() => merging.stop());
    startWorker = () => Service.start(['kpi', '-f', file, '--nats', url, '--data', join(folder, 'data')]);
    worker = await startWorker();
    closing.push(() => worker.stop());
  });
  afterAll(async () => {
    for (const close of closing.toReversed()) await close();
  });

  /** Every state that a KPI published, in order. */
  const published = async (kpi: string): Promise<State[]> => {
    let days: Days = {};
    return (await streamMessages(nats, `KPI_${kpi}`)).map(({ body }) => {
      const { whole, parts, rows, freshness } = JSON.parse(body) as Said;
      if (parts !== undefined) throw new Error('a state in several messages');
      days = { ...(whole ? {} : days), ...daysOf(rows) };
      return { position: freshness.position, days };
    });
  };

  /** What PostgreSQL says where each shard stands so. @param byShard day by day of each, else of all together */
  const said = (places: ReadonlyMap<string, string>, byShard: boolean): Days => {
    const sums: Record<string, { sold: number; orders: number }> = {};
    for (const shard of shards)
      for (const [day, { sold, orders }] of Object.entries(shard.at(places.get(shard.name) ?? '0/0+0'))) {
        const sum = (sums[byShard ? `${shard.name} ${day}` : day] ??= { sold: 0, orders: 0 });
        sum.sold += sold;
        sum.orders += orders;
      }
    return sums;
  };

  /** Where the transform stood in every shard, by each place of its own changelog. */
  const inputsOf = async (): Promise<Map<string, Map<string, string>>> => {
    const inputs = new Map<string, Map<string, string>>();
    const { changelogs } = broker;
    const { lastSeq } = (await changelogs.status('orders_all')) ?? {};
    const ending = new AbortController();
    const start = { seq: 0, lsn: 0n, ordinal: 0 };
    for await (const { seq, header } of changelogs.read('orders_all', {
      after: start,
      signal: ending.signal,
      wants: () => false,
    })) {
      const state = header.state as { inputs: Record<string, [seq: number, lsn: string, ordinal: number]> };
      const places = Object.entries(state.inputs).map(([shard, [, lsn, ordinal]]) => [shard, `${lsn}+${ordinal}`] as const);
      inputs.set(`orders_all:${formatSourcePosition(header.position)}`, new Map(places));
      if (seq === lastSeq) break;
    }
    ending.abort();
    return inputs;
  };

  it('says at every position what PostgreSQL says there, while closed days change and its worker is killed', async () => {
    let writing = true;
    const load = Promise.all(
      shards.map(async (shard) => {
        while (writing) {
          await shard.transaction();
          await systemClock.sleep(REST_MS);
        }
      }),
    );
    /** At once where the load fails: nothing would be published any more. */
    const unlessLoadFails = async (work: Promise<void>) => {
      await Promise.race([work, load]);
    };
    /** Some random number of states later. */
    const some = async (kpi: string) => {
      const length = () => streamLength(nats, `KPI_${kpi}`).catch(() => 0);
      const enough = (await length()) + 1 + Math.floor(random() * 20);
      await until(`${kpi} to publish`, async () => (await length()) >= enough);
    };
    try {
      for (let kill = 0; kill < KILLS; kill++) {
        await unlessLoadFails(some(kill % 2 === 0 ? 'shoes' : 'shoes_everywhere'));
        await worker.kill();
        worker = await startWorker();
      }
      for (const kpi of ['shoes', 'shoes_everywhere']) await unlessLoadFails(some(kpi));
    } finally {
      writing = false;
      await load;
    }

    const places = await commitsSince(server, from);
    for (const shard of shards) await shard.read(places);
    const end = new Map(SHARDS.map((name) => [name, 'FFFF/FFFFFFFF+1']));
    for (const kpi of ['shoes', 'shoes_everywhere']) {
      const byShard = kpi === 'shoes';
      const placesAt = async (position: string) => {
        const found = byShard ? (await inputsOf()).get(position) : vectorOf(position);
        if (!found) throw new Error(`${kpi} was at ${position}, where nothing is`);
        return found;
      };
      const { rows: last } = await until(`${kpi} to hold everything`, async () => {
        const answer = await askOne<Said>(broker.bus, `tributary.kpi.${kpi}.values`, byShard ? { grain: 'day' } : {});
        const held = await placesAt(answer.freshness.position);
        return shards.every((shard) => shard.heldAt(held.get(shard.name))) ? answer : null;
      });
      expect(daysOf(last), `${kpi} in the end (seed ${seed})`).toEqual(said(end, byShard));
      const states = await until(`${kpi} to publish that`, async () => {
        const told = await published(kpi);
        return isDeepStrictEqual(told.at(-1)?.days, daysOf(last)) ? told : null;
      });
      const inputs = byShard ? await inputsOf() : null;
      const at = (position: string) => inputs?.get(position) ?? vectorOf(position);
      for (const [n, { position, days }] of states.entries())
        expect(days, `${kpi}, message ${n} at ${position} (seed ${seed})`).toEqual(said(at(position), byShard));
      expect(new Set(states.map(({ days }) => JSON.stringify(days))).size, `states of ${kpi}`).toBeGreaterThan(30);
      for (let i = 0; i < AGAIN; i++) {
        const { position } = states[Math.floor(random() * states.length)] as State;
        const ask = { asOf: position, ...(byShard ? { grain: 'day', by: [] } : {}) };
        const { rows } = await askOne<Said>(broker.bus, `tributary.kpi.${kpi}.values`, ask);
        expect(daysOf(rows), `${kpi} as of ${position} (seed ${seed})`).toEqual(said(at(position), false));
      }
    }
    const { revisions } = await askOne<{ revisions: readonly { revision: number }[] }>(
      broker.bus,
      'tributary.kpi.shoes.revisions',
      {},
    );
    expect(Math.max(...revisions.map(({ revision }) => revision)), 'closed days were told anew').toBeGreaterThan(10);
  }, 300_000);
});

function daysOf(rows: readonly Value[]): Days {
  const days = rows.map((row) => {
    const day = row['day'] ?? row.bucket?.slice(0, 10);
    const shard = row.dimensions?.shard;
    const { sold, orders } = row.values ?? row;
    return [
      shard === undefined ? String(day) : `${shard} ${String(day)}`,
      { sold: Number(sold), orders: Number(orders) },
    ] as const;
  });
  return Object.fromEntries(days);
}

function vectorOf(position: string): Map<string, string> {
  return new Map(position.split(',').map((one) => one.split(/:(.*)/, 2) as [string, string]));
}
