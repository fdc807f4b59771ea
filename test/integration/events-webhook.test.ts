import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';
import { type Received, WebhookReceiver } from '../fixtures/webhook-receiver.ts';

interface CloudEvent {
  readonly id: string;
  readonly type: string;
  readonly sequence: string;
  readonly partitionkey?: string;
  readonly data: { readonly op: string; readonly key: { readonly id: number }; readonly after: { readonly v: string } | null };
}

const SECRET = `whsec_${randomBytes(32).toString('base64')}`;
const HEADER = 'bearer-of-the-receiver-1b2c';

describe('events to a webhook', () => {
  let postgres: PostgresServer;
  let receiver: WebhookReceiver;
  let system: System;
  let source: Client;

  const eventOf = ({ body }: Received) => body as CloudEvent;
  const keyOf = (received: Received) => eventOf(received).data.key?.id;
  const status = async () =>
    (await (await fetch(`${system.console}/v1/status`)).json()) as { projections: { quarantinedTables: string[] }[] };
  const caughtUp = async () => {
    const outcome = await system.run(['status', '--wait', 'caught-up']);
    expect(outcome.code, outcome.stderr).toBe(0);
  };

  beforeAll(async () => {
    const folder = await temporaryFolder('webhook');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop'] });
    source = new Client({ connectionString: postgres.url('shop') });
    await source.connect();
    await source.query(
      `CREATE TABLE item (id int PRIMARY KEY, v text); INSERT INTO item SELECT i, 'v' FROM generate_series(1, 20) i`,
    );
    receiver = await WebhookReceiver.start(SECRET);
    await mkdir(join(folder, 'data'));
    const config = join(folder, 'tributary.yaml');
    process.env['HOOK_SECRET'] = SECRET;
    process.env['HOOK_HEADER'] = `Bearer ${HEADER}`;
    await writeFile(
      config,
      [
        `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"`,
        `kind: Sink\nname: hooks\ntype: events\nonError: quarantine\nwebhook:\n  url: "${receiver.url}"\n  secret: "\${env:HOOK_SECRET}"\n  headers: { Authorization: "\${env:HOOK_HEADER}" }\n  concurrency: 4\n  retries: { attempts: 4, first: 50ms, most: 200ms }`,
      ].join('\n---\n'),
    );
    system = new System(config, join(folder, 'data'));
    await system.start();
  });
  afterAll(async () => {
    await system?.stop();
    await receiver?.stop();
    await source?.end();
    await postgres?.stop();
  });

  it('posts signed CloudEvents, those of one row in order, and waits as long as it is asked to', async () => {
    await caughtUp();
    expect(receiver.taken.filter((one) => eventOf(one).data.op === 'r').length).toBe(20);
    expect(receiver.taken[0]?.contentType).toBe('application/cloudevents+json; charset=utf-8');
    expect(receiver.taken[0]?.headers.authorization).toBe(`Bearer ${HEADER}`);
    let asked = 0;
    let goneBy = 0;
    receiver.judge = () => {
      if (asked === 0) asked = performance.now();
      else if (goneBy === 0) goneBy = performance.now() - asked;
      return goneBy === 0 ? { status: 503, retryAfter: '1' } : 200;
    };
    const before = receiver.taken.length;
    await source.query(`UPDATE item SET v = 'once' WHERE id = 1`);
    await caughtUp();
    expect(goneBy).toBeGreaterThanOrEqual(950);
    expect(receiver.taken.slice(before).map((one) => one.id)).toEqual([eventOf(receiver.taken.at(-1) as Received).id]);

    // Each event once at most: one that is refused at every attempt would be put aside, and rightly so.
    const refused = new Set<string>();
    receiver.judge = async ({ id }) => {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 10));
      if (refused.has(id) || Math.random() >= 0.2) return 200;
      refused.add(id);
      return 500;
    };
    for (let i = 0; i < 10; i++) await source.query(`UPDATE item SET v = 'round ${i}'`);
    await caughtUp();
    for (let id = 1; id <= 20; id++) {
      const sequences = receiver.taken.filter((one) => keyOf(one) === id).map((one) => eventOf(one).sequence);
      expect(sequences.length).toBeGreaterThanOrEqual(11);
      expect(sequences).toEqual(sequences.toSorted());
    }
    expect(receiver.forged).toBe(0);
  });

  it('puts a row aside that is refused to the end, and lets others go on', async () => {
    receiver.judge = (one) => (keyOf(one) === 7 ? 422 : 200);
    await source.query(
      `UPDATE item SET v = 'refused' WHERE id = 7; UPDATE item SET v = 'taken' WHERE id = 8; UPDATE item SET v = 'behind' WHERE id = 7`,
    );
    await caughtUp();
    expect(eventOf(receiver.taken.at(-1) as Received).data.after?.v).toBe('taken');
    const [listed] = lastJson<{ table: string; rows: number; reason: { message: string } }[]>(
      await system.run(['quarantine', 'list']),
    );
    expect(listed).toMatchObject({ table: 'public.item', rows: 2, reason: { kind: 'receiver_refused' } });
    expect(listed?.reason.message).toContain('answered 422 to an event of public.item');
    const { projections } = await status();
    expect(projections[0]?.quarantinedTables).toEqual(['public.item']);
    const shown = await system.run(['quarantine', 'show', 'hooks/shop', '--rows']);
    expect(shown.stdout).toContain('behind');
  });

  it('misses nothing through kill -9 and repeats, under the same ids, only what was under way', async () => {
    const before = receiver.taken.length;
    receiver.judge = async (one) => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      return keyOf(one) === 7 ? 422 : 200;
    };
    await source.query(`INSERT INTO item SELECT i, 'many' FROM generate_series(1001, 2000) i`);
    await until('half of it', async () => receiver.taken.length > before + 400);
    await system.kill();
    await system.start();
    await source.query(`UPDATE item SET v = 'after the crash' WHERE id = 7`);
    await caughtUp();
    const taken = receiver.taken.slice(before);
    const ids = new Set(taken.map((one) => one.id));
    expect(new Set(taken.map(keyOf)).size).toBe(1_000);
    expect(ids.size).toBe(1_000);
    // Four at a time, and those that were answered while the last note was written.
    expect(taken.length - ids.size).toBeLessThanOrEqual(40);
  });

  it('takes a row back in order, with what came for it since, also after a crash', async () => {
    receiver.judge = () => 200;
    const retried = await system.run(['quarantine', 'retry', 'hooks/shop', 'item']);
    expect(retried.code, retried.stderr).toBe(0);
    await source.query(`UPDATE item SET v = 'on' WHERE id = 7`);
    await caughtUp();
    expect(receiver.taken.slice(-4).map((one) => eventOf(one).data.after?.v)).toEqual([
      'refused',
      'behind',
      'after the crash',
      'on',
    ]);
  });

  it('says nowhere what is secret, and of its receiver no more than the host', async () => {
    const texts = [system.stderr, JSON.stringify(await status()), await (await fetch(`${system.console}/metrics`)).text()];
    for (const secret of [SECRET, SECRET.slice(6), HEADER, 'token-in-path'])
      for (const text of texts) expect(text.includes(secret)).toBe(false);
  });
});
