import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memoryBroker } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { askOne, Op, type OpCode, systemClock } from '@tributary/core';
import { startKpis } from '@tributary/kpi';
import { afterAll, describe, expect, it } from 'vitest';
import { type Change, text, Written } from '../fixtures/history.ts';
import { until } from '../fixtures/wait.ts';
import { seeded } from '../fixtures/workload.ts';

/** Every run prints its seed; TRIBUTARY_SEED repeats one. */
const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const ROUNDS = 10;
const BRANCHES = 3;
const TELLERS = 7;
const ACCOUNTS = 30;

const table = (name: string, ...columns: readonly string[]) => ({
  schema: 'public',
  table: name,
  identity: 'default' as const,
  columns: columns.map((column, i) => text(column, i === 0 ? 1 : 0)),
});
const TABLES = {
  branches: table('branches', 'bid', 'bbalance'),
  tellers: table('tellers', 'tid', 'tbalance'),
  accounts: table('accounts', 'aid', 'abalance'),
  history: table('history', 'hid', 'bid', 'tid', 'aid', 'delta'),
};

/** The tables of pgbench, whose four sums are equal behind every transaction. */
const CONFIG = `kind: Source
name: bank
postgres: "postgres://u:p@nowhere/s"
---
kind: Kpi
name: sums
every: 0ms
sql: |
  SELECT (SELECT sum(abalance::INT) FROM bank.accounts) AS accounts, (SELECT sum(tbalance::INT) FROM bank.tellers) AS tellers,
    (SELECT sum(bbalance::INT) FROM bank.branches) AS branches, (SELECT coalesce(sum(delta::INT), 0) FROM bank.history) AS history
---
kind: Kpi
name: history
from:
  h: bank.public.history
  a: { table: bank.public.accounts, on: "a.aid = h.aid", as: dimension }
dimensions: { branch: h.bid, rich: "a.abalance::INT > 0" }
measures: { sum: { sql: "sum(h.delta::INT)" }, rows: { sql: "count(*)" } }
${(['branches', 'tellers', 'accounts'] as const)
  .map((name) => {
    const [key, balance] = TABLES[name].columns.map((column) => column.name);
    return `---
kind: Kpi
name: ${name}
from: { t: bank.public.${name} }
dimensions: { one: t.${key} }
measures: { sum: { sql: "sum(t.${balance}::INT)" } }
`;
  })
  .join('')}`;
const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

interface Said {
  readonly whole: boolean;
  readonly rows: readonly {
    readonly dimensions: Readonly<Record<string, unknown>>;
    readonly values: Readonly<Record<string, unknown>>;
  }[];
  readonly freshness: { readonly position: string };
}

