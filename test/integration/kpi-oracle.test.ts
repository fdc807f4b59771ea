import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { type Broker, connectNats } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { askOne, Fault, systemClock } from '@tributary/core';
import { obtainNatsServer, startNats, startPostgres, temporaryFolder } from '@tributary/embedded';
import { openLog } from '@tributary/ops';
import { startSources } from '@tributary/source';
import { connect as connectToNats } from 'nats';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { act, CRM, KPIS, oracle, SHOP } from '../fixtures/kpi-shop.ts';
import { streamMessages } from '../fixtures/event-streams.ts';
import { Service } from '../fixtures/service.ts';
import { CH_KPIS, QUESTIONS, statesOf, Terminal, TPCC } from '../fixtures/tpcc.ts';
import { timed } from '../fixtures/timed.ts';
import { until } from '../fixtures/wait.ts';
import { seeded } from '../fixtures/workload.ts';

/** Every run prints its seed; TRIBUTARY_SEED repeats one, TRIBUTARY_KPI_ROUNDS makes it longer. */
const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const ROUNDS = Number(process.env['TRIBUTARY_KPI_ROUNDS'] ?? 3);
const STEPS = 40;

interface Answer {
  readonly rows: readonly Readonly<Record<string, unknown>>[];
  readonly freshness: { readonly position: string };
}

type Answers = Record<string, Record<string, Record<string, unknown>>>;

