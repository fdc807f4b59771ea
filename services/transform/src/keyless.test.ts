import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Broker, type ChangelogWriter, memoryBroker, SectionDraft } from '@tributary/changelog';
import type { TransformConfig, TransformStep } from '@tributary/config';
import { askOne, type Cell, Op, ORIGIN, systemClock, systemRandom, type TableSchema } from '@tributary/core';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { rowsAt } from './rows.ts';
import { namedType, type SqlType } from './sql-types.ts';
import { TransformActor } from './transform-actor.ts';
import { verifyTransform } from './verify.ts';

const schema: TableSchema = {
  schema: 'public',
  table: 'events',
  identity: 'full',
  columns: ['kind', 'note'].map((name) => {
    const { type, typmod, sqlType } = namedType('text') as SqlType;
    return { name, type, typmod, sqlType, key: 0 };
  }),
};

type Row = readonly Cell[];
type Change =
  | { readonly op: 'insert'; readonly row: Row }
  /** Of the rows that are there, by number. */
  | { readonly op: 'delete'; readonly at: number }
  | { readonly op: 'update'; readonly at: number; readonly row: Row }
  | { readonly op: 'truncate' };

/** A table without a key, whose changes name old rows as a whole. */
class Source {
  rows: Row[] = [];
  schema = schema;
  seq = 0;
  #lsn = 100n;
  #read = 0;
  readonly #name: string;
  readonly #writer: ChangelogWriter;

  private constructor(name: string, writer: ChangelogWriter) {
    this.#name = name;
    this.#writer = writer;
  }

  static async open(broker: Broker, name: string): Promise<Source> {
    const source = new Source(name, await broker.changelogs.write(name, { replicas: 1, maxAgeMs: 0, maxBytes: 0 }));
    await broker.bus.serve(`tributary.source.${name}.barrier`, async function* () {
      yield { seq: source.seq, tables: ['public.events'], shapes: [source.schema] };
    });
    return source;
  }

  async commit(changes: readonly Change[]): Promise<void> {
    const draft = new SectionDraft(this.schema);
    const put = (op: (typeof Op)[keyof typeof Op], cells: Row, old?: Row) => {
      cells.forEach((cell, c) => draft.cells[c]?.push(cell));
      if (old) draft.oldCells().forEach((column, c) => column.push(old[c]));
      draft.row(op, 0, draft.rows + 1);
    };
    for (const change of changes) {
      const at = 'at' in change ? change.at % Math.max(1, this.rows.length) : 0;
      const old = this.rows[at];
      if (change.op === 'truncate') {
        this.rows = [];
        put(Op.truncated, [undefined, undefined]);
      } else if (change.op === 'insert') {
        this.rows.push(change.row);
        put(Op.created, change.row);
      } else if (old && change.op === 'delete') {
        this.rows.splice(at, 1);
        put(Op.deleted, old, old);
      } else if (old && change.op === 'update') {
        const row = [change.row[0], old[1]];
        this.rows[at] = row;
        // What did not change is not sent: it stands in the old row.
        put(Op.updated, [change.row[0], undefined], old);
      }
    }
    if (draft.rows === 0) return;
    this.#lsn += 10n;
    const at = Number(this.#lsn);
    await this.#append(draft, {
      kind: 'stream',
      position: { lsn: this.#lsn, ordinal: draft.rows },
      transactions: [{ lsn: this.#lsn, endLsn: this.#lsn + 5n, xid: at, committedAt: at }],
      mark: null,
    });
  }

  async snapshot(): Promise<void> {
    const draft = new SectionDraft(this.schema);
    for (const row of this.rows) {
      row.forEach((cell, c) => draft.cells[c]?.push(cell));
      draft.row(Op.read, 0, draft.rows + 1);
    }
    for (const step of ['begin', 'chunk', 'end'] as const) {
      const position = { lsn: this.#lsn, ordinal: 2 ** 32 + ++this.#read };
      const mark = { table: 'public.events', generation: this.#read, reset: true, step };
      await this.#append(step === 'chunk' ? draft : null, { kind: 'read', position, transactions: [], mark });
    }
  }

  async #append(draft: SectionDraft | null, header: object): Promise<void> {
    const watermark = Number(this.#lsn);
    const rest = { source: this.#name, epoch: 'e', restart: 0n, watermark, continues: false, more: false, state: null };
    this.seq = await this.#writer.append({ header: { ...rest, ...header } as never, sections: draft ? [draft] : [] });
  }
}

/** What somebody holds that has read all of a changelog: rows as text, sorted. */
async function projected(broker: Broker, name: string): Promise<string[]> {
  const rows: string[] = [];
  const last = await broker.changelogs.last(name);
  const remove = (row: string) => {
    const at = rows.indexOf(row);
    expect(at, `a row that nobody has: ${row}`).not.toBe(-1);
    rows.splice(at, 1);
  };
  const { signal } = new AbortController();
  for await (const { header, sections, seq } of broker.changelogs.read(name, { after: ORIGIN, signal })) {
    if (header.mark?.step === 'begin') {
      expect(header.mark.reset).toBe(true);
      rows.length = 0;
    }
    for (const section of sections) {
      const olds = new Map([...(section.old?.row ?? [])].map((row, i) => [row, i]));
      for (let row = 0; row < section.rows; row++) {
        const op = section.ops[row];
        const cells = section.columns.map((column) => column.values()[row]);
        const i = olds.get(row);
        const old = i === undefined ? null : (section.old?.columns ?? []).map((column) => column.values()[i]);
        if (op === Op.truncated) rows.length = 0;
        else if (op === Op.deleted) remove(JSON.stringify(cells));
        else {
          if (op === Op.updated) remove(JSON.stringify(old));
          rows.push(JSON.stringify(cells.map((cell, c) => (cell === undefined ? (old?.[c] ?? null) : cell))));
        }
      }
    }
    if (seq === last?.seq) break;
  }
  return rows.toSorted();
}

const anyRow = fc.tuple(fc.constantFrom('a', 'b', 'c'), fc.constantFrom(null, 'x'));
const anyChange: fc.Arbitrary<Change> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ op: fc.constant('insert' as const), row: anyRow }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('delete' as const), at: fc.nat(9) }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('update' as const), at: fc.nat(9), row: anyRow }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('truncate' as const) }) },
);

