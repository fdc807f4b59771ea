import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { memoryBroker } from '@tributary/changelog';
import { configReading } from '@tributary/config';
import { askOne, type Cell, Op, systemClock, type TableSchema, WHOLE } from '@tributary/core';
import { ProcessProjection, ProcessStore } from '@tributary/monitor';
import { ProjectionActor } from '@tributary/projection';
import { afterEach, describe, expect, it } from 'vitest';
import { faulty } from '../fixtures/faulty-projection.ts';
import { type Change, text, Written } from '../fixtures/history.ts';
import { expectSteps } from '../fixtures/kept-steps.ts';
import { until } from '../fixtures/wait.ts';
import { seeded } from '../fixtures/workload.ts';

/** Every run prints its seed; TRIBUTARY_SEED repeats one. */
const SEED = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const UNITS = 40;

const PROCESS = `kind: Process
name: flow
objects:
  order:   { table: s.orders, key: id, state: status, milestones: [paid_at] }
  item:    { table: s.items, of: { order: order_id } }
  payment: { table: p.payments, state: state, of: { order: order_ref }, created: state }
  refund:  { table: s.refunds, state: state, of: { payment: payment_id } }
root: order
events: [{ name: place order, when: order.insert, with: [item.insert, audit.insert] }]
done: "order.status = 'done' and all(payment.state != 'new')"
allowed: { order: "new>paid|done; paid>done", payment: ">new; new>paid" }
rules:
  - { name: pay, response: [order.created, payment.paid], within: 1s }
  - { name: pay_once, not_response: [payment.paid, payment.created] }
  - { name: pay_first, precedence: [order.paid_at, payment.paid] }
  - { name: one_item, condition: count(item) > 0, at: order.paid }
sla: { cycle: { target: 10s }, stage: { order.new: 2s } }
`;

const VERDICTS = ['followed', 'violation', 'owed'] as const;

interface Table {
  readonly source: 's' | 'p';
  readonly type: string;
  readonly schema: TableSchema;
  /** Columns by what they mean, as indices. */
  readonly state: number | null;
  readonly milestone: number | null;
  readonly link: number | null;
  readonly parent: string | null;
}

function tableOf(source: Table['source'], type: string, table: string, columns: readonly string[]): Table {
  const schema: TableSchema = {
    schema: 'public',
    table,
    identity: 'default',
    columns: columns.map((name, i) => text(name, i === 0 ? 1 : 0)),
  };
  const at = (...names: string[]) => {
    const index = columns.findIndex((name) => names.includes(name));
    return index < 0 ? null : index;
  };
  const link = at('order_id', 'order_ref', 'payment_id');
  const parent = link === null ? null : type === 'refund' ? 'payment' : 'order';
  return { source, type, schema, state: at('status', 'state'), milestone: at('paid_at'), link, parent };
}

const ORDERS = tableOf('s', 'order', 'orders', ['id', 'status', 'paid_at', 'note']);
const ITEMS = tableOf('s', 'item', 'items', ['id', 'order_id']);
const REFUNDS = tableOf('s', 'refund', 'refunds', ['id', 'state', 'payment_id']);
const PAYMENTS = tableOf('p', 'payment', 'payments', ['id', 'state', 'order_ref']);
const AUDIT = tableOf('s', '', 'audit', ['id']);
const TABLES = [ORDERS, ITEMS, PAYMENTS, REFUNDS];

/** An object is itself whatever key it has. */
interface Being {
  key: string;
  link: string | null;
}

interface Expected {
  being: Being;
  /** Its key and link when it happened. */
  readonly at: Readonly<Being>;
  readonly type: string;
  activity: string;
  readonly kind: string;
  readonly before: string | null;
  readonly after: string | null;
}

type Unit =
  | { readonly source: 's' | 'p'; readonly changes: readonly Change[] }
  | { readonly source: 's' | 'p'; readonly schema: TableSchema; readonly rows: readonly (readonly Cell[])[] };

/**
 * Two databases at work, and the plainest reckoning of what their process is: objects by reference, events in order,
 * cases looked up at the very end.
 */
