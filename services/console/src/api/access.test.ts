import { describeError } from '@tributary/core';
import type { Log } from '@tributary/cluster';
import { afterEach, describe, expect, it } from 'vitest';
import type { Role } from '@tributary/config';
import type { Token } from './access.ts';
import { openServer } from './server.ts';

const TOKENS: readonly Token[] = [
  { name: 'all', token: 'token-of-an-analyst', role: 'analyst' },
  { name: 'some', token: 'token-for-a-few-tables', role: 'analyst', tables: ['shop.*'] },
  { name: 'looks', token: 'token-of-a-viewer', role: 'viewer' },
];
const silent: Log = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: (_facts, message) => {
    throw new Error(describeError(message));
  },
};

describe('access', () => {
  let close: () => Promise<void> = async () => {};
  afterEach(() => close());

  it('lets a token do what its role may, and see rows of its tables only', async () => {
    const server = await openServer(TOKENS, silent);
    close = () => server.close();
    const route = (url: string, role: Role, perTable = false) =>
      server.get(url, { config: { role, perTable } }, (request) => ({ tables: request.tables }));
    route('/values', 'viewer');
    route('/changes', 'analyst');
    route('/query', 'analyst', true);
    route('/replay', 'operator');
    const address = await server.listen({ host: '127.0.0.1', port: 0 });
    const status = async (token: string) =>
      Promise.all(
        ['/values', '/changes', '/query', '/replay'].map(async (url) => {
          const answer = await fetch(address + url, { headers: { authorization: `Bearer ${token}` } });
          return answer.ok ? ((await answer.json()) as { tables: unknown }).tables : answer.status;
        }),
      );
    expect(await status('token-of-an-analyst')).toEqual([null, null, null, 403]);
    expect(await status('token-for-a-few-tables')).toEqual([['shop.*'], 403, ['shop.*'], 403]);
    expect(await status('token-of-a-viewer')).toEqual([null, 403, 403, 403]);
    expect(await status('another token, unknown')).toEqual([401, 401, 401, 401]);
  });
});
