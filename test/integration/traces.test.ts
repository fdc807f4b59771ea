import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { System } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';

interface Span {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly attributes: { key: string; value: { intValue?: number; stringValue?: string } }[];
}

const ROW = 'row-51c0de';
const ENV = ['OTEL_EXPORTER_OTLP_ENDPOINT', 'OTEL_TRACES_SAMPLER_ARG', 'OTEL_BSP_SCHEDULE_DELAY'] as const;

let postgres: PostgresServer;
let system: System;
let collector: Server;
const spans: Span[] = [];
let received = '';

/** Takes what OTLP over HTTP sends as JSON. */
async function startCollector(): Promise<string> {
  collector = createServer((request, response) => {
    const pieces: Buffer[] = [];
    request.on('data', (piece: Buffer) => void pieces.push(piece));
    request.on('end', () => {
      const text = Buffer.concat(pieces).toString();
      received += text;
      const { resourceSpans } = JSON.parse(text) as { resourceSpans: { scopeSpans: { spans: Span[] }[] }[] };
      spans.push(...resourceSpans.flatMap((one) => one.scopeSpans.flatMap((scope) => scope.spans)));
      response.setHeader('Content-Type', 'application/json').end('{}');
    });
  });
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(collector.address() as AddressInfo).port}`;
}

beforeAll(async () => {
  const folder = await temporaryFolder('traces');
  postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'target'] });
  const config = join(folder, 'tributary.yaml');
  await writeFile(
    config,
    `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"\n---\nkind: Sink\nname: ods\ntype: ods\npostgres: "${postgres.url('target')}"\n`,
  );
  process.env['OTEL_EXPORTER_OTLP_ENDPOINT'] = await startCollector();
  process.env['OTEL_TRACES_SAMPLER_ARG'] = '1';
  process.env['OTEL_BSP_SCHEDULE_DELAY'] = '100';
  system = new System(config, join(folder, 'data'));
  await system.start();
});
afterAll(async () => {
  for (const name of ENV) delete process.env[name];
  await system?.stop();
  collector?.close();
  await postgres?.stop();
});

describe('traces', () => {
  it('follow a batch from its commit through the changelog into a projection, without row values', async () => {
    const client = new Client({ connectionString: postgres.url('shop') });
    await client.connect();
    await client.query(`CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, '${ROW}')`);
    // Read by a snapshot, which has no commit to begin a trace at; what is changed afterwards is streamed.
    await system.run(['status', '--wait', 'caught-up']);
    await client.query(`UPDATE t SET note = note || '.'`);
    await client.end();

    const [root, store, apply] = await until('a whole trace', async () => {
      for (const one of spans.filter((span) => span.name === 'capture shop')) {
        const family = spans.filter((span) => span.traceId === one.traceId && span.parentSpanId === one.spanId);
        const found = ['store', 'apply ods/shop'].map((name) => family.find((span) => span.name === name));
        if (found[0] && found[1]) return [one, found[0], found[1]] as const;
      }
      return null;
    });
    expect(root.parentSpanId ?? '').toBe('');
    const seqOf = (span: Span) => span.attributes.find(({ key }) => key === 'tributary.seq')?.value.intValue;
    expect(seqOf(root)).toBeGreaterThan(0);
    expect(seqOf(apply)).toBe(seqOf(root));
    expect(BigInt(store.startTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(root.startTimeUnixNano));
    expect(store.endTimeUnixNano).toBe(root.endTimeUnixNano);
    expect(received).toContain('tributary-source');
    expect(received).toContain('tributary-sink');
    expect(received).not.toContain(ROW);
  });
});
