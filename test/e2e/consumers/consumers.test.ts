import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { freePort, obtainNatsServer, startNats, startPostgres, temporaryFolder } from '@tributary/embedded';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ROOT, System, tributary } from '../../fixtures/system.ts';
import { until } from '../../fixtures/wait.ts';

interface State {
  readonly rows: Readonly<Record<string, { readonly id: unknown; readonly n: unknown; readonly note: string | null }>>;
  readonly taken: number;
  readonly repeats: number;
  readonly disorder: number;
}

/** A program that keeps a copy of a table, to be killed and started again. */
class Consumer {
  readonly file: string;
  readonly #args: readonly string[];
  #child: ChildProcess | null = null;

  constructor(program: string, args: readonly string[], file: string) {
    this.file = file;
    this.#args = [join(ROOT, 'test/e2e/consumers', program), ...args, file];
  }

  start(): void {
    this.#child = spawn(process.execPath, this.#args, { stdio: ['ignore', 'ignore', 'inherit'] });
  }

  async kill(): Promise<void> {
    if (!this.#child) return;
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await gone;
    this.#child = null;
  }

  get state(): State | null {
    return existsSync(this.file) ? (JSON.parse(readFileSync(this.file, 'utf8')) as State) : null;
  }
}

describe('programs written from the documentation alone', () => {
  const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let nats: Awaited<ReturnType<typeof startNats>>;
  let system: System;
  let source: Client;
  let consumers: readonly Consumer[];

  beforeAll(async () => {
    const folder = await temporaryFolder('consumers');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop'] });
    nats = await startNats({ dir: join(folder, 'nats'), binary: (await obtainNatsServer({})).path });
    source = new Client({ connectionString: postgres.url('shop') });
    await source.connect();
    await source.query(`CREATE TABLE account (id int PRIMARY KEY, n int, note text); ALTER TABLE account ALTER note SET STORAGE EXTERNAL;
      INSERT INTO account SELECT i, 0, repeat('long ', 600) FROM generate_series(1, 20) i; CREATE TABLE other (id int PRIMARY KEY)`);
    const port = await freePort();
    const config = join(folder, 'tributary.yaml');
    await writeFile(
      config,
      [
        `kind: Cluster\nhttp: { port: ${port} }`,
        `kind: Source\nname: shop\npostgres: "${postgres.url('shop')}"`,
        'kind: Sink\nname: events\ntype: events\ntables: [public.account]\nnats: {}',
      ].join('\n---\n'),
    );
    system = new System(config, join(folder, 'data'), ['--nats', nats.url, '--port', String(port)]);
    await system.start();
    consumers = [
      new Consumer('nats.mjs', [nats.url, 'EVENTS_events_shop'], join(folder, 'nats.json')),
      new Consumer('http.mjs', [`http://127.0.0.1:${port}/v1/changes/shop`], join(folder, 'http.json')),
    ];
    for (const consumer of consumers) consumer.start();
  });
  afterAll(async () => {
    for (const consumer of consumers ?? []) await consumer.kill();
    await system?.stop();
    await source?.end();
    await nats?.stop();
    await postgres?.stop();
  });

  it(`miss nothing and keep order per key, whoever is killed: worker, broker, themselves (seed ${seed})`, async () => {
    let stop = false;
    const load = (async () => {
      for (let i = 1; !stop; i++) {
        const id = 1 + ((i * 7 + seed) % 30);
        await source.query(
          `BEGIN; INSERT INTO account VALUES (${id}, ${i}, 'short') ON CONFLICT (id) DO UPDATE SET n = ${i}; INSERT INTO other VALUES (${i}); COMMIT`,
        );
        if (i % 11 === 0) await source.query(`DELETE FROM account WHERE id = ${1 + (i % 30)}`);
        if (i % 13 === 0) await source.query(`UPDATE account SET note = repeat('longer ', 600) WHERE id = ${id}`);
      }
    })();
    const followed = (more: number) => {
      const before = consumers.map(({ state }) => state?.taken ?? 0);
      return until(
        'both to take more',
        async () => consumers.every(({ state }, i) => (state?.taken ?? 0) > (before[i] ?? 0) + more),
        60_000,
      );
    };
    await followed(50);
    for (const consumer of consumers) await consumer.kill();
    await system.kill();
    for (const consumer of consumers) consumer.start();
    await system.start();
    await followed(50);
    await nats.restart();
    await followed(50);
    stop = true;
    await load;

    const { rows } = await source.query<{ id: number; n: number; note: string | null }>('SELECT * FROM account ORDER BY id');
    const expected = rows.map(({ id, n, note }) => `${id} ${n} ${note?.length}`);
    for (const consumer of consumers) {
      const copy = () =>
        Object.values(consumer.state?.rows ?? {})
          .map(({ id, n, note }) => `${Number(id)} ${Number(n)} ${note?.length}`)
          .toSorted((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10));
      await until(
        `${consumer.file} to hold what the source holds`,
        async () => copy().join('\n') === expected.join('\n'),
        60_000,
      ).catch(() => {});
      expect(copy()).toEqual(expected);
      expect(consumer.state?.disorder).toBe(0);
    }
    // Not one change more or less than the changelog holds of the table.
    const tail = await tributary(['tail', 'shop.account', '--from', 'start', '--until-caught-up', '--nats', nats.url, '--json']);
    const changes = tail.stdout.split('\n').filter((line) => line.startsWith('{')).length;
    expect(consumers.map(({ state }) => state?.taken)).toEqual([changes, changes]);
    expect(consumers.map(({ state }) => state?.repeats)).toEqual([0, 0]);
  });

  it('go on behind any line, and are told when there is no way on', async () => {
    const lines = async (query: string) => {
      const response = await fetch(`${system.console}/v1/changes/shop?${query}`);
      expect(response.status).toBe(200);
      return (await response.text()).trim().split('\n');
    };
    const all = await lines('from=start&limit=60');
    const idOf = (line = '') => encodeURIComponent((JSON.parse(line) as { id: string }).id);
    // In the snapshot, at its end, and in the midst of a transaction of two changes.
    for (const i of [4, 19, 40, 41]) expect(await lines(`after=${idOf(all[i])}&limit=5`)).toEqual(all.slice(i + 1, i + 6));
    // A place in the changelog of another database cluster.
    const elsewhere = idOf(all[59]).replace(/%3A\d+\.[^.]+$/, '%3A1.other');
    expect((await fetch(`${system.console}/v1/changes/shop?after=${elsewhere}`)).status).toBe(410);
    expect((await fetch(`${system.console}/v1/changes/shop?after=nonsense`)).status).toBe(400);
  });
});
