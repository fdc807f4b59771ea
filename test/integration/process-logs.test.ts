import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { startPostgres, temporaryFolder } from '@tributary/embedded';
import { answerImported, importLog, type ProcessMap } from '@tributary/monitor';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, ROOT, System } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';

const LOGS = join(ROOT, 'test/fixtures/process-logs');

/** What an independent tool computed of a public log. */
interface Golden {
  readonly cases: number;
  readonly events: number;
  readonly variants: number;
  readonly start: Readonly<Record<string, number>>;
  readonly end: Readonly<Record<string, number>>;
  readonly dfg: readonly (readonly [string, string, number])[];
}

/** Public logs, each in a database and a table of its own. */
const REPLAYED = [
  { log: 'helpdesk', file: 'helpdesk.xes.gz', table: 'tickets', object: 'ticket' },
  { log: 'receipt', file: 'receipt.csv.gz', table: 'receipts', object: 'receipt' },
] as const;

/** The events of a log become changes of rows, in the recorded order: the first of a case its insert, the others updates. */
const REPLAY = (table: string) => `CREATE TABLE ${table} (id text PRIMARY KEY, step text NOT NULL, at timestamptz NOT NULL);
CREATE TABLE feed (n serial PRIMARY KEY, id text, step text, at timestamptz);
CREATE PROCEDURE replay() LANGUAGE plpgsql AS $$
DECLARE one record;
BEGIN
  FOR one IN SELECT * FROM feed ORDER BY n LOOP
    INSERT INTO ${table} VALUES (one.id, one.step, one.at) ON CONFLICT (id) DO UPDATE SET step = excluded.step, at = excluded.at;
    IF one.n % 10 = 0 THEN COMMIT; END IF;
  END LOOP;
END $$`;

async function golden(log: string): Promise<Golden> {
  return JSON.parse(gunzipSync(await readFile(join(LOGS, `${log}.golden.json.gz`))).toString('utf8')) as Golden;
}

/** Case, activity and time of every event of a log, in order. */
async function eventsOf(file: string, dataDir: string): Promise<string[][]> {
  const name = await importLog(join(LOGS, file), { dataDir });
  const lines: string[] = [];
  for await (const part of answerImported(dataDir, name, { what: 'export', format: 'csv' }) ?? [])
    lines.push(...(part as { text: string }).text.split('\n').filter(Boolean));
  return lines.slice(1).map((line) => line.split(','));
}

describe('public logs, replayed as changes of rows', () => {
  let folder: string;
  let postgres: Awaited<ReturnType<typeof startPostgres>>;
  let system: System;
  const config = () => join(folder, 'tributary.yaml');
  const clients = new Map<string, Client>();

  beforeAll(async () => {
    folder = await temporaryFolder('process-logs');
    postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: REPLAYED.map(({ log }) => log) });
    for (const { log, file, table } of REPLAYED) {
      const client = new Client({ connectionString: postgres.url(log) });
      await client.connect();
      clients.set(log, client);
      await client.query(REPLAY(table));
      const events = await eventsOf(file, join(folder, 'imported'));
      await client.query(
        'INSERT INTO feed (id, step, at) SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[])',
        [0, 1, 2].map((column) => events.map((event) => event[column])),
      );
    }
    await mkdir(join(folder, 'data'));
    const sources = REPLAYED.map(
      ({ log, table }) => `kind: Source\nname: ${log}\npostgres: "${postgres.url(log)}"\ntables: ["public.${table}"]\n`,
    );
    await writeFile(config(), sources.join('---\n'));
    system = new System(config(), join(folder, 'data'));
    await system.start();
  });
  afterAll(async () => {
    await system?.stop();
    for (const client of clients.values()) await client.end();
    await postgres?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  const caughtUp = async () => {
    const told = await system.run(['status', '--wait', 'caught-up']);
    expect(told.code, told.stderr).toBe(0);
  };

  /** Graph and counts are those of the other tool; activities bear the name of their object. */
  async function expectGolden(processes: ReadonlyMap<string, string>): Promise<void> {
    for (const { log, object } of REPLAYED) {
      const expected = await golden(log);
      const map = lastJson<ProcessMap>(await system.run(['process', 'map', processes.get(object) ?? '']));
      const plain = (activity: string) => activity.slice(object.length + 1);
      const renamed = (counts: Readonly<Record<string, number>>) =>
        Object.fromEntries(Object.entries(counts).map(([activity, n]) => [plain(activity), n]));
      expect(map).toMatchObject({ cases: expected.cases, events: expected.events, variants: expected.variants });
      expect(Object.fromEntries(map.edges.map(({ from, to, count }) => [`${plain(from)}|${plain(to)}`, count]))).toEqual(
        Object.fromEntries(expected.dfg.map(([from, to, count]) => [`${from}|${to}`, count])),
      );
      expect(renamed(map.start)).toEqual(expected.start);
      expect(renamed(map.end)).toEqual(expected.end);
    }
  }

  it('are discovered with no YAML and give the graph that another tool computed, through kill -9 and a snapshot', async () => {
    const replayed = REPLAYED.map(({ log }) => (clients.get(log) as Client).query('CALL replay()'));
    const watcher = new Client({ connectionString: postgres.url('helpdesk') });
    await watcher.connect();
    await until('a part of the log to be replayed', async () => {
      const { rows } = await watcher.query<{ n: number }>('SELECT count(*)::int AS n FROM tickets');
      return (rows[0]?.n ?? 0) > 1_000;
    });
    await watcher.end();
    await system.kill();
    await system.start();
    await Promise.all(replayed);
    await caughtUp();
    const { proposals } = lastJson<{ proposals: { name: string; root: string; yaml: string }[] }>(
      await system.run(['process', 'discover']),
    );
    const processes = new Map(proposals.map(({ root, name }) => [root, name]));
    expect(new Set(processes.keys())).toEqual(new Set(REPLAYED.map(({ object }) => object)));
    await writeFile(config(), [await readFile(config(), 'utf8'), ...proposals.map(({ yaml }) => yaml)].join('---\n'));
    const applied = await system.run(['apply', '-f', config()]);
    expect(applied.code, applied.stderr).toBe(0);
    for (const name of processes.values())
      await until(`process ${name} to answer`, async () => (await system.run(['process', 'map', name])).code === 0);
    await caughtUp();
    await expectGolden(processes);
    for (const { log } of REPLAYED) expect((await system.run(['snapshot', log])).code).toBe(0);
    await caughtUp();
    await expectGolden(processes);
  });
});
