import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type PostgresServer, startPostgres, temporaryFolder } from '@tributary/embedded';
import { connect, type NatsConnection } from 'nats';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lastJson, System, tributary } from '../fixtures/system.ts';
import { until } from '../fixtures/wait.ts';

/** What may never be seen outside rows and config, however it is cut: passwords, tokens and row values. */
const PASSWORD = 'pw-4f1d8a';
const WRONG_PASSWORD = 'pw-9c7e02';
const TOKEN = 'token-77ab19cd55';
const ROW = 'row-b3e6f0';
const SECRETS = [PASSWORD, WRONG_PASSWORD, TOKEN, ROW];

/** One source each, so that every way of refusing a row keeps its own projection failing. */
const REFUSALS: Readonly<Record<string, { readonly state: string; readonly sql: string }>> = {
  type: { state: '22P02', sql: 'ALTER TABLE type.people ADD CHECK (note::int > 0)' },
  length: { state: '22001', sql: 'ALTER TABLE length.people ALTER note TYPE varchar(4)' },
  checks: { state: '23514', sql: `ALTER TABLE checks.people ADD CHECK (note NOT LIKE 'row-%')` },
  twice: {
    state: '23505',
    sql: `ALTER TABLE twice.people ADD UNIQUE (note); INSERT INTO twice.people (id, note) VALUES (99, '${ROW}')`,
  },
  raises: {
    state: 'P0001',
    sql: `CREATE FUNCTION raises.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one: %', NEW.note; END $$;
      CREATE TRIGGER no BEFORE INSERT ON raises.people FOR EACH ROW EXECUTE FUNCTION raises.no()`,
  },
};
const NAMES = Object.keys(REFUSALS);

let folder: string;
let postgres: PostgresServer;
let system: System;
let nats: NatsConnection;
const heard: string[] = [];

async function sql(database: string, text: string): Promise<void> {
  const client = new Client({ connectionString: postgres.url(database) });
  await client.connect();
  try {
    await client.query(text);
  } finally {
    await client.end();
  }
}

/** The server asks the role `app` for its password. */
async function askForPasswords(): Promise<void> {
  const client = new Client({ connectionString: postgres.url('postgres') });
  await client.connect();
  const { rows } = await client.query<{ file: string }>(`SELECT current_setting('hba_file') AS file`);
  const file = rows[0]?.file as string;
  await writeFile(file, `host all app 127.0.0.1/32 scram-sha-256\n${await readFile(file, 'utf8')}`);
  await client.query(`CREATE ROLE app LOGIN SUPERUSER PASSWORD '${PASSWORD}'; SELECT pg_reload_conf()`);
  await client.end();
}

const url = (database: string, password = PASSWORD) =>
  postgres.url(database).replace('postgres@', `app:${encodeURIComponent(password)}@`);

async function ask(path: string, body?: object): Promise<string> {
  const headers = { Authorization: `Bearer ${TOKEN}`, 'Content-Type': 'application/json' };
  const response = await fetch(new URL(path, system.console.replace('0.0.0.0', '127.0.0.1')), {
    headers,
    ...(body ? { method: 'POST', body: JSON.stringify(body) } : {}),
  });
  return response.text();
}

interface Status {
  readonly sources: readonly { name: string; state: string; fault: { message: string } | null }[];
  readonly projections: readonly { name: string; state: string; fault: { message: string } | null }[];
}
const status = async () => JSON.parse(await ask('/v1/status')) as Status;

beforeAll(async () => {
  folder = await temporaryFolder('secrets');
  postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: [...NAMES, 'locked', 'target'] });
  await askForPasswords();
  for (const name of NAMES) await sql(name, 'CREATE TABLE people (id int PRIMARY KEY, note text); INSERT INTO people VALUES (0)');
  const config = join(folder, 'tributary.yaml');
  await writeFile(
    config,
    [
      `kind: Cluster\nhttp: { tokens: [{ name: ops, token: ${TOKEN}, role: admin }] }`,
      ...NAMES.map((name) => `kind: Source\nname: ${name}\npostgres: "${url(name)}"`),
      `kind: Sink\nname: ods\ntype: ods\npostgres: "${url('target')}"`,
      `kind: Sink\nname: lake\ntype: lake`,
    ].join('\n---\n'),
  );
  const locked = join(folder, 'locked.yaml');
  await writeFile(locked, `kind: Source\nname: locked\npostgres: "${url('locked', WRONG_PASSWORD)}"\n`);
  process.env['TRIBUTARY_LOG'] = 'debug';
  system = new System(config, join(folder, 'data'), ['-f', locked]);
  // Never "ready": the locked source is not. The console is there long before.
  system.launch();
  const { nats: broker, console: page } = await until('the addresses', async () =>
    readFile(join(folder, 'data', 'addresses.json'), 'utf8').then(
      (text) => JSON.parse(text) as { nats: string; console: string },
      () => null,
    ),
  );
  system.console = page;
  nats = await connect({ servers: broker });
  for (const subject of ['tributary.>', '$KV.>'])
    nats.subscribe(subject, { callback: (_error, message) => void heard.push(Buffer.from(message.data).toString('latin1')) });
  await nats.flush();
});
afterAll(async () => {
  delete process.env['TRIBUTARY_LOG'];
  await nats?.close();
  await system?.stop();
  await postgres?.stop();
});