class Business {
  readonly units: Unit[] = [];
  readonly events: Record<'s' | 'p', Expected[]> = { s: [], p: [] };
  readonly #random: () => number;
  /** Rows as the database has them, and as whoever reads the changelog knows them. */
  readonly #rows = new Map<string, Map<string, Cell[]>>(TABLES.map(({ type }) => [type, new Map()]));
  readonly #told = new Map<string, Map<string, Cell[]>>(TABLES.map(({ type }) => [type, new Map()]));
  readonly #beings = new Map<string, Map<string, Being>>(TABLES.map(({ type }) => [type, new Map()]));
  readonly #read = new Set<string>();

  constructor(seed: number) {
    this.#random = seeded(seed);
    for (let i = 0; i < UNITS; i++) {
      const dice = this.#any(14);
      const table = TABLES[this.#any(4)] as Table;
      if (dice === 0) this.#snapshot(table, 0);
      else if (dice === 1) this.#snapshot(table, 1 + this.#any(3));
      else this.#transaction(this.#any(3) === 0 ? 'p' : 's', this.#any(25) === 0 ? 40 : 1 + this.#any(4));
    }
    for (const table of TABLES) this.#snapshot(table, 0);
  }

  /** Every event of a source in order: activity, kind, object, key and case as they are in the end. */
  expected(source: 's' | 'p'): string[] {
    return this.events[source].map((one) =>
      JSON.stringify([one.activity, one.kind, one.type, one.being.key, this.#caseOf(one.type, one.being), one.before, one.after]),
    );
  }

  #caseOf(type: string, { key, link }: Being): string | null {
    if (type === 'order') return key;
    if (link === null || type !== 'refund') return link;
    const payment = this.#beings.get('payment')?.get(link);
    return payment?.link ?? null;
  }

  #any(max: number): number {
    return Math.floor(this.#random() * max);
  }

  #note(
    table: Table,
    being: Being,
    [activity, kind, before, after]: readonly [string, string, string | null, string | null],
  ): void {
    const { source, type } = table;
    this.events[source].push({ being, type, activity: `${type} ${activity}`, kind, before, after, at: { ...being } });
  }

  #being(table: Table, key: string): Being {
    const beings = this.#beings.get(table.type) as Map<string, Being>;
    const being = beings.get(key) ?? { key, link: null };
    beings.set(key, being);
    return being;
  }

  /** Somebody who reads the changelog is told of a row. @param how `c`, `u` (known before), or `r` */
  #tell(table: Table, row: readonly Cell[], how: 'c' | 'u' | 'r'): void {
    const told = this.#told.get(table.type) as Map<string, Cell[]>;
    const key = row[0] as string;
    const before = told.get(key);
    const being = this.#being(table, key);
    told.set(key, [...row]);
    if (table.link !== null) being.link = (row[table.link] as string | null) ?? null;
    const state = table.state === null ? null : (row[table.state] as string | null);
    const paid = table.milestone !== null && row[table.milestone] !== null;
    if (before) {
      const was = table.state === null ? null : (before[table.state] as string | null);
      if (state !== null && state !== was) this.#note(table, being, [state, how === 'u' ? 'state' : 'found', was, state]);
      if (paid && before[table.milestone as number] === null)
        this.#note(table, being, ['paid_at', how === 'u' ? 'milestone' : 'found', null, null]);
    } else if (how === 'c' || (how === 'r' && this.#read.has(table.type))) {
      const name = table.type === 'payment' && state !== null ? state : 'created';
      this.#note(table, being, [name, how === 'c' ? 'created' : 'found', null, state]);
      if (paid) this.#note(table, being, ['paid_at', how === 'c' ? 'milestone' : 'found', null, null]);
    }
  }

