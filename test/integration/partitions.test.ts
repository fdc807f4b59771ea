import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectNats } from '@tributary/changelog';
import { ORIGIN, tableName } from '@tributary/core';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadRentals } from '../fixtures/rentals.ts';
import { lastJson, System } from '../fixtures/system.ts';
import { timed } from '../fixtures/timed.ts';
import { until } from '../fixtures/wait.ts';
import { runWorkload, seeded } from '../fixtures/workload.ts';

interface Verified {
  equal: boolean;
  tables: { table: string; rows: number; equal: boolean; differences: unknown }[];
}

interface Status {
  projections: { name: string; state: string; position: { seq: number } | null; parts?: { name: string; state: string }[] }[];
}

/** Every run prints its seed; TRIBUTARY_SEED repeats one. */
const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
/** Their rows have no key: one that is applied twice, or not at all, is a row too many or too few. */
const KEYLESS = ['audit_a', 'audit_b', 'audit_c', 'audit_d'];

describe(`an ODS split by table while it is loaded and killed (seed ${seed})`, () => {
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let config: string;
  let system: System;
  let shop: Client;
  let ods: Client;
  /** A time in the middle of the history. */
  let middle = '';

  beforeAll(async () => {
    const folder = await temporaryFolder('partitions');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'] });
    const open = async (database: string) => {
      const client = new Client({ connectionString: postgres.url(database) });
      client.on('error', () => {});
      await client.connect();
      return client;
    };
    shop = await open('shop');
    ods = await open('ods');
    await loadRentals(shop);
    // As version 0.1 made it: one row a source, and no parts.
    await ods.query(`CREATE SCHEMA tributary; CREATE TABLE tributary.position (
      sink text, source text, seq bigint NOT NULL, lsn pg_lsn NOT NULL, ordinal bigint NOT NULL, watermark timestamptz,
      applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (sink, source))`);
    await shop.query('CREATE TABLE ledger (n bigserial PRIMARY KEY, xid bigint NOT NULL, changes jsonb NOT NULL)');
    for (const table of KEYLESS) {
      await shop.query(`CREATE TABLE ${table} (at int, note text); ALTER TABLE ${table} REPLICA IDENTITY FULL;
        INSERT INTO ${table} SELECT i, 'note ' || i FROM generate_series(1, 50) i`);
    }
    config = join(folder, 'tributary.yaml');
    system = new System(config, join(folder, 'data'));
  });
  afterAll(async () => {
    await system?.stop();
    await shop?.end();
    await ods?.end();
    await postgres?.stop();
  });

  async function split(partitions: number): Promise<void> {
    await writeFile(
      config,
      `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"\n---\nkind: Sink\nname: ods\ntype: ods\npostgres: "${postgres.url('ods')}"\npartitions: ${partitions}\n`,
    );
  }

  async function expectEqual(): Promise<void> {
    const outcome = await system.run(['verify', '--timeout', '120s'], { timeoutMs: 150_000 });
    const verified = lastJson<Verified>(outcome);
    expect(
      verified.tables.filter((table) => !table.equal),
      system.stderr.slice(-3_000),
    ).toEqual([]);
    expect(verified.equal).toBe(true);
    // Every table is some part's, and no table two parts'.
    expect(verified.tables.map((table) => table.table).toSorted()).toEqual(
      ['country', 'film', 'film_actor', 'film_category', 'ledger', 'payment', 'rental', 'staff', ...KEYLESS]
        .map((table) => `public.${table}`)
        .toSorted(),
    );
  }

  async function status(): Promise<Status> {
    return lastJson<Status>(await system.run(['status', '--wait', 'caught-up', '--timeout', '120s'], { timeoutMs: 150_000 }));
  }

  const positions = async () =>
    (
      await ods.query<{ part: number; parts: number; seq: string }>(
        'SELECT part, parts, seq FROM tributary.position ORDER BY part',
      )
    ).rows;

  it('is exact when the number of parts changes, whoever dies when', async () => {
    const random = seeded(seed);
    const stop = new AbortController();
    await split(1);
    await system.start();
    const work = runWorkload({
      url: postgres.url('shop'),
      schema: 'public',
      seed,
      operations: Number.POSITIVE_INFINITY,
      restMs: 10,
      truncatable: ['film_actor'],
      signal: stop.signal,
    });
    for (const parts of [4, 2, 3, 1, 4]) {
      await system.kill();
      await split(parts);
      system.launch();
      // The moment is what is random here: while tables are shared out, while they are applied, or before.
      await new Promise((resolve) => setTimeout(resolve, 1_000 + random() * 3_000));
      await system.kill();
      await system.start();
    }
    stop.abort();
    expect(await work).toBeGreaterThan(500);
    await timed('all parts are level after they were shared out and killed', expectEqual);
    const { projections } = await status();
    expect(projections).toMatchObject([
      { name: 'ods/shop', state: 'running', parts: [1, 2, 3, 4].map((k) => ({ name: `ods/shop#${k}`, state: 'running' })) },
    ]);
    const shares = await ods.query<{ tables: number }>(
      'SELECT count(*)::int AS tables FROM tributary.parts GROUP BY layout, part ORDER BY part',
    );
    expect(shares.rows).toHaveLength(4);
  }, 300_000);

  /** A row more in each of some tables, in one transaction; of all, so that a part that misses it or applies it twice shows. */
  async function touch(n: number, chosen?: string): Promise<void> {
    const values: Record<string, string> = {
      ...Object.fromEntries(KEYLESS.map((table) => [table, `VALUES (${n}, 'all')`])),
      country: `VALUES (${n}, 'all')`,
      staff: `VALUES (${n}, 'all')`,
      film_actor: `VALUES (${n}, 1)`,
      film_category: `VALUES (${n}, 1)`,
      ledger: `(xid, changes) VALUES (${n}, '{}')`,
      film: `SELECT ${n}, 'all', '', 2000, 'G', 1, '{}', ''`,
      rental: `VALUES (${n}, 1, 1, 'empty')`,
      payment: `VALUES (${n}, 1, 1, '2022-01-01')`,
    };
    const tables = chosen === undefined ? Object.keys(values) : [chosen];
    await shop.query(`BEGIN; ${tables.map((table) => `INSERT INTO ${table} ${values[table]};`).join(' ')} COMMIT`);
  }

  it.each([
    [1, 2],
    [2, 3],
  ])('levels parts of which part %d is far behind before it shares their tables out among %d', async (behind, next) => {
    const lock = new Client({ connectionString: postgres.url('ods') });
    await lock.connect();
    const [{ name }] = (await ods.query<{ name: string }>('SELECT name FROM tributary.parts WHERE part = $1 LIMIT 1', [behind]))
      .rows as [{ name: string }];
    await lock.query(`BEGIN; LOCK TABLE ${name.replace('public.', 'shop.')} IN ACCESS EXCLUSIVE MODE`);
    middle = new Date().toISOString();
    // Others must not wait for a part that waits, also when it has just started.
    await touch(20_000_000 * next, name.replace('public.', ''));
    await until('the part to wait', async () => {
      const waiting = await ods.query(
        `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'tributary ods/shop#${behind}%'`,
      );
      return waiting.rowCount === 1;
    });
    for (let i = 1; i <= 30; i++) await touch(20_000_000 * next + i);
    await until('the other parts to be ahead', async () => {
      const rows = await positions();
      const at = Number(rows.find((row) => row.part === behind)?.seq);
      return rows.every((row) => row.part === behind || Number(row.seq) > at + 3);
    });
    await system.kill();
    await lock.query('ROLLBACK');
    await lock.end();
    await split(next);
    await system.start();
    expect((await positions()).map(({ parts }) => parts)).toEqual(Array.from({ length: next }, () => next));
    await expectEqual();
  });

  it('replays all parts to the same, from the start and from the middle', async () => {
    for (const from of ['start', middle]) {
      const replay = await system.run(['replay', 'ods', '--from', from]);
      expect(replay.code, replay.stderr).toBe(0);
      expect(lastJson(replay)).toMatchObject({ done: true, projections: ['ods/shop'], replayed: [{ projection: 'ods/shop' }] });
      await expectEqual();
    }
  });

  it('keeps tables together that the owner of the target ties by a foreign key', async () => {
    const shareOf = async (table: string) =>
      (await ods.query<{ part: number }>('SELECT part FROM tributary.parts WHERE name = $1', [`public.${table}`])).rows[0]?.part;
    const [one, other] = (
      await ods.query<{ name: string }>(
        `SELECT min(name) AS name FROM tributary.parts WHERE name IN ('public.film', 'public.staff', 'public.film_category') GROUP BY part`,
      )
    ).rows.map((row) => row.name.replace('public.', ''));
    // Film, staff and film_category may have come to one part: then tie film to what the other part has.
    const key: Record<string, string> = { film: 'film_id', staff: 'staff_id', film_category: 'film_id' };
    const child = one as string;
    const parent = other ?? 'ledger';
    await ods.query(
      `ALTER TABLE shop.${child} ADD COLUMN owner_note text, ADD COLUMN tie ${parent === 'ledger' ? 'bigint' : 'int'};
       ${parent === 'film_category' ? 'ALTER TABLE shop.film_category ADD COLUMN tied int UNIQUE;' : ''}
       ALTER TABLE shop.${child} ADD CONSTRAINT tied FOREIGN KEY (tie) REFERENCES shop.${parent} (${parent === 'film_category' ? 'tied' : parent === 'ledger' ? 'n' : key[parent]})`,
    );
    await system.stop();
    await system.start();
    expect(await shareOf(child)).toBe(await shareOf(parent));
    await expectEqual();
  });

  it('shares nothing out while a table is in quarantine', async () => {
    const connect = async () =>
      connectNats({ url: (JSON.parse(await readFile(join(system.data, 'addresses.json'), 'utf8')) as { nats: string }).nats });
    const parts = (await positions()).length;
    const { part } = (await ods.query<{ part: number }>(`SELECT part FROM tributary.parts WHERE name = 'public.staff'`))
      .rows[0] as { part: number };
    const letter = { projection: `ods/shop#${part}`, table: 'public.staff' };
    const before = await connect();
    for await (const batch of before.changelogs.read('shop', { after: ORIGIN, signal: new AbortController().signal })) {
      if (!batch.sections.some((section) => tableName(section.schema) === letter.table)) continue;
      await before.changelogs.deadLetters.put(batch, { ...letter, reason: null, at: 0 });
      break;
    }
    await before.close();
    await system.stop();
    await split(2);
    system.launch();
    await until('the sink to refuse', async () => {
      const { stdout } = await system.run(['status']);
      return stdout.includes(`public.staff of ${letter.projection} is in quarantine`);
    });
    expect((await positions()).length).toBe(parts);
    const after = await connect();
    await after.changelogs.deadLetters.drop(letter.projection, letter.table);
    await after.close();
    await system.stop();
    await system.start();
    expect((await positions()).length).toBe(2);
    await expectEqual();
  });
});