/** Everything the broker holds beyond changelogs. */
async function stored(): Promise<string> {
  const jsm = await nats.jetstreamManager();
  const texts: string[] = [];
  for await (const { config, state } of jsm.streams.list()) {
    if (config.name.startsWith('CHANGELOG_')) continue;
    for (let seq = state.first_seq; seq <= state.last_seq; seq++) {
      const message = await jsm.streams.getMessage(config.name, { seq }).catch(() => null);
      if (message) texts.push(`${message.subject} ${Buffer.from(message.data).toString('latin1')}`);
    }
  }
  return texts.join('\n');
}

describe('row values and secrets', () => {
  it('are in no log, status, metric, message of the bus or shared memory, whatever refuses a row', async () => {
    await until('every table to be in the target', async () => {
      const { projections } = await status();
      return NAMES.every((name) => projections.some((one) => one.name === `ods/${name}` && one.state === 'running'));
    });
    for (const name of NAMES) {
      await until(`table of ${name}`, () =>
        sql('target', `SELECT 1 FROM ${name}.people`).then(
          () => true,
          () => false,
        ),
      );
      await sql('target', REFUSALS[name]?.sql as string);
      await sql(name, `INSERT INTO people VALUES (1, '${ROW}')`);
    }
    await until('every projection to say why it stands still', async () => {
      const { projections, sources } = await status();
      const locked = sources.find((one) => one.name === 'locked')?.fault?.message;
      return (
        locked?.includes('password authentication failed for user "app"') &&
        NAMES.every((name) => {
          const one = projections.find((projection) => projection.name === `ods/${name}`);
          return one?.state === 'failed' && one.fault?.message.includes(`SQLSTATE ${REFUSALS[name]?.state}`);
        })
      );
    });

    // A query that fails on the row, once the lake has it, says what is wrong without quoting it.
    const refused = await until('the query to meet the row', async () => {
      const answer = await ask('/v1/query', { sql: 'SELECT note::int FROM type.people' });
      return answer.includes('cannot be converted') && answer;
    });
    expect(JSON.parse(refused)).toMatchObject({ status: 422 });
    expect(refused).not.toContain(ROW);

    // The desired state is stored in the cluster: what holds a secret is sealed.
    const applied = await tributary([
      'apply',
      '-f',
      join(folder, 'tributary.yaml'),
      '-f',
      join(folder, 'locked.yaml'),
      '--data',
      system.data,
    ]);
    expect(applied.stderr).toBe('');

    const places = {
      log: system.stderr,
      bus: heard.join('\n'),
      memory: await stored(),
      ...Object.fromEntries(
        await Promise.all(
          ['/v1/status', '/metrics', '/healthz', '/readyz', '/openapi.json'].map(async (path) => [path, await ask(path)]),
        ),
      ),
      applied: applied.stdout,
      command: (await tributary(['status', '--data', system.data, '--json'])).stdout,
    } as Record<string, string>;
    expect(places['log']).toContain('SQLSTATE 22P02');
    expect(places['bus']).toContain('SQLSTATE P0001');
    expect(places['memory']).toContain('$KV.tributary.config ');
    for (const [place, text] of Object.entries(places))
      for (const secret of SECRETS) expect(text.includes(secret), `${secret} in ${place}`).toBe(false);
  });

  it('are not in what a command says of a broker or database it cannot reach', async () => {
    const broker = await tributary(['status', '--nats', `nats://me:${PASSWORD}@127.0.0.1:1`]);
    expect(broker.code).toBe(1);
    expect(broker.stderr).toContain('cannot reach NATS at nats://127.0.0.1:1');
    const checked = await tributary(['check', '-f', join(folder, 'locked.yaml'), '--json']);
    expect(lastJson<{ ok: boolean }>(checked).ok).toBe(false);
    expect(broker.stderr + broker.stdout + checked.stderr + checked.stdout).not.toMatch(new RegExp(SECRETS.join('|')));
  });
});
