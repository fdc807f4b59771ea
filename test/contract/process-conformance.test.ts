import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memoryBroker } from '@tributary/changelog';
import { configReading, type HookConfig } from '@tributary/config';
import { askOne, type Cell, Op, systemClock, type TableSchema, WHOLE } from '@tributary/core';
import {
  answerProcess,
  type FoundCase,
  type JudgedCase,
  ProcessActor,
  ProcessProjection,
  ProcessStore,
} from '@tributary/monitor';
import { ProjectionActor } from '@tributary/projection';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { text, Written } from '../fixtures/history.ts';
import { until } from '../fixtures/wait.ts';
import { WebhookReceiver } from '../fixtures/webhook-receiver.ts';

const HOUR = 3_600_000_000;
const ORDERS = 400;
/** Orders with a planted fault, by number. */
const PLANTED = { illegal: [0, 50], late: [100, 120], lost: [200, 210], skewed: [300, 305] } as const;
const isPlanted = (fault: keyof typeof PLANTED, order: number) => order >= PLANTED[fault][0] && order < PLANTED[fault][1];

const PROCESS = `kind: Process
name: flow
objects:
  order:   { table: shop.orders, key: id, state: status }
  payment: { table: payments.payments, key: id, state: state, of: { order: order_ref } }
  parcel:  { table: logistics.parcels, key: id, state: status, of: { order: order_id } }
root: order
done: "all(parcel.status IN ('delivered','returned')) AND count(parcel) > 0"
allowed: { order: ">new; new>paid|cancelled; paid>done" }
rules:
  - { name: pay_before_ship, precedence: [payment.captured, parcel.handed_over], severity: critical }
  - { name: ship_in_24h, response: [payment.captured, parcel.handed_over], within: 24h }
  - { name: arrives, response: [parcel.handed_over, parcel.delivered], within: 120h }
stuck: { min_cases: 100 }
alerts: [{ on: [rule, stuck, missing, silent], to: [ops] }]
`;
const SECRET = 'whsec_c2lnbmVkIHdpdGggdHdlbnR5LWZvdXIgYnl0ZXM=';
const SOURCES = ['shop', 'payments', 'logistics'] as const;
type Source = (typeof SOURCES)[number];

interface Commit {
  readonly atUs: number;
  readonly source: Source;
  readonly op: typeof Op.created | typeof Op.updated;
  readonly cells: readonly Cell[];
}

const schemaOf = (table: string, columns: readonly string[]): TableSchema => ({
  schema: 'public',
  table,
  identity: 'default',
  columns: columns.map((name, i) => text(name, i === 0 ? 1 : 0)),
});
const SCHEMAS: Readonly<Record<Source, TableSchema>> = {
  shop: schemaOf('orders', ['id', 'status']),
  payments: schemaOf('payments', ['id', 'state', 'order_ref']),
  logistics: schemaOf('parcels', ['id', 'status', 'order_id']),
};

/** What three databases commit for one order; every ten minutes there is one. */
function commitsOf(order: number): Commit[] {
  const id = String(order);
  const from = 1_000 * HOUR + order * (HOUR / 6) + order;
  const at = (hours: number, source: Source, cells: readonly Cell[], created = false): Commit => {
    return { atUs: Math.round(from + hours * HOUR), source, op: created ? Op.created : Op.updated, cells };
  };
  const paid = 1;
  const captured = isPlanted('skewed', order) ? 20 + 0.1 / 3_600 : paid;
  const handedOver = isPlanted('late', order) ? 30 : 20;
  const lost = isPlanted('lost', order);
  return [
    at(0, 'shop', [id, 'new'], true),
    at(paid, 'shop', [id, 'paid']),
    ...(isPlanted('illegal', order) ? [at(2, 'shop', [id, 'new']), at(3, 'shop', [id, 'paid'])] : []),
    at(0.9, 'payments', [id, 'authorized', id], true),
    at(captured, 'payments', [id, 'captured', id]),
    at(10, 'logistics', [id, 'packed', id], true),
    at(handedOver, 'logistics', [id, 'handed_over', id]),
    ...(lost ? [] : [at(40, 'logistics', [id, 'delivered', id]), at(41, 'shop', [id, 'done'])]),
  ];
}