describe(`KPIs against PostgreSQL (seed ${seed})`, () => {
  const random = seeded(seed);
  const closing: (() => Promise<unknown>)[] = [];
  let folder: string;
  let broker: Broker;
  let shop: Client;
  let crm: Client;
  let urls: { shop: string; crm: string };
  let nats: string;
  let worker: Service;
  let terminal: Terminal;

  const connect = async (url: string) => {
    const client = new Client({ connectionString: url });
    await client.connect();
    closing.push(() => client.end());
    return client;
  };
  const startWorker = () =>
    Service.start(['kpi', '-f', join(folder, 'tributary.yaml'), '--nats', nats, '--data', join(folder, 'data')]);

  beforeAll(async () => {
    folder = await temporaryFolder('kpi');
    const postgres = await startPostgres({ dir: join(folder, 'postgres'), databases: ['shop', 'crm'] });
    closing.push(() => postgres.stop());
    const { path } = await obtainNatsServer({});
    const server = await startNats({ dir: join(folder, 'nats'), binary: path });
    closing.push(() => server.stop());
    nats = server.url;
    urls = { shop: postgres.url('shop'), crm: postgres.url('crm') };
    shop = await connect(urls.shop);
    crm = await connect(urls.crm);
    await shop.query(`${SHOP};${TPCC}`);
    terminal = new Terminal(shop, random);
    await crm.query(CRM);
    for (let i = 0; i < STEPS; i++) {
      await act({ shop, crm, random });
      await terminal.transaction();
    }
    const sources = Object.entries(urls).map(([name, url]) => `kind: Source\nname: ${name}\npostgres: "${url}"\n---\n`);
    const file = join(folder, 'tributary.yaml');
    await writeFile(file, `${sources.join('')}${KPIS}---\n${CH_KPIS}`);
    broker = await connectNats({ url: nats });
    closing.push(() => broker.close());
    const { loadConfig } = await configReading();
    const config = await loadConfig([file], { env: {} });
    const { changelogs, bus, kv } = broker;
    const common = { changelogs, bus, kv, clock: systemClock, log: openLog({ worker: 'test', level: 'error' }) };
    const capture = await startSources(config, { ...common, dataDir: folder, worker: 'test', labels: null, capacity: 1 });
    closing.push(() => capture.stop());
    worker = await startWorker();
    closing.push(() => worker.stop());
  });
  afterAll(async () => {
    for (const close of closing.toReversed()) await close();
    await rm(folder, { recursive: true, force: true });
  });

  /** Every KPI holds everything that was committed before. */
  const level = async () => {
    for (const source of ['shop', 'crm']) {
      const passed = async (subject: string, question: object) =>
        until(`${subject} to answer`, async () => {
          try {
            return await askOne<{ seq: number }>(broker.bus, subject, question, { idleMs: 20_000 });
          } catch (error) {
            if (error instanceof Fault) return null;
            throw error;
          }
        });
      const { seq } = await passed(`tributary.source.${source}.barrier`, {});
      await passed(`tributary.projection.kpi.${source}.reached`, { seq });
    }
  };

  const values = async (kpi: string, question: object): Promise<Answer> =>
    until(`values of ${kpi}`, async () => {
      try {
        const rows: Answer['rows'][number][] = [];
        let freshness: Answer['freshness'] | null = null;
        for await (const part of broker.bus.ask(`tributary.kpi.${kpi}.values`, question)) {
          const one = part as Answer;
          rows.push(...one.rows);
          freshness ??= one.freshness;
        }
        return { rows, freshness: freshness as Answer['freshness'] };
      } catch (error) {
        if (error instanceof Fault && ['not_complete', 'not_found'].includes(error.kind)) return null;
        throw error;
      }
    });

  /** What the KPIs say, in the words of the oracle. */
  const answers = async (
    asOf: Readonly<Record<string, string>> | null,
  ): Promise<{ told: Answers; positions: Record<string, string> }> => {
    const told: Answers = {};
    const positions: Record<string, string> = {};
    const ask = async (name: string, kpi: string, question: object, keyOf: (row: Record<string, unknown>) => string) => {
      const { rows, freshness } = await values(kpi, { ...question, ...(asOf ? { asOf: asOf[kpi] } : {}) });
      positions[kpi] = freshness.position;
      told[name] = Object.fromEntries(rows.map((row) => [keyOf(row), (row['values'] ?? row) as Record<string, unknown>]));
    };
    const bucketOf = ({ bucket }: Record<string, unknown>) => Date.parse(String(bucket)) / 1_000;
    const dimensionsOf = (row: Record<string, unknown>) => Object.values(row['dimensions'] as object).map((one) => one ?? 'null');
    for (const grain of ['hour', 'day', 'week', 'month'])
      await ask(`sales ${grain}`, 'sales', { grain }, (row) => [bucketOf(row), ...dimensionsOf(row)].join('|'));
    await ask('due week', 'due', { grain: 'week' }, (row) => String(bucketOf(row)));
    await ask('total', 'total', {}, (row) => ['null', ...dimensionsOf(row)].join('|'));
    await ask('byhand', 'byhand', {}, (row) => String(row['country'] ?? 'null'));
    return { told, positions };
  };

  const expectEqual = (told: Answers, right: Answers, when: string) => {
    expect(plain(told), when).toEqual(plain(right));
  };

  /** Every state of the CH-benCHmark's KPIs that was ever published is one that PostgreSQL had, in its order; and the last one is of now. */
  const expectPublished = async () => {
    const connection = await connectToNats({ servers: nats });
    for (const question of QUESTIONS) {
      const right = terminal.states(question).map((state) => plain({ ch: state }));
      const told = await until(`${question} to be published`, async () => {
        const messages = await streamMessages(connection, `KPI_${question}`);
        const states = [...statesOf(messages.map(({ body }) => body))].map((state) => plain({ ch: state }));
        return isDeepStrictEqual(states.at(-1), right.at(-1)) ? states : null;
      });
      let at = 0;
      for (const [n, state] of told.entries()) {
        const found = right.findIndex((one, i) => i >= at && isDeepStrictEqual(one, state));
        if (found === -1) expect(state, `${question}, message ${n}, behind state ${at} (seed ${seed})`).toEqual(right[at]);
        at = found;
      }
      expect(told.length, `states of ${question} that were published (seed ${seed})`).toBeGreaterThan(ROUNDS);
    }
    await connection.close();
  };

  it('says what PostgreSQL says at the same positions, now and of the past, whatever happens to its worker', async () => {
    const past: { right: Answers; positions: Record<string, string> }[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      await level();
      const { told, positions } = await answers(null);
      const right = await oracle({ shop, crm });
      expectEqual(told, right, `round ${round} (seed ${seed})`);
      // Kept as it was answered: to an old snapshot PostgreSQL shows a table that was truncated since as empty.
      past.push({ right, positions });
      const killed = round % 2 === 1 ? Math.floor(random() * STEPS) : -1;
      for (let i = 0; i < STEPS; i++) {
        await act({ shop, crm, random });
        await terminal.transaction();
        if (i !== killed) continue;
        await worker.kill();
        await timed('an engine of KPIs is level again after its worker was killed', async () => {
          worker = await startWorker();
          await level();
        });
      }
      if (round === 1) await shop.query(`ALTER TABLE orders ADD COLUMN channel text DEFAULT 'web'`);
    }
    await level();
    expectEqual((await answers(null)).told, await oracle({ shop, crm }), `the end (seed ${seed})`);
    for (const [round, { right, positions }] of past.entries())
      expectEqual((await answers(positions)).told, right, `as of round ${round} (seed ${seed})`);
    await expectPublished();
    for (const kpi of ['sales', 'due', 'total', ...QUESTIONS]) {
      const checked = await askOne<{ differing: number }>(broker.bus, `tributary.kpi.${kpi}.backfill`, {});
      expect(checked, `${kpi} is what its definition says (seed ${seed})`).toMatchObject({ differing: 0 });
    }
  }, 240_000);
});

/** Values without those that are nothing, rounded to what two ways of adding doubles have in common. */
function plain(answers: Answers): Answers {
  const kept = (row: Record<string, unknown>) =>
    Object.fromEntries(
      Object.entries(row)
        .filter(([name, value]) => name !== 'country' && value !== null && value !== 0)
        .map(([name, value]) => [name, typeof value === 'number' ? Number(value.toPrecision(10)) : Number(value)]),
    );
  return Object.fromEntries(
    Object.entries(answers).map(([name, rows]) => [
      name,
      Object.fromEntries(
        Object.entries(rows)
          .map(([key, row]) => [key, kept(row)] as const)
          .filter(([, row]) => Object.keys(row).length > 0)
          .toSorted(([a], [b]) => (a < b ? -1 : 1)),
      ),
    ]),
  );
}
