import { type Changelogs, memoryBroker } from '@tributary/changelog';
import type { Log } from '@tributary/cluster';
import { Fault } from '@tributary/core';
import { afterEach, describe, expect, it } from 'vitest';
import type { Definition, Definitions } from './definitions.ts';
import type { ImportedLogs } from './imported-logs.ts';
import { processRoutes } from './processes.ts';
import { openServer } from './server.ts';

const PROCESS = 'kind: Process\nname: orders\nobjects: { order: { table: shop.orders, state: status } }\nroot: order\n';
const silent: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** One definition, as the desired state keeps it: services/cli, definitions.test. */
function oneDefinition(): Definitions {
  let kept: Extract<Definition, { origin: 'api' }> | null = null;
  return {
    find: async ({ kind, name }) => (kind === 'Process' && name === 'orders' ? kept : null),
    async put(_of, text) {
      const version = (kept?.version ?? 0) + 1;
      kept = { origin: 'api', version, text, tag: `tag-${version}` };
      return { changed: true, document: kept };
    },
    async remove() {
      kept = null;
      return { changed: true, document: null };
    },
  };
}

/** One log: lines of a CSV, each a case. */
function lineLogs(): ImportedLogs & { readonly kept: Map<string, string> } {
  const kept = new Map<string, string>();
  return {
    kept,
    names: async () => [...kept.keys()],
    async *take(name, { bytes, format, columns }) {
      const pieces: Uint8Array[] = [];
      for await (const piece of bytes) pieces.push(piece);
      const text = Buffer.concat(pieces).toString();
      if (text === '') throw new Fault('config_invalid', 'body:1: nothing in it');
      kept.set(name, text);
      yield { cases: text.split('\n').length, format, columns };
    },
    async *ask(name, question) {
      yield { question, cases: [{ case: kept.get(name) }] };
    },
    remove: async (name) => kept.delete(name),
  };
}

describe('processes over HTTP', () => {
  let close: () => Promise<void> = async () => {};
  afterEach(() => close());

  const open = async () => {
    const { bus, kv } = memoryBroker();
    const changelogs = { list: async () => ['shop'] } as unknown as Changelogs;
    const logs = lineLogs();
    const server = await openServer([], silent);
    close = () => server.close();
    processRoutes(server, { bus, kv, changelogs, documents: oneDefinition(), logs, log: silent });
    const address = await server.listen({ host: '127.0.0.1', port: 0 });
    const send = async (
      method: 'GET' | 'PUT' | 'POST' | 'DELETE',
      url: string,
      body?: string,
      more: Record<string, string> = {},
    ) => {
      const sent = body === undefined ? {} : { body };
      const type = body === undefined ? {} : { 'content-type': 'application/yaml' };
      const answer = await fetch(`${address}/v1/processes${url}`, { method, headers: { ...type, ...more }, ...sent });
      const text = await answer.text();
      const told = text === '' ? {} : (JSON.parse(text) as { detail?: string; [other: string]: unknown });
      return { status: answer.status, tag: answer.headers.get('etag'), told };
    };
    return { send, logs };
  };

  it('are defined, changed and deleted by whoever knows what stands there', async () => {
    const { send } = await open();
    const refused = [
      await send('PUT', '/other', PROCESS),
      await send('PUT', '/orders', PROCESS.replace('root: order', 'root: parcel')),
      await send('PUT', '/orders', `${PROCESS}---\nkind: Kpi\nname: gmv\n`),
      await send('PUT', '/orders', `${PROCESS}---\n${PROCESS.replace('name: orders', 'name: more')}`),
      await send('PUT', '/orders', PROCESS.replace('shop.', 'nowhere.')),
      await send('POST', ':validate', PROCESS.replace('status', 'status, stat: x')),
      await send('DELETE', '/orders'),
    ];
    expect(refused.map(({ status, told }) => [status, told.detail])).toEqual([
      [400, expect.stringContaining('the definition is of orders, not of other')],
      [400, expect.stringContaining('body:4:1: "root": there is no object parcel')],
      [400, expect.stringContaining('body:6:')],
      [400, expect.stringContaining('expected one document of kind: Process')],
      [400, expect.stringContaining('body:3:21: "objects.order.table": there is no source nowhere')],
      [400, expect.stringContaining('body:3:56: unknown key')],
      [404, expect.stringContaining('there is no Process named')],
    ]);
    expect(await send('POST', ':validate', PROCESS)).toMatchObject({
      status: 200,
      told: { valid: true, process: 'orders', objects: [{ object: 'order', table: 'shop.public.orders' }] },
    });
    const made = await send('PUT', '/orders', PROCESS, { 'if-none-match': '*' });
    expect(made).toMatchObject({ status: 201, tag: '"tag-1"', told: { process: 'orders', origin: 'api', version: 1 } });
    // No worker runs it yet.
    expect((await send('GET', '/orders')).status).toBe(503);
    expect((await send('PUT', '/orders', PROCESS)).status).toBe(428);
    expect(await send('PUT', '/orders', PROCESS, { 'if-match': '"tag-1"' })).toMatchObject({ status: 200, tag: '"tag-2"' });
    expect((await send('DELETE', '/orders', undefined, { 'if-match': '"tag-1"' })).status).toBe(412);
    expect((await send('DELETE', '/orders', undefined, { 'if-match': '"tag-2"' })).status).toBe(204);
    expect((await send('GET', '/orders')).status).toBe(404);
  });

  it('are asked of logs that somebody sent, whatever they are sent as', async () => {
    const { send, logs } = await open();
    const asked = ':import?name=sent&format=csv&case=order';
    const sent = await send('POST', asked, 'a\nb', { 'content-type': 'text/csv' });
    expect(sent).toMatchObject({ status: 201, told: { process: 'sent', cases: 2, format: 'csv', columns: { case: 'order' } } });
    // Larger than any other body may be.
    expect((await send('POST', asked, 'x'.repeat(2 ** 21), { 'content-type': 'text/csv' })).status).toBe(201);
    for (const type of ['application/json', 'application/x-www-form-urlencoded', 'application/yaml'])
      expect([type, (await send('POST', asked, type, { 'content-type': type })).status]).toEqual([type, 201]);
    expect(logs.kept.get('sent')).toBe('application/yaml');
    expect((await send('GET', '')).told).toEqual([{ name: 'sent', kind: 'imported' }]);
    expect((await send('GET', '/sent')).told).toEqual({ name: 'sent', kind: 'imported' });
    expect((await send('GET', '/sent/cases?limit=3')).told).toEqual({
      process: 'sent',
      question: { what: 'cases', limit: 3 },
      cases: [{ case: 'application/yaml' }],
    });
    const refused = [
      await send('POST', asked, '', { 'content-type': 'text/csv' }),
      await send('POST', ':import?name=sent', 'a'),
      await send('POST', ':import?name=../sent&format=csv', 'a'),
      await send('POST', '/sent:replay', PROCESS),
      await send('PUT', '/sent', PROCESS.replace('orders', 'sent')),
    ];
    expect(refused.map(({ status }) => status)).toEqual([400, 400, 400, 400, 400]);
    expect(refused[4]?.told.detail).toContain('an imported log is called sent');
    await send('PUT', '/orders', PROCESS);
    expect((await send('POST', ':import?name=orders&format=csv', 'a')).status).toBe(409);
    expect((await send('DELETE', '/sent')).status).toBe(204);
    expect((await send('GET', '/sent/cases')).status).toBe(404);
  });
});
