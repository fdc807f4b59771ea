import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { connectNats } from '@tributary/changelog';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Session } from '@tributary/postgres';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Service } from '../fixtures/service.ts';
import { lastJson, System } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';

interface Status {
  readonly sources: readonly { readonly name: string; readonly state: string; readonly restarts: number }[];
  readonly projections: readonly { readonly name: string; readonly state: string }[];
}
interface Changes {
  readonly applied: boolean;
  readonly changes: readonly { readonly change: string; readonly kind: string; readonly name: string | null }[];
}

const PASSWORD = 'hunter2-of-the-shop';

describe('apply and diff', () => {
  let postgres: PostgresServer;
  let system: System;
  let folder = '';
  let file = '';
  const source = (name: string, more = '') =>
    `kind: Source\nname: ${name}\npostgres: "${postgres.url(name).replace('postgres@', `postgres:${PASSWORD}@`)}"\n${more}---\n`;
  const ods = () => `kind: Sink\nname: ods\ntype: ods\npostgres: "${postgres.url('ods')}"\n`;
  const run = async <T>(command: string) => lastJson<T>(await system.run([command, '-f', file]));
  const status = async () => lastJson<Status>(await system.run(['status']));

  beforeAll(async () => {
    folder = await temporaryFolder('apply');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'stock', 'ods'] });
    for (const database of ['shop', 'stock']) {
      const session = await Session.open(
        { host: '127.0.0.1', port: postgres.port, user: 'postgres', database },
        { name: 'test' },
      );
      await session.run(`CREATE TABLE public.t (id int PRIMARY KEY); INSERT INTO public.t SELECT generate_series(1, 10)`);
      await session.close();
    }
    file = join(folder, 'tributary.yaml');
    await writeFile(file, source('shop') + ods());
    system = new System(file, join(folder, 'data'));
    await system.start();
  });

  afterAll(async () => {
    await system.stop();
    await postgres.stop();
  });

  it('see no difference from what runs, and change nothing', async () => {
    expect(await run<Changes>('diff')).toEqual({ applied: true, changes: [] });
    expect(await run<Changes>('apply')).toEqual({ applied: false, changes: [] });
  });

  it('show, then make, a difference, without a restart of what stays the same', async () => {
    await writeFile(file, source('shop') + source('stock') + ods());
    const changes = [{ change: 'added', kind: 'Source', name: 'stock' }];
    expect(await run<Changes>('diff')).toEqual({ applied: true, changes });
    expect(await run<Changes>('apply')).toEqual({ applied: true, changes });
    await until('ods/stock', async () =>
      (await status()).projections.some((one) => one.name === 'ods/stock' && one.state === 'running'),
    );
    const { sources } = await status();
    expect(sources.map(({ name, state, restarts }) => ({ name, state, restarts }))).toEqual([
      { name: 'shop', state: 'running', restarts: 0 },
      { name: 'stock', state: 'running', restarts: 0 },
    ]);
    const verified = lastJson<{ equal: boolean; tables: unknown[] }>(await system.run(['verify']));
    expect([verified.equal, verified.tables.length]).toEqual([true, 2]);
  });

  it('end what is no longer wanted, and name the slot that stays behind', async () => {
    await writeFile(file, source('stock', 'heartbeat: 2s\n') + ods());
    const outcome = await system.run(['apply', '-f', file]);
    expect(lastJson<Changes>(outcome).changes).toEqual([
      { change: 'changed', kind: 'Source', name: 'stock' },
      { change: 'removed', kind: 'Source', name: 'shop' },
    ]);
    expect(outcome.stderr).toContain("pg_drop_replication_slot('tributary_shop')");
    await until('shop to end', async () => {
      const { sources, projections } = await status();
      return sources.length === 1 && projections.length === 1 && sources[0]?.state === 'running';
    });
    expect(lastJson<{ equal: boolean }>(await system.run(['verify'])).equal).toBe(true);
  });

  it('refuse what is wrong before it reaches a worker', async () => {
    await writeFile(file, `${source('stock')}kind: Sink\nname: ods\ntype: odds\n`);
    const outcome = await system.run(['apply', '-f', file]);
    expect(outcome.code).toBe(1);
    expect(outcome.stderr).toMatch(/tributary\.yaml:\d+:\d+: a Sink needs type/);
    expect((await status()).sources.map((one) => one.name)).toEqual(['stock']);
  });

  it('keep written secrets from the bucket, and their key from others', async () => {
    const { nats } = JSON.parse(await readFile(join(system.data, 'addresses.json'), 'utf8')) as { nats: string };
    const broker = await connectNats({ url: nats });
    let seen = 0;
    for await (const event of broker.kv.watch(new AbortController().signal)) {
      if (event.kind === 'current') break;
      seen++;
      expect(JSON.stringify(event)).not.toContain(PASSWORD);
    }
    await broker.close();
    expect(seen).toBeGreaterThan(3);
    expect((await stat(join(system.data, 'cluster.key'))).mode & 0o077).toBe(0);
  });

  it('let a worker with other files join: what was applied counts, where it can be read', async () => {
    const { nats } = JSON.parse(await readFile(join(system.data, 'addresses.json'), 'utf8')) as { nats: string };
    const other = join(folder, 'other.yaml');
    await writeFile(other, source('shop') + ods());
    const worker = await Service.start(['sink', '-f', other, '--nats', nats, '--data', system.data]);
    const stranger = await Service.start(['sink', '-f', other, '--nats', nats, '--data', join(folder, 'elsewhere')]);
    expect(worker.log).toContain('differ from the state applied');
    expect(stranger.log).toContain('sealed with another key');
    await worker.stop();
    await stranger.stop();
  });
});
