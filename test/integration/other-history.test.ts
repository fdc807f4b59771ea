import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectNats } from '@tributary/changelog';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System } from '../fixtures/system.ts';
import { timed } from '../fixtures/timed.ts';
import { until } from '../fixtures/wait.ts';

const TABLES = `
CREATE TABLE item (id integer PRIMARY KEY, v text, big text); ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
CREATE TABLE log (at integer, v text); ALTER TABLE log REPLICA IDENTITY FULL;
INSERT INTO item SELECT i, 'first', repeat(md5(i::text), 100) FROM generate_series(1, 200) i;
INSERT INTO log SELECT i, 'first' FROM generate_series(1, 100) i;`;

interface Status {
  projections: { name: string; state: string; fault: { kind: string; message: string } | null }[];
}
interface Verified {
  equal: boolean;
  tables: { table: string; projection: string; equal: boolean }[];
}

describe('a projection that meets another history than the one it knows', () => {
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let client: Client;
  let folder: string;
  let config: string;
  let system: System;

  beforeAll(async () => {
    folder = await temporaryFolder('history');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'ods'] });
    client = new Client({ connectionString: postgres.url('shop') });
    await client.connect();
    await client.query(TABLES);
    config = join(folder, 'tributary.yaml');
    await mkdir(join(folder, 'data'));
    system = new System(config, join(folder, 'data'));
  });
  afterAll(async () => {
    await system?.stop();
    await client?.end();
    await postgres?.stop();
  });

  async function start(confirmAfter: string): Promise<void> {
    await writeFile(
      config,
      `kind: Cluster
changelog: { confirmAfter: ${confirmAfter} }
lake: { url: "file:${join(folder, 'lake')}" }
---
kind: Source
name: shop
postgres: "${postgres.url('shop')}"
heartbeat: 200ms
---
kind: Sink
name: ods
type: ods
postgres: "${postgres.url('ods')}"
---
kind: Sink
name: lake
type: lake
flush: { every: 1s, bytes: 1MiB }
`,
    );
    await system.start();
  }

  async function expectEqual(): Promise<void> {
    const verified = lastJson<Verified>(await system.run(['verify', '--timeout', '60s']));
    expect(
      verified.tables.filter((table) => !table.equal),
      system.stderr.slice(-2_000),
    ).toEqual([]);
    expect(verified.tables.length).toBe(6);
  }

  const store = () => join(folder, 'data', 'nats');
  const backup = () => join(folder, 'backup');

  /** What the changelog's backup does not know: rows changed, moved, gone and new, with a key and without. */
  let changes = 0;
  async function change(word: string): Promise<void> {
    changes++;
    await client.query(`UPDATE item SET v = '${word}' WHERE id % 3 = 0; DELETE FROM item WHERE id % 10 = 1;
      UPDATE item SET id = id + ${changes * 1_000} WHERE id % 10 = 2 AND id < 1000; INSERT INTO item SELECT i, '${word}', repeat('x', 3000) FROM generate_series(1, 200) i ON CONFLICT DO NOTHING;
      INSERT INTO log SELECT i, '${word}' FROM generate_series(1, 50) i; DELETE FROM log WHERE at % 7 = 0`);
  }

  /** Changes that only the lost part of the changelog had; then the broker's store is what it was before. */
  async function restoreStore(): Promise<void> {
    await system.stop();
    await rm(backup(), { recursive: true, force: true });
    await cp(store(), backup(), { recursive: true });
    await system.start();
    await change('lost');
    await expectEqual();
    await settled();
    await system.stop();
    await rm(store(), { recursive: true });
    await cp(backup(), store(), { recursive: true });
  }

  let settled = async () => {};

  async function failed(kind: string): Promise<Status['projections']> {
    return until(`both projections to fail with ${kind}`, async () => {
      const { projections } = lastJson<Status>(await system.run(['status']));
      return projections.every((one) => one.state === 'failed' && one.fault?.kind === kind) && projections;
    });
  }

  /** The next leader must know what is due from the first message on: a crash behind it would leave the gap open for good. */
  async function expectDueAtOnce(): Promise<void> {
    const { nats } = JSON.parse(await readFile(join(folder, 'data', 'addresses.json'), 'utf8')) as { nats: string };
    const broker = await connectNats({ url: nats });
    const stop = new AbortController();
    try {
      const epoch = (await broker.changelogs.last('shop'))?.header.epoch;
      const sought = await broker.changelogs.seek('shop', (header) => header.epoch !== epoch);
      if (!sought?.found) throw new Error('no batch of an earlier epoch');
      const after = { seq: sought.found.seq, ...sought.found.header.position };
      for await (const { header } of broker.changelogs.read('shop', { after, signal: stop.signal })) {
        expect(header.epoch).toBe(epoch);
        const { tables } = header.state as { tables: Record<string, { snapshot: object | null }> };
        expect(Object.values(tables).map((table) => table.snapshot === null)).toEqual([false, false]);
        break;
      }
    } finally {
      stop.abort();
      await broker.close();
    }
  }

  /** Runs the very command that the fault names. */
  async function mend(projections: Status['projections'], command: RegExp): Promise<void> {
    for (const { name, fault } of projections) {
      const [, words] = /Run: tributary (.*)$/.exec(fault?.message ?? '') ?? [];
      expect(words).toMatch(command);
      expect(words).toContain(`replay ${name} --from`);
      const outcome = await system.run((words as string).split(' '));
      expect(outcome.code, outcome.stderr).toBe(0);
    }
  }

  it('waits, and goes on by itself, when the slot still has what the broker lost', async () => {
    await start('1h');
    await expectEqual();
    await restoreStore();
    await system.start();
    await change('after');
    await timed('everything is equal after the broker lost its newest messages', expectEqual);
    await system.stop();
  });

  it('goes on by itself, and is right, when the broker lost what the slot no longer has', async () => {
    await start('0s');
    await expectEqual();
    settled = async () => {
      const { rows } = await client.query<{ lsn: string }>('SELECT pg_current_wal_lsn()::text AS lsn');
      await until('the slot to let go', async () => {
        const slot = await client.query('SELECT 1 FROM pg_replication_slots WHERE confirmed_flush_lsn > $1::pg_lsn', [
          rows[0]?.lsn,
        ]);
        return slot.rowCount === 1;
      });
    };
    await restoreStore();
    // Gone while nobody captured: only a snapshot that sweeps can tell.
    await client.query('DELETE FROM item WHERE id % 4 = 0; DELETE FROM log WHERE at < 20');
    await system.start();
    await expectEqual();
    await expectDueAtOnce();
    await change('later');
    await expectEqual();
  });

  it('goes on by itself when the changelog was begun anew behind the same slot', async () => {
    await system.stop();
    await rm(store(), { recursive: true });
    await client.query('DELETE FROM item WHERE id % 5 = 0; DELETE FROM log WHERE at < 30');
    await system.start();
    await expectEqual();
    await change('anew');
    await expectEqual();
  });

  it('stops, keeps its data and names the replay, when changelog and slot are both new', async () => {
    await system.stop();
    await rm(store(), { recursive: true });
    await client.query(`SELECT pg_drop_replication_slot('tributary_shop')`);
    const ods = new Client({ connectionString: postgres.url('ods') });
    await ods.connect();
    const held = async () => (await ods.query('SELECT count(*)::int AS n FROM shop.item')).rows[0].n as number;
    const rows = await held();
    await client.query('DELETE FROM item WHERE id % 6 = 0');
    await system.start();
    const projections = await failed('other_epoch');
    expect(await held()).toBe(rows);
    await ods.end();
    await mend(projections, /--from start$/);
    await expectEqual();
  });
});
