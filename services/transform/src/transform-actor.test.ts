import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Broker, type ChangelogWriter, memoryBroker, SectionDraft } from '@tributary/changelog';
import type { TransformConfig, TransformStep } from '@tributary/config';
import {
  askOne,
  type Cell,
  Fault,
  keyColumns,
  Op,
  ORIGIN,
  systemClock,
  systemRandom,
  tableName,
  type TableSchema,
} from '@tributary/core';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { namedType, type SqlType } from './sql-types.ts';
import { TransformActor } from './transform-actor.ts';
import { verifyTransform } from './verify.ts';

const columns = { id: 'int', status: 'text', qty: 'int', doc: 'text' };
const schema: TableSchema = {
  schema: 'public',
  table: 'orders',
  identity: 'default',
  columns: Object.entries(columns).map(([name, text], c) => {
    const { type, typmod, sqlType } = namedType(text) as SqlType;
    return { name, type, typmod, sqlType, key: c === 0 ? 1 : 0 };
  }),
};

type Row = readonly [id: string, status: string, qty: string, doc: string];

/** A source without a database: its rows, and the changelog of what happens to them. */
class Source {
  readonly rows = new Map<string, Row>();
  readonly name: string;
  readonly #writer: ChangelogWriter;
  #lsn = 100n;
  #read = 0;
  seq = 0;

  private constructor(name: string, writer: ChangelogWriter) {
    this.name = name;
    this.#writer = writer;
  }

  static async open(broker: Broker, name: string): Promise<Source> {
    const source = new Source(name, await broker.changelogs.write(name, { replicas: 1, maxAgeMs: 0, maxBytes: 0 }));
    const state = source;
    await broker.bus.serve(`tributary.source.${name}.barrier`, async function* () {
      yield { seq: state.seq, tables: ['public.orders'], shapes: [schema] };
    });
    return source;
  }