const filter: TransformStep = { kind: 'filter', condition: `kind <> 'c'` };
const upper: TransformStep = { kind: 'set', columns: { note: `upper(note)` }, when: null };
const made = (rows: readonly Row[]) =>
  rows
    .filter(([kind]) => kind !== 'c')
    .map(([kind, note]) => JSON.stringify([kind, note?.toUpperCase() ?? null]))
    .toSorted();

describe('a transform of tables without a key', () => {
  let broker: Broker;
  let folder: string;
  let key: readonly string[] | null;
  beforeEach(async () => {
    key = null;
    broker = memoryBroker();
    folder = await mkdtemp(join(tmpdir(), 'tributary-keyless-'));
  });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const config = (steps: readonly TransformStep[], inputs: readonly string[] = ['a']): TransformConfig => ({
    name: 't',
    from: inputs.map((input) => `${input}.public.events`),
    steps,
    places: [],
    ...(key && { key }),
    ...(inputs.length > 1 ? { to: 'public.events' } : {}),
  });

  async function through(steps: readonly TransformStep[], inputs: readonly string[] = ['a']): Promise<void> {
    const parts = { ...broker, changelog: { replicas: 1, maxAgeMs: 0, maxBytes: 0 }, clock: systemClock, random: systemRandom };
    const actor = new TransformActor({ config: config(steps, inputs), inputs, ...parts, folder, warn: () => {} });
    const stop = new AbortController();
    let ended: Promise<void> = Promise.resolve();
    await new Promise<void>((ready, failed) => {
      ended = actor.run(stop.signal, ready);
      ended.catch(failed);
    });
    await askOne(broker.bus, 'tributary.source.t.barrier', {});
    stop.abort();
    await ended;
  }

  async function verified(steps: readonly TransformStep[], inputs: readonly string[] = ['a']) {
    const given = { config: config(steps, inputs), inputs, ...broker, signal: new AbortController().signal };
    const tables = [];
    for await (const one of verifyTransform(given, {})) tables.push(one);
    return tables;
  }

  async function held(): Promise<string[]> {
    const last = await broker.changelogs.last('t');
    const at = { seq: last?.seq ?? 0, ...(last?.header.position ?? ORIGIN) };
    const options = { config: config([filter]), broker, signal: new AbortController().signal };
    const rows: string[] = [];
    for await (const part of rowsAt(options, { tables: ['public.events'], at }))
      for (let row = 0; row < part.rows; row++) rows.push(JSON.stringify(part.columns.map((cells) => cells[row])));
    return rows.toSorted();
  }

  const insert = (...cells: Cell[]): Change => ({ op: 'insert', row: cells });

  it('is verified: of equal rows there must be as many', async () => {
    const a = await Source.open(broker, 'a');
    await a.commit([insert('a', 'x'), insert('a', 'x'), insert('b', null), insert('c', 'x')]);
    await through([filter]);
    const table = { source: 't', table: 'public.events', projection: 'transform' };
    expect(await verified([filter])).toEqual([{ ...table, rows: 3, equal: true, differences: [] }]);
    // As if it had been made by other steps: one row of two is another, one is not there, one is too much.
    const other: TransformStep = { kind: 'filter', condition: `kind <> 'b'` };
    expect(await verified([other])).toEqual([
      {
        ...table,
        rows: 3,
        equal: false,
        differences: [
          { key: 'c,x', problem: 'missing' },
          { key: 'b,', problem: 'extra' },
        ],
      },
    ]);
    // Somebody wrote a row twice.
    const writer = await broker.changelogs.write('t', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
    const { header } = (await broker.changelogs.last('t')) as { header: { position: { lsn: bigint; ordinal: number } } };
    const draft = new SectionDraft(schema);
    ['a', 'x'].forEach((cell, c) => draft.cells[c]?.push(cell));
    draft.row(Op.created, 0, 1);
    const lsn = header.position.lsn + 1n;
    await writer.append({
      header: {
        ...header,
        kind: 'stream',
        mark: null,
        position: { lsn, ordinal: 1 },
        transactions: [{ lsn, endLsn: lsn, xid: 1, committedAt: 1 }],
      } as never,
      sections: [draft],
    });
    await writer.close();
    expect(await verified([filter])).toEqual([
      { ...table, rows: 3, equal: false, differences: [{ key: 'a,x', problem: 'extra' }] },
    ]);
  });

  it('is told anew when its steps are others', async () => {
    const a = await Source.open(broker, 'a');
    await a.commit([insert('a', 'x'), insert('a', 'x'), insert('c', null)]);
    await through([filter]);
    await a.commit([{ op: 'delete', at: 0 }, insert('b', null)]);
    await through([filter, upper]);
    expect(await projected(broker, 't')).toEqual(made(a.rows));
    expect(await verified([filter, upper])).toMatchObject([{ rows: 2, equal: true }]);
  });

  it('knows the rows that it keeps by the key that their table got', async () => {
    key = ['kind'];
    const a = await Source.open(broker, 'a');
    await Source.open(broker, 'b');
    await a.commit([insert('a', 'x'), insert('b', 'x')]);
    await through([filter], ['a', 'b']);
    a.schema = { ...schema, columns: schema.columns.map((column, c) => ({ ...column, key: c === 0 ? 1 : 0 })) };
    await a.commit([{ op: 'delete', at: 0 }]);
    await through([filter], ['a', 'b']);
    expect(await held()).toEqual(['["b","x"]']);
  });

  const history = fc.array(
    fc.record({
      source: fc.nat(1),
      changes: fc.array(anyChange, { minLength: 1, maxLength: 5 }),
      snapshot: fc.boolean(),
      run: fc.boolean(),
      lost: fc.boolean(),
    }),
    { minLength: 1, maxLength: 8 },
  );

  it.each([1, 2])('gives what its steps make of the rows of %i inputs, however it is cut and restarted', async (count) => {
    const inputs = ['a', 'b'].slice(0, count);
    const property = fc.asyncProperty(history, async (steps) => {
      broker = memoryBroker();
      await rm(folder, { recursive: true, force: true });
      const sources: Source[] = [];
      for (const input of inputs) {
        const one = await Source.open(broker, input);
        await one.commit([insert('a', 'x'), insert('a', 'x')]);
        sources.push(one);
      }
      for (const { source, changes, snapshot, run, lost } of steps) {
        const one = sources[source % count] as Source;
        await one.commit(changes);
        if (snapshot) await one.snapshot();
        if (run) await through([filter, upper], inputs);
        if (lost) await rm(folder, { recursive: true, force: true });
      }
      await through([filter, upper], inputs);
      const expected = made(sources.flatMap(({ rows }) => rows));
      expect(await projected(broker, 't')).toEqual(expected);
      expect(await held()).toEqual(expected);
      for (const { equal, rows } of await verified([filter, upper], inputs))
        expect({ equal, rows }).toEqual({ equal: true, rows: expected.length });
    });
    await fc.assert(property, { numRuns: 3 });
  });
});