describe('planted faults', () => {
  const commits = Array.from({ length: ORDERS }, (_, order) => commitsOf(order))
    .flat()
    .toSorted((a, b) => a.atUs - b.atUs);
  const broker = memoryBroker();
  const written = new Map<Source, Written>();
  let folder = '';
  let store: ProcessStore;
  let receiver: WebhookReceiver;
  let hooks: readonly HookConfig[];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-conformance-'));
    const { configOf } = await configReading();
    const sources = SOURCES.map((name) => `kind: Source\nname: ${name}\npostgres: postgres://a@b/c\n---\n`).join('');
    receiver = await WebhookReceiver.start(SECRET);
    const hook = `---\nkind: Hook\nname: ops\nwebhook: { url: "${receiver.url}", secret: "${SECRET}" }\n`;
    const config = configOf([{ name: 'a.yaml', text: sources + PROCESS + hook }], { env: {} });
    ({ hooks } = config);
    const [process] = config.processes;
    if (!process) throw new Error('the definition is not read');
    store = await ProcessStore.open({ dataDir: folder, process, heldBytes: 2 ** 20, warn: () => {} });
    for (const source of SOURCES)
      written.set(source, new Written(await broker.changelogs.write(source, { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), source));
  });
  afterAll(async () => {
    store?.close();
    await receiver?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  /** What a source committed in a time, and that it is known up to its end; LSNs are times here. */
  async function tell(source: Source, fromUs: number, toUs: number): Promise<void> {
    const changelog = written.get(source) as Written;
    const own = commits.filter((one) => one.source === source && one.atUs > fromUs && one.atUs <= toUs);
    for (let i = 0; i < own.length; i += 200)
      await changelog.stream(
        own
          .slice(i, i + 200)
          .map(({ atUs, op, cells }) => ({ lsn: BigInt(atUs), changes: [{ schema: SCHEMAS[source], op, cells }] })),
      );
    await changelog.stream([{ lsn: BigInt(toUs) + 1n, changes: [] }]);
    const stop = new AbortController();
    const { changelogs, bus } = broker;
    const open = async () => ProcessProjection.open(store, source);
    const given = { sink: 'flow', source, part: WHOLE, changelogs, bus, clock: systemClock, groupBytes: 64_000, restMs: 0, open };
    const actor = new ProjectionActor(given);
    const run = actor.run(
      stop.signal,
      () => {},
      async (fault: Error) => {
        throw fault;
      },
    );
    await until(`the end of ${source}`, async () => (actor.facts()['position'] as { seq: number } | null)?.seq === changelog.seq);
    stop.abort();
    await run;
  }

  async function cases(nowUs: number, asked: { state?: string; rule?: string }): Promise<JudgedCase[]> {
    const duck = await store.reader();
    try {
      const question = { what: 'cases', limit: 1_000, ...asked } as const;
      const declared = { process: store.process, nowUs, usual: null };
      for await (const part of answerProcess(duck, question, { name: store.process.name, root: 'order', declared }))
        return (part as { cases: JudgedCase[] }).cases;
      throw new Error('there is no answer');
    } finally {
      duck.close();
    }
  }

  /** Cases that are not as usual, and what is not known of others. */
  async function unusual(nowUs: number, state: string): Promise<{ found: Record<string, string[]>; unknown: string[] }> {
    const found: Record<string, string[]> = {};
    const unknown: string[] = [];
    for (const one of (await cases(nowUs, { state })) as unknown as FoundCase[])
      for (const { rule, verdict } of one.findings) {
        if (verdict === 'unknown') unknown.push(`${rule} ${one.case}`);
        else found[rule] = [...(found[rule] ?? []), one.case].toSorted((a, b) => Number(a) - Number(b));
      }
    return { found, unknown };
  }

  /** Letters, as their receiver took them; one whose sender ended meanwhile comes again under its id. */
  const letters = () =>
    [...new Map(receiver.taken.map(({ id, body }) => [id, body])).values()].map(
      (body) => body as { alert: string; state: string; count: number; findings: { case: string }[] },
    );
  const brief = () => letters().map(({ alert, state, count }) => `${alert} ${state} ${count}`);

  /** A worker that looks at the process, and tells, while `work` runs. */
  async function watched(work: () => Promise<unknown>): Promise<void> {
    const stop = new AbortController();
    const { changelogs, bus } = broker;
    const { process } = store;
    const told = { hooks, positions: changelogs.positions, bus, clock: systemClock, warn: () => {} };
    const actor = new ProcessActor({ ...told, process, open: async () => store });
    const run = actor.run(stop.signal, () => {});
    try {
      await work();
    } finally {
      stop.abort();
      await run;
    }
  }

  const keysOf = (found: readonly JudgedCase[]) => found.map((one) => one.case).toSorted((a, b) => Number(a) - Number(b));
  const keys = ([from, to]: readonly [number, number]) => Array.from({ length: to - from }, (_, i) => String(from + i));

  it('are found, each and nothing else, and a source that stands still for twice the time raises nothing', async () => {
    const [middle, end] = [1_100 * HOUR, 1_400 * HOUR];
    const stopped = middle - 48 * HOUR;
    await tell('shop', 0, middle);
    await tell('payments', 0, middle);
    await tell('logistics', 0, stopped);
    const early = await cases(middle, { state: 'violated', rule: 'ship_in_24h' });
    expect(keysOf(early).filter((one) => !isPlanted('late', Number(one)))).toEqual([]);
    const unknown = (await cases(middle, { rule: 'ship_in_24h' })).flatMap(({ owed }) => owed);
    expect(unknown).toContainEqual(
      expect.objectContaining({ rule: 'ship_in_24h', verdict: 'unknown', reason: `source logistics lags ${48 * 3_600} s` }),
    );
    expect(await cases(middle, { state: 'violated', rule: 'pay_before_ship' })).toEqual([]);
    // Of a parcel only its own database can say that it does not move.
    expect((await unusual(middle, 'stuck')).found).toEqual({ 'stuck.order.paid': keys(PLANTED.lost) });
    expect((await unusual(middle, 'stuck')).unknown).not.toEqual([]);
    expect((await unusual(middle, 'missing')).found).toEqual({});
    const known = ['allowed.order firing 50', 'ship_in_24h firing 20', 'stuck.order.paid firing 10'];
    await watched(() => until('what is known to be told', async () => brief().length === known.length));
    expect(brief().toSorted()).toEqual(known);

    for (const source of ['logistics', 'shop', 'payments'] as const)
      await tell(source, source === 'logistics' ? stopped : middle, end);
    const found = {
      'allowed.order': keys(PLANTED.illegal),
      ship_in_24h: keys(PLANTED.late),
      arrives: keys(PLANTED.lost),
      pay_before_ship: [],
    };
    let [right, raised] = [0, 0];
    for (const [rule, expected] of Object.entries(found)) {
      const broken = (await cases(end, { state: 'violated', rule })).flatMap((one) =>
        one.violations.filter((violation) => violation.rule === rule).map(() => one.case),
      );
      right += broken.filter((one) => (expected as string[]).includes(one)).length;
      raised += broken.length;
      expect(
        broken.toSorted((a, b) => Number(a) - Number(b)),
        rule,
      ).toEqual(expected);
    }
    const learned = {
      stuck: { 'stuck.order.paid': keys(PLANTED.lost), 'stuck.parcel.handed_over': keys(PLANTED.lost) },
      missing: { 'missing.parcel delivered': keys(PLANTED.lost) },
      silent: {},
    };
    for (const [state, expected] of Object.entries(learned)) {
      const told = await unusual(end, state);
      for (const [rule, one] of Object.entries(told.found)) {
        right += one.filter((key) => (expected as Record<string, string[]>)[rule]?.includes(key)).length;
        raised += one.length;
      }
      expect(told, state).toEqual({ found: expected, unknown: [] });
    }
    const planted = [...Object.values(found), ...Object.values(learned).flatMap((one) => Object.values(one))].flat().length;
    process.stderr.write(`planted ${planted}, raised ${raised}: precision ${right / raised}, recall ${right / planted}\n`);

    const [illegal] = await cases(end, { state: 'violated', rule: 'allowed.order' });
    expect(illegal?.violations[0]).toMatchObject({
      level: 'violation',
      event: { object: 'order', before: 'paid', after: 'new', source: 'shop' },
    });
    expect(illegal?.violations[0]?.event.lsn).toBe(String(1_002 * HOUR + 49 * (HOUR / 6) + 49));
    expect(keysOf(await cases(end, { state: 'open' }))).toEqual(keys(PLANTED.lost));
    expect(await cases(end, { state: 'done' })).toHaveLength(ORDERS - 10);
    expect(await cases(end, { state: 'met' })).toEqual([]);
    await expect(cases(end, { rule: 'no_rule' })).rejects.toThrow('Rules: allowed.order, pay_before_ship, ship_in_24h, arrives');
  });

  it('are told once each, signed, whoever watches, until somebody takes note', async () => {
    const late = ['arrives firing 10', 'missing.parcel delivered firing 10', 'stuck.parcel.handed_over firing 10'];
    await watched(async () => {
      await until('what is known since to be told', async () => brief().length === 6);
      expect(brief().slice(3).toSorted()).toEqual(late);
      expect(
        letters()
          .find(({ alert }) => alert === 'arrives')
          ?.findings.map((one) => one.case),
      ).toEqual(keys(PLANTED.lost));
      await askOne(broker.bus, 'tributary.process.flow.acknowledge', { alert: 'arrives', by: 'ops' }, { idleMs: 5_000 });
      await until('it to be over', async () => brief().length === 7);
      const { alerts } = await askOne<{ alerts: { alert: string; state: string; findings: object[] }[] }>(
        broker.bus,
        'tributary.process.flow.alerts',
        {},
        { idleMs: 5_000 },
      );
      expect(alerts.map(({ alert, state }) => `${alert} ${state}`).toSorted()).toEqual([
        'allowed.order firing',
        'arrives resolved',
        'missing.parcel delivered firing',
        'ship_in_24h firing',
        'stuck.order.paid firing',
        'stuck.parcel.handed_over firing',
      ]);
    });
    expect(brief()[6]).toBe('arrives resolved 0');
    expect([receiver.forged, letters().length]).toEqual([0, 7]);
  });
});
