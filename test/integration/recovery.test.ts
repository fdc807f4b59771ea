import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { System } from '../fixtures/system.ts';
import { timed } from '../fixtures/timed.ts';
import { until } from '../fixtures/wait.ts';

const CRASHES = 2;

/** What a query finds; a connection of its own, since servers crash here. */
async function ask<Row extends object>(url: string, sql: string): Promise<Row[]> {
  const client = new Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query<Row>(sql)).rows;
  } finally {
    await client.end().catch(() => {});
  }
}

describe('after the crash of a server a change goes on to the ODS by itself', () => {
  let source: Awaited<ReturnType<typeof startPostgres>>;
  let target: Awaited<ReturnType<typeof startPostgres>>;
  let system: System;
  let written = 0;

  beforeAll(async () => {
    const folder = await temporaryFolder('recovery');
    source = await startPostgres({ dir: join(folder, 'source'), databases: ['shop'] });
    target = await startPostgres({ dir: join(folder, 'target'), databases: ['ods'] });
    await ask(source.url('shop'), 'CREATE TABLE item (id integer PRIMARY KEY)');
    await mkdir(join(folder, 'data'));
    const config = join(folder, 'tributary.yaml');
    await writeFile(
      config,
      `kind: Source
name: shop
postgres: "${source.url('shop')}"
---
kind: Sink
name: ods
type: ods
postgres: "${target.url('ods')}"
`,
    );
    system = new System(config, join(folder, 'data'));
    await system.start();
    await arrives();
  });
  afterAll(async () => {
    await system?.stop();
    await source?.stop();
    await target?.stop();
  });

  /** One more row, and all there are: nothing is lost or doubled meanwhile. */
  async function arrives(): Promise<void> {
    await ask(source.url('shop'), `INSERT INTO item VALUES (${++written})`);
    const all = Array.from({ length: written }, (_, i) => i + 1);
    const held = async () => {
      const rows = await ask<{ id: number }>(target.url('ods'), 'SELECT id FROM shop.item ORDER BY id').catch(() => []);
      return rows.map(({ id }) => id);
    };
    await until(`row ${written}`, async () => (await held()).length >= written);
    expect(await held()).toEqual(all);
  }

  async function killBroker(): Promise<void> {
    process.kill(Number(await readFile(join(system.data, 'nats', 'nats.pid'), 'utf8')), 'SIGKILL');
  }

  it.each([
    ['nats-server', () => killBroker()],
    ['PostgreSQL of the source, until it is back', () => source.restart({ mode: 'immediate' })],
    ['PostgreSQL of the ODS, until it is back', () => target.restart({ mode: 'immediate' })],
  ] as const)('%s', async (what, crash) => {
    for (let n = 0; n < CRASHES; n++) {
      await crash();
      await timed(`a row is in the ODS after the crash of ${what}`, arrives);
    }
  });
});
