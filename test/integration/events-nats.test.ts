import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import type { NatsConnection } from 'nats';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectTo, streamLength, streamMessages } from '../fixtures/event-streams.ts';
import { System } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';

interface Change {
  readonly op: string;
  readonly schema: string;
  readonly table: string;
  readonly lsn: string;
  readonly ordinal: number;
}
interface CloudEvent {
  readonly id: string;
  readonly type: string;
  readonly sequence: string;
  readonly data: Change & { readonly key: Record<string, unknown>; readonly after: Record<string, unknown> | null };
}

interface WholeTransaction {
  readonly data: { readonly changes: readonly (Change & { readonly unchanged: readonly string[] })[] };
}
interface Envelope {
  readonly op?: string;
  readonly status?: string;
}

describe('events on NATS', () => {
  let postgres: PostgresServer;
  let system: System;
  let source: Client;
  let nats: NatsConnection;

  beforeAll(async () => {
    const folder = await temporaryFolder('events');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop'] });
    source = new Client({ connectionString: postgres.url('shop') });
    await source.connect();
    await source.query(`CREATE TABLE account (id bigint PRIMARY KEY, balance numeric(12,2), tags text[], doc jsonb, seen timestamptz, ok boolean);
      INSERT INTO account SELECT i, i * 1.5, ARRAY['a b', NULL, '"'], '{"n": 12345678901234567890}', '2026-01-31 12:00:00.5+00', true FROM generate_series(1, 50) i;
      CREATE TABLE "odd.name" (k text PRIMARY KEY, v text);
      CREATE TABLE secret (id int PRIMARY KEY)`);
    await mkdir(join(folder, 'data'));
    const config = join(folder, 'tributary.yaml');
    await writeFile(
      config,
      [
        `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"`,
        'kind: Sink\nname: events\ntype: events\ntables: ["*.*", "!public.secret"]\nnats: {}',
        'kind: Sink\nname: dbz\ntype: events\nformat: debezium\nserverName: "db_{source}"\ntransactions: true\ntombstones: true\nsnapshot: false\nnats: {}',
        'kind: Sink\nname: whole\ntype: events\ntransactions: true\nsnapshot: false\nops: [create, update]\nnats: { subject: "{sink}.{source}" }',
      ].join('\n---\n'),
    );
    system = new System(config, join(folder, 'data'));
    await system.start();
    nats = await connectTo(system);
  });
  afterAll(async () => {
    await nats?.close();
    await system?.stop();
    await source?.end();
    await postgres?.stop();
  });

  const caughtUp = async () => {
    const outcome = await system.run(['status', '--wait', 'caught-up']);
    expect(outcome.code, outcome.stderr).toBe(0);
  };
  /** The connection outlives the broker: it is embedded, and killed with the system. */
  const events = async () => (await streamMessages(nats, 'EVENTS_events_shop')).map(({ body }) => JSON.parse(body) as CloudEvent);

  it('sends every change as a CloudEvent, typed values, to a subject of its table', async () => {
    await source.query(`INSERT INTO "odd.name" VALUES ('x', 'y'); INSERT INTO secret VALUES (1)`);
    await caughtUp();
    const messages = await streamMessages(nats, 'EVENTS_events_shop');
    expect(new Set(messages.map(({ subject }) => subject))).toEqual(
      new Set(['events.shop.public.account', 'events.shop.public.odd%2Ename']),
    );
    expect(messages[0]?.headers.get('content-type')).toBe('application/cloudevents+json; charset=utf-8');
    const [begun, first] = (await events()).filter(({ data }) => data.table === 'account');
    expect(begun?.type).toBe('io.tributary.snapshot.begun');
    expect(first).toMatchObject({
      specversion: '1.0',
      type: 'io.tributary.row.read',
      source: '/sources/shop',
      subject: 'public.account',
      data: {
        op: 'r',
        key: { id: '1' },
        before: null,
        after: {
          id: '1',
          balance: '1.50',
          tags: ['a b', null, '"'],
          seen: '2026-01-31T12:00:00.5Z',
          ok: true,
        },
      },
    });
    // Digits that a double does not hold are written all the same: what becomes of them is the receiver's parser's matter.
    expect(messages.some(({ body }) => body.includes('"doc":{"n": 12345678901234567890}'))).toBe(true);
    expect(messages.some(({ body }) => body.includes('"odd.name"') && body.includes('"v":"y"'))).toBe(true);
  });

  it('sends whole transactions, and what Debezium would send, with long values that did not change', async () => {
    await source.query(`CREATE TABLE doc (id int PRIMARY KEY, body text, n int)`);
    await source.query(`ALTER TABLE doc ALTER body SET STORAGE EXTERNAL`);
    await caughtUp();
    await source.query(`BEGIN; INSERT INTO doc VALUES (1, repeat('long ', 2000), 1); INSERT INTO secret VALUES (2); COMMIT`);
    await source.query('BEGIN; UPDATE doc SET n = 2; UPDATE doc SET id = 2; DELETE FROM doc; COMMIT');
    await caughtUp();
    const whole = (await streamMessages(nats, 'EVENTS_whole_shop')).map(({ body }) => JSON.parse(body) as WholeTransaction);
    const [created, changed] = whole.slice(-2);
    expect(created?.data.changes.map(({ table, op }) => `${table} ${op}`)).toEqual(['doc c', 'secret c']);
    // Filtered by what happened: the deletion is left out.
    expect(changed?.data.changes.map(({ op, unchanged }) => `${op} ${unchanged.join()}`)).toEqual(['u body', 'u body']);
    expect(changed?.data).toMatchObject({ part: 1, last: true });

    const messages = (await streamMessages(nats, 'EVENTS_dbz_shop')).slice(-8);
    expect(messages.map(({ subject }) => subject.split('.').at(-1))).toEqual([
      'transaction',
      ...Array(6).fill('doc'),
      'transaction',
    ]);
    const values = messages.map(({ body }) => (body === '' ? null : (JSON.parse(body) as Envelope)));
    expect(values.map((value) => value?.op ?? value?.status ?? 'tombstone')).toEqual([
      'BEGIN',
      'u',
      'd',
      'tombstone',
      'c',
      'd',
      'tombstone',
      'END',
    ]);
    expect(values[1]).toMatchObject({
      before: null,
      after: { id: 1, body: '__debezium_unavailable_value', n: 2 },
      source: { connector: 'postgresql', name: 'db_shop', db: 'shop', schema: 'public', table: 'doc', snapshot: 'false' },
      transaction: { total_order: 1, data_collection_order: 1 },
    });
    expect(messages[2]?.headers.get('__debezium.newkey')).toBe('{"id":2}');
    expect(messages[4]?.headers.get('message-key')).toBe('{"id":2}');
    expect(values[7]).toMatchObject({ event_count: 4, data_collections: [{ data_collection: 'public.doc', event_count: 4 }] });
  });

  it('sends each change exactly once and in order, whoever is killed when', async () => {
    let stop = false;
    const load = (async () => {
      for (let i = 0; !stop; i++) {
        const id = 1 + (i % 60);
        await source.query(`BEGIN; INSERT INTO account (id, balance) VALUES (${id}, ${i}) ON CONFLICT (id) DO UPDATE SET balance = ${i};
          INSERT INTO "odd.name" VALUES ('${i}', repeat('x', ${(i * 37) % 400})); COMMIT`);
        if (i % 7 === 0) await source.query(`DELETE FROM account WHERE id = ${id}`);
        if (i === 30)
          await source.query(`INSERT INTO "odd.name" SELECT 'bulk ' || n, repeat('y', 300) FROM generate_series(1, 4000) n`);
      }
    })();
    await until('the bulk to be on its way', async () => (await streamLength(nats, 'EVENTS_events_shop')) > 1_000);
    await system.kill();
    await system.start();
    stop = true;
    await load;
    await nats.close();
    nats = await connectTo(system);
    await caughtUp();
    const wanted: string[] = [];
    for await (const line of system.changes('shop')) {
      const { op, schema, table, lsn, ordinal } = JSON.parse(line) as Change;
      if (op !== 'r' && table !== 'secret') wanted.push(`${schema}.${table} ${op} ${lsn} ${ordinal}`);
    }
    const all = await events();
    const sent = all
      .filter(({ type, data }) => type.startsWith('io.tributary.row') && data.op !== 'r')
      .map(({ data }) => `${data.schema}.${data.table} ${data.op} ${data.lsn} ${data.ordinal}`);
    expect(sent.length).toBeGreaterThan(4_000);
    expect(sent).toEqual(wanted);
    expect(new Set(all.map(({ id }) => id)).size).toBe(all.length);
    const sequences = all.map(({ sequence }) => sequence);
    expect(sequences).toEqual(sequences.toSorted());
  });

  it('replays from a position: the same events, under the same ids, once more', async () => {
    const before = await events();
    const lsn = before.at(-20)?.data.lsn;
    const replay = await system.run(['replay', 'events', '--from', String(lsn)]);
    expect(replay.code, replay.stderr).toBe(0);
    await caughtUp();
    const again = (await events()).slice(before.length);
    expect(again.length).toBeGreaterThan(0);
    expect(again.map(({ id }) => id)).toEqual(before.slice(-again.length).map(({ id }) => id));
  });
});