describe(`KPIs over the tables of pgbench (seed ${seed})`, () => {
  const random = seeded(seed);
  const pick = (n: number) => Math.floor(random() * n);
  const closing: (() => unknown)[] = [];
  afterAll(async () => {
    for (const close of closing.toReversed()) await close();
  });

  /** What one bank holds, and transactions that move money in it. */
  const balances = {
    branches: new Map<string, number>(),
    tellers: new Map<string, number>(),
    accounts: new Map<string, number>(),
  };
  const history = new Map<string, readonly string[]>();
  const change = (name: keyof typeof TABLES, op: OpCode, ...cells: readonly string[]): Change => ({
    schema: TABLES[name],
    op,
    cells,
  });
  const add = (name: keyof typeof balances, id: string, delta: number): Change => {
    const balance = (balances[name].get(id) ?? 0) + delta;
    balances[name].set(id, balance);
    return change(name, Op.updated, id, String(balance));
  };
  const moved = ([bid = '', tid = '', aid = '']: readonly string[], delta: number) => [
    add('branches', bid, delta),
    add('tellers', tid, delta),
    add('accounts', aid, delta),
  ];
  let entries = 0;
  /** One transaction of the benchmark; or one that takes an earlier one back. */
  const transfer = (): Change[] => {
    const taken = pick(4) === 0 ? [...history.keys()][pick(history.size)] : undefined;
    if (taken !== undefined) {
      const [bid = '', tid = '', aid = '', delta = ''] = history.get(taken) ?? [];
      history.delete(taken);
      return [...moved([bid, tid, aid], -Number(delta)), change('history', Op.deleted, taken, bid, tid, aid, delta)];
    }
    const delta = pick(10_000) - 5_000;
    const entry = [String(pick(BRANCHES)), String(pick(TELLERS)), String(pick(ACCOUNTS))];
    const id = String(entries++);
    history.set(id, [...entry, String(delta)]);
    return [...moved(entry, delta), change('history', Op.created, id, ...entry, String(delta))];
  };

  it('have equal sums in every value that is told, which are those of their parts, also of the past', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tributary-contract-identity-'));
    closing.push(() => rm(folder, { recursive: true, force: true }));
    const { configOf } = await configReading();
    const config = configOf([{ name: 'config', text: CONFIG }], { env: {} });
    const broker = memoryBroker();
    const { bus } = broker;
    await bus.serve('tributary.source.bank.barrier', async function* () {
      yield { seq: 0 };
    });
    const written = new Written(await broker.changelogs.write('bank', { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), 'bank');
    let lsn = 0n;
    const place = () => (lsn += 16n);
    const opened = (name: keyof typeof balances, count: number) =>
      Array.from({ length: count }, (_, id) => change(name, Op.created, String(id), '0'));
    const first = [
      ...opened('branches', BRANCHES),
      ...opened('tellers', TELLERS),
      ...opened('accounts', ACCOUNTS),
      ...transfer(),
    ];
    await written.stream([{ lsn: place(), changes: first }]);
    const start = () =>
      startKpis(config, { ...broker, clock: systemClock, log: quiet, dataDir: folder, worker: 'w', labels: null, capacity: 1 });
    let kpis = await start();
    closing.push(() => kpis.stop());

    const told: { kpi: string; position: string; rows: Said['rows'] }[] = [];
    /** Follows a KPI until it ends; its positions are those of `told`. */
    const follow = async (kpi: string, ask: object) => {
      try {
        let rows = new Map<string, Said['rows'][number]>();
        for await (const part of bus.ask(`tributary.kpi.${kpi}.stream`, ask)) {
          const { whole, rows: changed, freshness } = part as Said;
          if (whole) rows = new Map();
          for (const row of changed) rows.set(JSON.stringify(row.dimensions), row);
          told.push({ kpi, position: freshness.position, rows: [...rows.values()] });
        }
      } catch {
        // Its worker has ended.
      }
    };
    const followed = ['sums', 'history'] as const;
    const toldOf = (kpi: string) => told.filter((one) => one.kpi === kpi);
    const caughtUp = (kpi: string) =>
      toldOf(kpi)
        .at(-1)
        ?.position.startsWith(`bank:0/${lsn.toString(16).toUpperCase()}+`);
    const following = async () => {
      for (const kpi of followed) {
        await until(`${kpi} to answer`, () => askOne(bus, `tributary.kpi.${kpi}.values`, {}).catch(() => null));
        void follow(kpi, kpi === 'history' ? { by: ['branch', 'rich'] } : {});
      }
    };
    await following();
    for (let round = 0; round < ROUNDS; round++) {
      if (round === ROUNDS / 2) {
        await kpis.stop();
        kpis = await start();
        await following();
      }
      for (let message = pick(3); message >= 0; message--) {
        if (pick(5) === 0) await written.parts(place(), Array.from({ length: 6 }, transfer).flat(), 3 + pick(20));
        else await written.stream(Array.from({ length: 1 + pick(4) }, () => ({ lsn: place(), changes: transfer() })));
      }
      await until('what was written to be told', async () => followed.every(caughtUp));
    }

    const values = new Set<number>();
    for (const { rows, position } of toldOf('sums')) {
      const [row] = rows as unknown as readonly Record<string, unknown>[];
      const sums = ['accounts', 'tellers', 'branches', 'history'].map((name) => Number(row?.[name]));
      expect(new Set(sums).size, `${sums.join(', ')} at ${position} (seed ${seed})`).toBe(1);
      values.add(sums[0] as number);
    }
    expect(values.size).toBeGreaterThan(ROUNDS / 2);
    const by = (rows: Said['rows'], dimension: string | null, measure: string) => {
      const sums: Record<string, number> = {};
      for (const { dimensions, values: row } of rows) {
        const group = dimension === null ? 'all' : String(dimensions[dimension]);
        sums[group] = (sums[group] ?? 0) + Number(row[measure] ?? 0);
      }
      return sums;
    };
    for (const { rows, position } of toldOf('history')) {
      const ask = async (kpi: string, dimensions: readonly string[]) =>
        (await askOne<Said>(bus, `tributary.kpi.${kpi}.values`, { by: dimensions, asOf: position })).rows;
      const when = `at ${position} (seed ${seed})`;
      expect(sorted(await ask('history', ['branch', 'rich'])), `the past is what was told ${when}`).toEqual(sorted(rows));
      // Of a table without rows no group tells, and the total is 0.
      const [whole, branches] = [await ask('history', []), await ask('branches', ['one'])];
      for (const measure of ['sum', 'rows'])
        expect({ all: 0, ...by(rows, null, measure) }, when).toEqual(by(whole, null, measure));
      const empty = Object.fromEntries(Array.from({ length: BRANCHES }, (_, id) => [id, 0]));
      expect({ ...empty, ...by(rows, 'branch', 'sum') }, when).toEqual(by(branches, 'one', 'sum'));
      for (const kpi of ['tellers', 'accounts', 'branches'])
        expect(by(await ask(kpi, []), null, 'sum'), `${kpi} ${when}`).toEqual(by(whole, null, 'sum'));
    }
    for (const kpi of ['history', 'branches', 'tellers', 'accounts'])
      expect(await askOne(bus, `tributary.kpi.${kpi}.backfill`, {})).toMatchObject({ differing: 0 });
  });
});

function sorted(rows: Said['rows']): readonly string[] {
  return rows.map(({ dimensions, values }) => JSON.stringify([dimensions, values])).toSorted();
}