  /** One transaction. */
  async commit(changes: readonly Change[]): Promise<void> {
    const draft = new SectionDraft(schema);
    for (const change of changes) this.#change(draft, change);
    if (draft.rows === 0) return;
    this.#lsn += 10n;
    this.#read = 0;
    const at = Number(this.#lsn);
    await this.#append(draft, {
      kind: 'stream',
      position: { lsn: this.#lsn, ordinal: draft.rows },
      transactions: [{ lsn: this.#lsn, endLsn: this.#lsn + 5n, xid: at, committedAt: at }],
      mark: null,
    });
  }

  /** All rows as a snapshot that finds the rows it names, and no others. */
  async snapshot(): Promise<void> {
    const mark = { table: 'public.orders', generation: ++this.#read, reset: false } as const;
    const draft = new SectionDraft(schema);
    for (const [i, row] of [...this.rows.values()].entries()) this.#row(draft, Op.read, row, { ordinal: i + 1 });
    for (const step of ['begin', 'chunk', 'end'] as const) {
      const position = { lsn: this.#lsn, ordinal: 2 ** 32 + this.#read++ };
      const told = step === 'chunk' ? draft : step === 'end' ? new SectionDraft(schema) : null;
      await this.#append(told, { kind: 'read', position, transactions: [], mark: { ...mark, step } });
    }
  }

  async #append(draft: SectionDraft | null, header: object): Promise<void> {
    const rest = {
      source: this.name,
      epoch: 'e',
      restart: 0n,
      watermark: Number(this.#lsn),
      continues: false,
      more: false,
      state: null,
    };
    this.seq = await this.#writer.append({ header: { ...rest, ...header } as never, sections: draft ? [draft] : [] });
  }

  #change(draft: SectionDraft, { id, to, status, qty, doc }: Change): void {
    const before = this.rows.get(String(id));
    const ordinal = draft.rows + 1;
    if (!before) {
      const row: Row = [String(id), status, String(qty), `doc ${doc}`];
      this.rows.set(String(id), row);
      return this.#row(draft, Op.created, row, { ordinal });
    }
    this.rows.delete(String(id));
    if (to === null) return this.#row(draft, Op.deleted, [String(id), undefined, undefined, undefined], { ordinal });
    const moved = this.rows.has(String(to)) ? String(id) : String(to);
    const row: Row = [moved, status, String(qty), before[3]];
    this.rows.set(moved, row);
    const old = moved === String(id) ? null : [String(id), undefined, undefined, undefined];
    // The document did not change, so the database does not send it.
    this.#row(draft, Op.updated, [moved, status, String(qty), undefined], { ordinal, old });
  }

  #row(
    draft: SectionDraft,
    op: (typeof Op)[keyof typeof Op],
    cells: readonly Cell[],
    { ordinal, old }: { ordinal: number; old?: readonly Cell[] | null },
  ): void {
    cells.forEach((cell, c) => draft.cells[c]?.push(cell));
    if (old) draft.oldCells().forEach((column, c) => column.push(old[c]));
    draft.row(op, 0, ordinal);
  }
}

interface Change {
  readonly id: number;
  /** The key it has afterwards; null = deleted. */
  readonly to: number | null;
  readonly status: string;
  readonly qty: number;
  readonly doc: number;
}

/** What a projection holds that has read all of a changelog. */
async function projected(broker: Broker, name: string): Promise<Map<string, Record<string, Cell>>> {
  const rows = new Map<string, Record<string, Cell>>();
  let seen: Set<string> | null = null;
  const stop = new AbortController();
  const last = await broker.changelogs.last(name);
  for await (const { header, sections, seq } of broker.changelogs.read(name, { after: ORIGIN, signal: stop.signal })) {
    if (header.mark?.step === 'begin') seen = new Set();
    for (const section of sections) {
      const names = section.schema.columns.map((column) => column.name);
      const key = keyColumns(section.schema);
      const cells = (from: typeof section.columns, row: number) => from.map((column) => column.values()[row]);
      for (let row = 0; row < section.rows; row++) {
        const now = cells(section.columns, row);
        const i = section.old?.row.indexOf(row) ?? -1;
        const old = i === -1 ? now : cells(section.old?.columns ?? [], i);
        const [id, before] = [now, old].map((one) => `${tableName(section.schema)} ${key.map((c) => one[c]).join()}`) as [
          string,
          string,
        ];
        const was = rows.get(before);
        rows.delete(before);
        if (section.ops[row] === Op.deleted) continue;
        const whole = now.map((cell, c) => (cell === undefined ? was?.[names[c] as string] : cell));
        expect(whole, 'a row that a reader cannot know').not.toContain(undefined);
        rows.set(id, Object.fromEntries(names.map((one, c) => [one, whole[c]])));
        seen?.add(id);
      }
    }
    if (header.mark?.step === 'end' && seen) {
      for (const id of rows.keys()) if (!seen.has(id)) rows.delete(id);
      seen = null;
    }
    if (seq === last?.seq) break;
  }
  stop.abort();
  return rows;
}

const anyChange: fc.Arbitrary<Change> = fc.record({
  id: fc.integer({ min: 1, max: 8 }),
  to: fc.option(fc.integer({ min: 1, max: 8 }), { nil: null, freq: 4 }),
  status: fc.constantFrom('draft', 'new', 'paid'),
  qty: fc.integer({ min: 0, max: 9 }),
  doc: fc.integer({ min: 0, max: 3 }),
});

const filter: TransformStep = { kind: 'filter', condition: `status <> 'draft'` };
const passed = (rows: Iterable<Row>) =>
  [...rows].filter(([, status]) => status !== 'draft').map(([id, status, qty, doc]) => ({ id, status, qty, doc }));

describe('a transform', () => {
  let broker: Broker;
  let folder: string;
  beforeEach(async () => {
    broker = memoryBroker();
    folder = await mkdtemp(join(tmpdir(), 'tributary-transform-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  /** Runs it until everything so far is in its changelog. */
  async function through(config: TransformConfig, inputs: readonly string[], work = async () => {}): Promise<void> {
    const { changelogs, bus } = broker;
    const changelog = { replicas: 1, maxAgeMs: 0, maxBytes: 0 };
    const parts = { changelogs, changelog, bus, clock: systemClock, random: systemRandom, folder, warn: () => {} };
    const actor = new TransformActor({ config, inputs, ...parts });
    const stop = new AbortController();
    await new Promise<void>((ready, failed) => {
      ended = actor.run(stop.signal, ready);
      ended.catch(failed);
    });
    await askOne(bus, `tributary.source.${config.name}.barrier`, {});
    await work();
    stop.abort();
    await ended;
  }
  let ended: Promise<void> = Promise.resolve();

  const config = (steps: readonly TransformStep[], from = ['a.public.orders']): TransformConfig => ({
    name: 't',
    from,
    steps,
    places: [],
    ...(from.length > 1 ? { to: 'public.orders' } : {}),
  });

  it('keeps no rows while it need not, and begins to when an update leaves out what it must know', async () => {
    const a = await Source.open(broker, 'a');
    const stateful = async () => ((await broker.changelogs.last('t'))?.state as { view?: boolean } | undefined)?.view === true;
    await a.commit([{ id: 1, to: 1, status: 'new', qty: 1, doc: 1 }]);
    await a.commit([{ id: 2, to: 2, status: 'draft', qty: 1, doc: 2 }]);
    await through(config([filter]), ['a']);
    expect(await stateful()).toBe(false);
    // It enters the filter, and its document is not told.
    await a.commit([{ id: 2, to: 2, status: 'paid', qty: 5, doc: 0 }]);
    await through(config([filter]), ['a']);
    expect(await stateful()).toBe(true);
    expect([...(await projected(broker, 't')).values()]).toEqual(passed(a.rows.values()));
    await rm(folder, { recursive: true });
    await a.commit([{ id: 1, to: 3, status: 'paid', qty: 2, doc: 0 }]);
    await through(config([filter]), ['a']);
    expect([...(await projected(broker, 't')).values()]).toEqual(passed(a.rows.values()));
  });

  it('is verified: its changelog beside what steps make of its inputs', async () => {
    const a = await Source.open(broker, 'a');
    for (const [i, status] of ['new', 'paid', 'draft'].entries())
      await a.commit([{ id: i + 1, to: i + 1, status, qty: 1, doc: 1 }]);
    await through(config([filter]), ['a']);
    const verified = async (...steps: TransformStep[]) => {
      const given = { config: config(steps), inputs: ['a'], ...broker, signal: new AbortController().signal };
      const tables = [];
      for await (const one of verifyTransform(given, { table: 'public.orders' })) tables.push(one);
      return tables;
    };
    const table = { source: 't', table: 'public.orders', projection: 'transform' };
    expect(await verified(filter)).toEqual([{ ...table, rows: 2, equal: true, differences: [] }]);
    // As if it had been made by other steps.
    const other: TransformStep = { kind: 'filter', condition: `status <> 'paid'` };
    const set: TransformStep = { kind: 'set', columns: { qty: 'qty + 1' }, when: null };
    const differences = [
      { key: '3', problem: 'missing' },
      { key: '2', problem: 'extra' },
      { key: '1', problem: 'different' },
    ];
    expect(await verified(other, set)).toEqual([{ ...table, rows: 2, equal: false, differences }]);
    const more: TransformStep = { kind: 'set', columns: { twice: 'qty * 2' }, when: null };
    expect(await verified(filter, more)).toMatchObject([
      { equal: false, differences: [{ key: 'column twice integer', problem: 'missing' }] },
    ]);
  });

  it('tells a table anew when it is asked to, also where its rows are kept and none is another', async () => {
    const a = await Source.open(broker, 'a');
    const b = await Source.open(broker, 'b');
    await broker.bus.serve('tributary.source.a.snapshot', async function* () {
      await a.snapshot();
      yield { done: true, rows: a.rows.size };
    });
    await broker.bus.serve('tributary.source.b.snapshot', async function* () {
      await b.snapshot();
      yield { done: true, rows: b.rows.size };
    });
    await a.commit([{ id: 1, to: 1, status: 'new', qty: 1, doc: 1 }]);
    await b.commit([{ id: 2, to: 2, status: 'new', qty: 1, doc: 1 }]);
    const both = config([filter], ['a.public.orders', 'b.public.orders']);
    await through(both, ['a', 'b'], async () => {
      const before = (await broker.changelogs.last('t'))?.seq ?? 0;
      await askOne(broker.bus, 'tributary.source.t.snapshot', { table: 'orders' });
      const last = await broker.changelogs.last('t');
      const ops: number[] = [];
      const { signal } = new AbortController();
      for await (const { sections, seq } of broker.changelogs.read('t', { after: ORIGIN, signal })) {
        if (seq > before) ops.push(...sections.flatMap((section) => [...section.ops]));
        if (seq === last?.seq) break;
      }
      expect(ops).toEqual([Op.read, Op.read]);
    });
  });

  /** Columns of the tables that its changelog tells of. */
  async function tables(): Promise<Record<string, string[]>> {
    const told = new Map<string, string[]>();
    const last = await broker.changelogs.last('t');
    const { signal } = new AbortController();
    for await (const { sections, seq } of broker.changelogs.read('t', { after: ORIGIN, signal })) {
      for (const { schema: one } of sections)
        told.set(
          tableName(one),
          one.columns.map(({ name }) => name),
        );
      if (seq === last?.seq) break;
    }
    return Object.fromEntries(told);
  }

  it('passes a table on that has no rows, or none that passes', async () => {
    const steps: TransformStep[] = [filter, { kind: 'set', columns: { twice: 'qty * 2' }, when: null }];
    const expected = { 'public.orders': ['id', 'status', 'qty', 'doc', 'twice'] };
    for (const inputs of [['a'], ['a', 'b']]) {
      for (const status of [null, 'draft']) {
        broker = memoryBroker();
        const a = await Source.open(broker, 'a');
        await Source.open(broker, 'b');
        if (status) await a.commit([{ id: 1, to: 1, status, qty: 1, doc: 1 }]);
        await a.snapshot();
        const from = inputs.map((input) => `${input}.public.orders`);
        await through(config(steps, from), inputs);
        expect(await tables(), `${inputs} ${status}`).toEqual(expected);
        await rm(folder, { recursive: true, force: true });
        await through(config(steps, from), inputs);
        expect([...(await projected(broker, 't')).values()]).toEqual([]);
      }
    }
  });

  it('passes it on also when it died just before', async () => {
    const inputs = ['a', 'b'];
    const merged = config(
      [filter],
      inputs.map((input) => `${input}.public.orders`),
    );
    for (const lost of [false, true]) {
      broker = memoryBroker();
      const a = await Source.open(broker, 'a');
      await Source.open(broker, 'b');
      await a.snapshot();
      const write = broker.changelogs.write.bind(broker.changelogs);
      const dying = vi.spyOn(broker.changelogs, 'write').mockImplementation(async (...args) => {
        const writer = await write(...args);
        const append = writer.append.bind(writer);
        writer.append = async (draft) => {
          if (draft.header.mark?.step === 'end') throw new Fault('broker_unreachable', 'dead');
          return append(draft);
        };
        return writer;
      });
      await expect(through(merged, inputs)).rejects.toThrow();
      dying.mockRestore();
      expect(await tables()).toEqual({});
      if (lost) await rm(folder, { recursive: true });
      await through(merged, inputs);
      expect(Object.keys(await tables())).toEqual(['public.orders']);
    }
  });

  it('gives what its steps make of the rows, whatever happened to them, wherever it was stopped', async () => {
    const round = fc.array(
      fc.oneof({ weight: 8, arbitrary: fc.array(anyChange, { minLength: 1, maxLength: 4 }) }, fc.constant('snapshot' as const)),
      {
        minLength: 1,
        maxLength: 8,
      },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(round, { minLength: 1, maxLength: 3 }), fc.boolean(), async (rounds, merged) => {
        broker = memoryBroker();
        const a = await Source.open(broker, 'a');
        const inputs = merged ? ['a', (await Source.open(broker, 'b')).name] : ['a'];
        const from = inputs.map((input) => `${input}.public.orders`);
        for (const [i, happenings] of rounds.entries()) {
          for (const one of happenings) await (one === 'snapshot' ? a.snapshot() : a.commit(one));
          if (i === 1) await rm(folder, { recursive: true, force: true });
          await through(config([filter], from), inputs);
          const found = [...(await projected(broker, 't')).values()];
          expect(found.toSorted((x, y) => Number(x['id']) - Number(y['id']))).toEqual(
            passed(a.rows.values()).toSorted((x, y) => Number(x.id) - Number(y.id)),
          );
        }
        await rm(folder, { recursive: true, force: true });
      }),
      { numRuns: 10 },
    );
  });

  it('looks up rows of another table, or of its own, whichever of both changes', async () => {
    const steps = (table: string): TransformStep[] => [
      { kind: 'set', columns: { asked: 'qty + 1' }, when: null },
      { kind: 'lookup', lookup: { table, on: { id: 'asked' }, set: { found: 'status', document: 'doc' } } },
      { kind: 'filter', condition: `found IS DISTINCT FROM 'paid'` },
    ];
    const happening = fc.tuple(
      fc.boolean(),
      fc.oneof({ weight: 8, arbitrary: fc.array(anyChange, { minLength: 1, maxLength: 4 }) }, fc.constant('snapshot' as const)),
    );
    const rounds = fc.array(fc.array(happening, { minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(rounds, fc.boolean(), async (all, own) => {
        broker = memoryBroker();
        const a = await Source.open(broker, 'a');
        const b = await Source.open(broker, 'b');
        const inputs = own ? ['a'] : ['a', 'b'];
        for (const [i, happenings] of all.entries()) {
          for (const [first, one] of happenings) {
            const source = first ? a : b;
            await (one === 'snapshot' ? source.snapshot() : source.commit(one));
          }
          if (i === 1) await rm(folder, { recursive: true, force: true });
          await through(config(steps(own ? 'a.public.orders' : 'b.public.orders')), inputs);
          const found = [...(await projected(broker, 't')).values()];
          const expected = [...a.rows.values()].map(([id, status, qty, doc]) => {
            const asked = String(Number(qty) + 1);
            const other = (own ? a : b).rows.get(asked);
            return { id, status, qty, doc, asked, found: other?.[1] ?? null, document: other?.[3] ?? null };
          });
          const byId = (x: { id?: Cell }, y: { id?: Cell }) => Number(x.id) - Number(y.id);
          expect(found.toSorted(byId)).toEqual(expected.filter((row) => row.found !== 'paid').toSorted(byId));
        }
        await rm(folder, { recursive: true, force: true });
      }),
      { numRuns: 6 },
    );
  });

  it('refuses to look up what cannot be', async () => {
    const lookup = (on: Record<string, string>, set: Record<string, string>): TransformStep[] => [
      { kind: 'lookup', lookup: { table: 'a.public.orders', on, set } },
    ];
    const refused = async (steps: TransformStep[]) => {
      broker = memoryBroker();
      const a = await Source.open(broker, 'a');
      await a.commit([{ id: 1, to: 1, status: 'new', qty: 1, doc: 1 }]);
      return expect(through(config(steps), ['a'])).rejects;
    };
    await (await refused(lookup({ status: 'status' }, { x: 'doc' }))).toThrow(
      /step 1 \(lookup\).*"on" must name the key of a.public.orders: id/,
    );
    await (await refused(lookup({ id: 'status' }, { x: 'doc' }))).toThrow(
      /a.public.orders.id is of type INTEGER, but "status" of VARCHAR: cast it/,
    );
    await (await refused(lookup({ id: 'qty' }, { x: 'docs' }))).toThrow(/a.public.orders has no column "docs"/);
  });

  it('tells its whole result anew when its steps change, and sweeps what is no more', async () => {
    const a = await Source.open(broker, 'a');
    for (const id of [1, 2, 3]) await a.commit([{ id, to: id, status: id === 3 ? 'draft' : 'new', qty: id, doc: id }]);
    await through(config([filter]), ['a']);
    const other: TransformStep[] = [
      { kind: 'filter', condition: 'qty > 1' },
      { kind: 'set', columns: { twice: 'qty * 2' }, when: null },
    ];
    await through(config(other), ['a']);
    const rows = [...(await projected(broker, 't')).values()];
    expect(rows.map(({ id, twice }) => [id, twice])).toEqual([
      ['2', '4'],
      ['3', '6'],
    ]);
    const before = (await broker.changelogs.last('t'))?.seq ?? 0;
    await through(config(other), ['a']);
    expect(((await broker.changelogs.last('t'))?.seq ?? 0) - before).toBeLessThan(4);
  });

  it('shows of several rows with one key the one that was written last, and another when that goes', async () => {
    const [a, b] = [await Source.open(broker, 'a'), await Source.open(broker, 'b')];
    const merged = config([{ kind: 'set', columns: { shard: 'source' }, when: null }], ['a.public.orders', 'b.public.orders']);
    const shards = async () => {
      await through(merged, ['a', 'b']);
      return [...(await projected(broker, 't')).values()].map(({ id, shard }) => `${id} ${shard}`);
    };
    await a.commit([{ id: 1, to: 1, status: 'new', qty: 1, doc: 1 }]);
    await b.commit([{ id: 7, to: 7, status: 'new', qty: 1, doc: 1 }]);
    await b.commit([{ id: 1, to: 1, status: 'new', qty: 1, doc: 1 }]);
    expect((await shards()).toSorted()).toEqual(['1 b', '7 b']);
    await a.commit([{ id: 1, to: null, status: 'new', qty: 1, doc: 1 }]);
    expect((await shards()).toSorted()).toEqual(['1 b', '7 b']);
    await a.commit([{ id: 1, to: 1, status: 'new', qty: 1, doc: 1 }]);
    await b.commit([{ id: 1, to: null, status: 'new', qty: 1, doc: 1 }]);
    expect((await shards()).toSorted()).toEqual(['1 a', '7 b']);
  });
});
