import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  freePort,
  type NatsServer,
  obtainNatsServer,
  type PostgresServer,
  startNats,
  startPostgres,
  temporaryFolder,
} from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Service } from '../fixtures/service.ts';
import { until } from '../fixtures/wait.ts';

const TOKEN = 'a-token-for-looking-at-metrics';

let folder: string;
let postgres: PostgresServer;
let nats: NatsServer;
let source: Service;
let sink: Service;
let page: Service;

interface Answer {
  readonly status: number;
  readonly body: string;
}

async function ask(service: Service, path: string, token: string | null = TOKEN): Promise<Answer> {
  const response = await fetch(new URL(path, service.health), token ? { headers: { Authorization: `Bearer ${token}` } } : {});
  return { status: response.status, body: await response.text() };
}

/** The value of one metric; null when it is not told. */
async function metric(service: Service, series: string): Promise<number | null> {
  const { body } = await ask(service, '/metrics');
  const line = body.split('\n').find((one) => one.startsWith(`${series} `));
  return line === undefined ? null : Number(line.slice(series.length));
}

const answers = (service: Service, path: string, status: number, detail = '') =>
  until(`${path} to answer ${status} ${detail}`, async () => {
    const answer = await ask(service, path);
    return answer.status === status && answer.body.includes(detail) && answer;
  });

beforeAll(async () => {
  folder = await temporaryFolder('health');
  postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop'] });
  nats = await startNats({ dir: join(folder, 'nats'), binary: (await obtainNatsServer({})).path });
  const client = new Client({ connectionString: postgres.url('shop') });
  await client.connect();
  await client.query('CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)');
  await client.end();
  const config = join(folder, 'tributary.yaml');
  await writeFile(
    config,
    `kind: Cluster
http: { tokens: [{ name: prometheus, token: ${TOKEN}, role: viewer }] }
---
kind: Source
name: shop
postgres: "${postgres.url('shop')}"
---
kind: Sink
name: ods
type: ods
postgres: "postgres://nobody@127.0.0.1:${await freePort()}/nowhere"
`,
  );
  const args = ['-f', config, '--nats', nats.url, '--data', join(folder, 'data')];
  [source, sink, page] = await Promise.all([
    Service.start(['source', ...args]),
    Service.start(['sink', ...args]),
    Service.start(['console', ...args]),
  ]);
});
afterAll(async () => {
  await Promise.all([source?.stop(), sink?.stop(), page?.stop()]);
  await nats?.stop();
  await postgres?.stop();
});

describe('health and metrics of one process', () => {
  it('a source that captures is alive and ready, and tells of itself alone', async () => {
    await answers(source, '/readyz', 200);
    expect((await ask(source, '/healthz')).status).toBe(200);
    await until(
      'the rows to be captured',
      async () => (await metric(source, 'tributary_source_changes_total{source="shop"}')) === 100,
    );
    expect(await metric(source, 'tributary_actor_running_state{actor="source/shop",kind="source"}')).toBe(1);
    expect(await metric(source, 'tributary_actor_led_state{actor="source/shop",kind="source"}')).toBe(1);
    expect(await metric(source, 'tributary_slot_confirm_age_seconds{source="shop"}')).toBeGreaterThanOrEqual(0);
    const { body } = await ask(source, '/metrics');
    expect(body).toMatch(/^tributary_process_resident_bytes\{worker="[^"]+"\} \d{8,}$/m);
    expect(body).not.toContain('ods/shop');
  });

  it('a sink whose target is away is alive, says why it is not ready, and counts its faults', async () => {
    const { body } = await answers(sink, '/readyz', 503, 'database_unreachable');
    expect(JSON.parse(body)).toMatchObject({ status: 503, detail: expect.stringMatching(/^ods\/shop is (waiting|starting) \(/) });
    expect((await ask(sink, '/healthz')).status).toBe(200);
    expect(await metric(sink, 'tributary_actor_faults_total{actor="ods/shop",fault="database_unreachable"}')).toBeGreaterThan(0);
  });

  it('a console is ready by itself, and tells of all that it hears', async () => {
    await answers(page, '/readyz', 200);
    await answers(page, '/metrics', 200, 'tributary_actor_running_state{actor="source/shop",kind="source"} 1');
    await answers(page, '/metrics', 200, 'tributary_actor_running_state{actor="ods/shop",kind="ods"} 0');
    await answers(page, '/metrics', 200, 'tributary_lease_epoch{assignment="ods/shop",worker=');
    await answers(page, '/metrics', 200, 'tributary_changelog_messages{changelog="shop"} ');
  });

  it('metrics need a token that health does not need', async () => {
    expect((await ask(source, '/metrics', null)).status).toBe(401);
    expect((await ask(source, '/healthz', null)).status).toBe(200);
    expect((await ask(source, '/readyz', null)).status).toBe(200);
    expect(await ask(source, '/nothing')).toMatchObject({ status: 404, body: expect.stringContaining('"status":404') });
  });

  it('while the broker is away a source is not ready, and still tells what its slot keeps', async () => {
    const { port } = nats;
    await nats.kill();
    await answers(source, '/readyz', 503, 'not connected to NATS');
    expect((await ask(source, '/healthz')).status).toBe(200);
    expect(await metric(source, 'tributary_slot_retained_bytes{source="shop"}')).toBeGreaterThanOrEqual(0);
    nats = await startNats({ dir: join(folder, 'nats'), binary: (await obtainNatsServer({})).path, port });
    await answers(source, '/readyz', 200);
  });
});