  #untell(table: Table, key: string, how: 'deleted' | 'found'): void {
    const told = this.#told.get(table.type) as Map<string, Cell[]>;
    const before = told.get(key);
    told.delete(key);
    const state = before && table.state !== null ? (before[table.state] as string | null) : null;
    if (before || how === 'deleted') this.#note(table, this.#being(table, key), ['deleted', how, state, null]);
  }

  /** @param lost changes before it that the stream did not tell */
  #snapshot(table: Table, lost: number): void {
    for (let i = 0; i < lost; i++) this.#change(table, false);
    const rows = [...(this.#rows.get(table.type) as Map<string, Cell[]>).values()].map((row) => [...row]);
    for (const row of rows) this.#tell(table, row, 'r');
    const there = new Set(rows.map(([key]) => key));
    for (const key of [...(this.#told.get(table.type) as Map<string, Cell[]>).keys()].toSorted())
      if (!there.has(key)) this.#untell(table, key, 'found');
    this.#read.add(table.type);
    this.units.push({ source: table.source, schema: table.schema, rows });
  }

  #transaction(source: 's' | 'p', size: number): void {
    const own = TABLES.filter((table) => table.source === source);
    const events = this.events[source];
    const from = events.length;
    const changes: Change[] = [];
    for (let i = 0; i < size; i++) {
      if (source === 's' && this.#any(5) === 0) this.#place(changes);
      else changes.push(...this.#change(own[this.#any(own.length)] as Table, true));
    }
    const audited = source === 's' && this.#any(2) === 0;
    if (audited) changes.push({ schema: AUDIT.schema, op: Op.created, cells: [String(this.#any(1e9))] });
    if (audited) this.#join(events, from);
    this.units.push({ source, changes });
  }

  /** A new order with its first item. */
  #place(changes: Change[]): void {
    const [orders, items] = [this.#rows.get('order') as Map<string, Cell[]>, this.#rows.get('item') as Map<string, Cell[]>];
    const [order, item] = [String(this.#any(30)), String(this.#any(40))];
    if (orders.has(order) || items.has(item)) return;
    const [row, line]: Cell[][] = [
      [order, 'new', null, 'note'],
      [item, order],
    ];
    for (const [table, rows, made] of [
      [ORDERS, orders, row],
      [ITEMS, items, line],
    ] as const) {
      if (!made) continue;
      rows.set(made[0] as string, made);
      changes.push({ schema: table.schema, op: Op.created, cells: [...made] });
      this.#tell(table, made, 'c');
    }
  }

  /** What the definition of `place order` says, over keys and links as they were at each event. */
  #join(events: Expected[], from: number): void {
    const created = events.slice(from).filter(({ kind }) => kind === 'created');
    const absorbed = new Set<Expected>();
    for (const order of created.filter(({ type }) => type === 'order')) {
      const items = created.filter(({ type, at }) => type === 'item' && at.link === order.at.key);
      if (items.length > 0) order.activity = 'place order';
      for (const item of items) absorbed.add(item);
    }
    events.splice(0, events.length, ...events.filter((event) => !absorbed.has(event)));
  }

  /** One change of the database. @param told by the stream */
  #change(table: Table, told: boolean): Change[] {
    const rows = this.#rows.get(table.type) as Map<string, Cell[]>;
    const { schema } = table;
    const key = String(this.#any(25));
    const row = rows.get(key);
    const dice = this.#any(60);
    if (dice === 0) {
      const known = this.#told.get(table.type) as Map<string, Cell[]>;
      rows.clear();
      if (told) for (const one of [...known.keys()].toSorted()) this.#untell(table, one, 'deleted');
      return told ? [{ schema, op: Op.truncated, cells: schema.columns.map(() => null) }] : [];
    }
    const link = () => (this.#any(5) === 0 ? null : String(this.#any(25)));
    const state = () => (['new', 'paid', 'done', null] as const)[this.#any(4)] ?? null;
    const fresh = (own: string): Cell[] =>
      schema.columns.map((_, c) =>
        c === 0 ? own : c === table.link ? link() : c === table.state ? state() : this.#any(2) === 0 ? null : `v${this.#any(99)}`,
      );
    if (!row) {
      const now = fresh(key);
      rows.set(key, now);
      if (told) this.#tell(table, now, 'c');
      return told ? [{ schema, op: Op.created, cells: [...now] }] : [];
    }
    if (dice < 8) {
      rows.delete(key);
      if (told) this.#untell(table, key, 'deleted');
      return told ? [{ schema, op: Op.deleted, cells: [key, ...schema.columns.slice(1).map(() => undefined)] }] : [];
    }
    const to = String(this.#any(25));
    const moves = dice < 20 && !rows.has(to);
    const same = this.#any(4) === 0;
    const now = [moves ? to : key, ...(same ? row.slice(1) : fresh(key).slice(1))];
    rows.delete(key);
    rows.set(now[0] as string, now);
    if (!told) return [];
    if (moves) this.#move(table, key, to);
    this.#tell(table, now, 'u');
    const old = moves ? { old: [key, ...schema.columns.slice(1).map(() => undefined)] } : {};
    return [{ schema, op: Op.updated, cells: [...now], ...old }];
  }

  /** The object goes on; one that had the key before, and is gone, gives it its past. */
  #move(table: Table, from: string, to: string): void {
    const told = this.#told.get(table.type) as Map<string, Cell[]>;
    const beings = this.#beings.get(table.type) as Map<string, Being>;
    const being = beings.get(from);
    if (!being) return;
    const before = beings.get(to);
    if (before) for (const one of [...this.events.s, ...this.events.p]) if (one.being === before) one.being = being;
    beings.delete(from);
    being.key = to;
    beings.set(to, being);
    const row = told.get(from);
    told.delete(from);
    if (row) told.set(to, row);
    else told.delete(to);
  }

  /** Writes the units of one source, cut as `cuts` chooses. @returns the sequence of the last message */
  async write(broker: ReturnType<typeof memoryBroker>, source: 's' | 'p', cuts: number): Promise<number> {
    const random = seeded(cuts);
    const written = new Written(await broker.changelogs.write(source, { replicas: 1, maxAgeMs: 0, maxBytes: 0 }), source);
    let waiting: { lsn: bigint; changes: readonly Change[] }[] = [];
    const flush = async () => {
      if (waiting.length > 0) await written.stream(waiting);
      waiting = [];
    };
    for (const [i, unit] of this.units.entries()) {
      if (unit.source !== source) continue;
      const lsn = BigInt(i + 1) * 16n;
      if ('rows' in unit) {
        await flush();
        await written.snapshot(unit, 1 + Math.floor(random() * 7));
      } else if (unit.changes.length > 8) {
        await flush();
        await written.parts(lsn, unit.changes, 3 + Math.floor(random() * 20));
      } else if (unit.changes.length > 0) {
        waiting.push({ lsn, changes: unit.changes });
        if (random() < 0.4) await flush();
      }
    }
    await flush();
    return written.seq;
  }
}

describe(`a process over two changelogs (seed ${SEED})`, () => {
  const folders: string[] = [];
  afterEach(async () => {
    for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true });
  });

  async function definition() {
    const { configOf } = await configReading();
    const sources = ['s', 'p'].map((name) => `kind: Source\nname: ${name}\npostgres: postgres://a@b/c\n---\n`).join('');
    const [config] = configOf([{ name: 'flow.yaml', text: sources + PROCESS }], { env: {} }).processes;
    if (!config) throw new Error('the definition is not read');
    return config;
  }

  async function openStore(folder: string): Promise<ProcessStore> {
    return ProcessStore.open({ dataDir: folder, process: await definition(), heldBytes: 2 ** 20, warn: () => {} });
  }

  async function temporary(): Promise<string> {
    const folder = await mkdtemp(join(tmpdir(), 'tributary-contract-process-'));
    folders.push(folder);
    return folder;
  }

  /** Runs the projection of one source to its end; it dies, and starts again, where `ends` says so. */
  async function follow(
    store: ProcessStore,
    broker: ReturnType<typeof memoryBroker>,
    { source, seq, ends, from }: { source: 's' | 'p'; seq: number; ends?: () => boolean; from?: string },
  ): Promise<number> {
    for (let starts = 1; ; starts++) {
      const stop = new AbortController();
      const { changelogs, bus } = broker;
      const open = async (cut: AbortSignal) =>
        faulty(await ProcessProjection.open(store, source), {
          choose: () => (ends?.() ? 'fail after write' : null),
          cut,
          held: () => {},
        });
      const given = {
        sink: 'flow',
        source,
        part: WHOLE,
        changelogs,
        bus,
        clock: systemClock,
        groupBytes: ends ? 12_000 : 2 ** 20,
        restMs: 0,
        open,
      };
      const actor = new ProjectionActor(given);
      let ended = false;
      const halted = async (fault: Error) => {
        throw fault;
      };
      // Again and again while it goes on, and once in the end.
      let asked: Promise<unknown> = Promise.resolve();
      let asking = false;
      const unlisten = store.listen(() => {
        if (asking) return;
        asking = true;
        asked = Promise.all([asked, expectSteps(store).finally(() => (asking = false))]);
      });
      const run = actor
        .run(stop.signal, () => {}, halted)
        .catch((error: unknown) => {
          if (!/as the test wants it/.test((error as Error).message)) throw error;
        })
        .finally(() => (ended = true));
      const at = () => (actor.facts()['position'] as { seq: number } | null)?.seq ?? 0;
      await until('the end of the changelog, or of the actor', async () => ended || at() >= seq);
      const done = !ended && at() >= seq;
      if (done && from !== undefined) await askOne(bus, `tributary.projection.flow.${source}.replay`, { from });
      stop.abort();
      await run;
      unlisten();
      await asked;
      if (done) await expectSteps(store);
      if (done) return starts;
    }
  }

  async function held(store: ProcessStore, source: 's' | 'p'): Promise<string[]> {
    const duck = await store.reader();
    try {
      const rows = await duck.rows<Record<string, string | null>>(
        'SELECT activity, kind, object, key, "case" AS c, before, after FROM event WHERE source = $1 ORDER BY tick',
        [source],
      );
      return rows.map((row) =>
        JSON.stringify([row['activity'], row['kind'], row['object'], row['key'], row['c'], row['before'], row['after']]),
      );
    } finally {
      duck.close();
    }
  }

  /** C1: what was judged as it came is what judging everything now gives. @returns how many rows each table has */
  async function expectJudged(store: ProcessStore): Promise<Record<string, number>> {
    const rows = async (table: string) =>
      (await store.writer.rows(`SELECT * FROM ${table} ORDER BY ALL`)).map((row) => JSON.stringify(row));
    const kept = await Promise.all(VERDICTS.map(rows));
    await store.transaction((duck) => store.verdicts.judgeAll(duck));
    for (const [i, table] of VERDICTS.entries()) expect(kept[i], table).toEqual(await rows(table));
    return Object.fromEntries(VERDICTS.map((table, i) => [table, kept[i]?.length ?? 0]));
  }

  it.each([
    { cuts: 1, order: ['s', 'p'] },
    { cuts: 2, order: ['p', 's'] },
  ] as const)(
    'comes to the same events and cases however they were cut, and wherever it died: cut $cuts, first $order',
    async (how) => {
      const { cuts, order } = how;
      const business = new Business(SEED);
      const broker = memoryBroker();
      const store = await openStore(await temporary());
      let groups = 0;
      let deaths = 0;
      for (const source of order) {
        const seq = await business.write(broker, source, SEED + cuts);
        // Every second group is the last one of its worker.
        const ends = cuts === 2 ? { ends: () => ++groups % 2 === 0 } : {};
        deaths += (await follow(store, broker, { source, seq, ...ends })) - 1;
      }
      if (cuts === 2) expect(deaths).toBeGreaterThan(0);
      for (const source of order) expect(await held(store, source), `of ${source}`).toEqual(business.expected(source));
      const { followed, violation, owed } = await expectJudged(store);
      // The history is random, but long enough for some of each.
      expect(Math.min(followed ?? 0, violation ?? 0, owed ?? 0)).toBeGreaterThan(0);
      store.close();
    },
  );

  it('comes to the same when it is told again, from the middle or from the start', async () => {
    const business = new Business(SEED + 1);
    const broker = memoryBroker();
    const written: { s?: number; p?: number } = {};
    const store = await openStore(await temporary());
    for (const [source, from] of [
      ['s', `0/${(16 * 25).toString(16)}`],
      ['p', 'start'],
      ['s', 'start'],
    ] as const) {
      const seq = written[source] ?? (await business.write(broker, source, SEED));
      written[source] = seq;
      await follow(store, broker, { source, seq });
      await follow(store, broker, { source, seq, from });
    }
    for (const source of ['s', 'p'] as const) expect(await held(store, source)).toEqual(business.expected(source));
    await expectJudged(store);
    store.close();
  });
});
