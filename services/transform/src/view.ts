import { schemaVersion } from '@tributary/changelog';
import { lookupsOf, readsTable, type TransformConfig, wantsTable } from '@tributary/config';
import { type Cell, type Column, Op, type SnapshotMark, tableName, type TableSchema } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { NetChanges } from '@tributary/projection';
import type { Machinery } from './engine.ts';
import { KeylessFold } from './keyless-fold.ts';
import { pick } from './pick.ts';
import type { Plan } from './plan.ts';
import { ResultState } from './result-state.ts';
import type { Piece, Run } from './run.ts';
import { SqlStage } from './sql-stage.ts';
import { keptRows, keyText, type NewRow, TableState } from './table-state.ts';
import { type OutputState, readVector, type Vector, writeVector } from './vector.ts';

const SETUP = [
  `SET checkpoint_threshold = '1GB'`,
  'CREATE SCHEMA IF NOT EXISTS _in',
  'CREATE SCHEMA IF NOT EXISTS _out',
  'CREATE SCHEMA IF NOT EXISTS _seen',
  'CREATE TABLE IF NOT EXISTS place (definition VARCHAR, inputs VARCHAR)',
  'CREATE TABLE IF NOT EXISTS shapes (id VARCHAR, input VARCHAR, schema VARCHAR, version VARCHAR, seen BOOLEAN)',
  'CREATE TABLE IF NOT EXISTS results (name VARCHAR, schema VARCHAR)',
];
const PAGE_ROWS = 4_000;

/** A table of an input that is known, and what happens to its rows; nothing (null), where it is only looked up in. */
interface Entered {
  readonly state: TableState;
  readonly plan: Plan | null;
}

/**
 * The result as a view of the inputs, kept up to date: every row of every input, what the steps make of it, and which of
 * several rows with one key counts. Changes are applied to the inputs' rows, and what is another in the result then
 * is what goes out. So filters, unchanged TOAST, moved keys, sweeps and truncations need no rule of their own.
 *
 * It is a cache: every bit of it comes out of the inputs again, and it never holds more than the changelog does (the
 * caller commits behind the append).
 */
export class View {
  readonly #duck: Duck;
  readonly #transform: TransformConfig;
  readonly #machinery: Machinery;
  readonly #tables = new Map<string, Entered>();
  /** Tables that are looked up in, `SOURCE.SCHEMA.TABLE`. */
  readonly #lookups: ReadonlySet<string>;
  readonly #results = new Map<string, ResultState>();
  /** Where the changes stand that are being applied, for people. */
  #at = '';
  /** Results that look different since they were last told as a whole. */
  readonly #reshaped = new Set<string>();
  /** Results that came to be since. */
  readonly #begun = new Set<string>();

  private constructor(duck: Duck, transform: TransformConfig, machinery: Machinery) {
    this.#duck = duck;
    this.#transform = transform;
    this.#machinery = machinery;
    this.#lookups = new Set(lookupsOf(transform));
  }

  /** @returns also where it stands; null when it is empty, or was made by other steps: then it is emptied */
  static async open(
    duck: Duck,
    {
      transform,
      machinery,
      definition,
      inputs,
    }: { transform: TransformConfig; machinery: Machinery; definition: string; inputs: readonly string[] },
  ): Promise<{ view: View; vector: Vector | null }> {
    for (const statement of SETUP) await duck.run(statement);
    const view = new View(duck, transform, machinery);
    const [place] = await duck.rows<{ definition: string; inputs: string }>('SELECT * FROM place');
    if (place?.definition !== definition) {
      await view.empty();
      return { view, vector: null };
    }
    await view.#load();
    return { view, vector: readVector(JSON.parse(place.inputs) as OutputState['inputs'], inputs) };
  }

  /** Results that look different since, or came to be without a row; each told once. */
  async takeReshaped(): Promise<string[]> {
    const names = new Set(this.#reshaped);
    for (const name of this.#begun) if (await this.#results.get(name)?.empty()) names.add(name);
    this.#reshaped.clear();
    this.#begun.clear();
    return [...names];
  }

  /** Tables that are looked up in and of which nothing is known yet. */
  unknown(): string[] {
    return [...this.#lookups].filter((id) => !this.#tables.has(id));
  }

  /** Takes on a table that is looked up in, before the first row of it. */
  async know(id: string, schema: TableSchema): Promise<void> {
    await this.#entered(id.split('.')[0] as string, { schema, version: schemaVersion(schema) });
  }

  get results(): readonly ResultState[] {
    return [...this.#results.values()];
  }

  async empty(): Promise<void> {
    const tables = await this.#duck.rows<{ name: string }>(
      `SELECT table_schema || '.' || '"' || replace(table_name, '"', '""') || '"' AS name FROM information_schema.tables WHERE table_schema IN ('_in', '_out', '_seen')`,
    );
    for (const { name } of tables) await this.#duck.run(`DROP TABLE ${name}`);
    for (const table of ['shapes', 'results', 'place']) await this.#duck.run(`DELETE FROM ${table}`);
    this.#tables.clear();
    this.#results.clear();
  }

  async #load(): Promise<void> {
    for (const { schema } of await this.#duck.rows<{ schema: string }>('SELECT * FROM results ORDER BY name'))
      await this.#result(JSON.parse(schema) as TableSchema);
    type Shape = { input: string; schema: string; version: string; seen: boolean };
    const shapes = await this.#duck.rows<Shape & { id: string }>('SELECT * FROM shapes ORDER BY id');
    for (const { id, schema } of shapes.filter((one) => this.#lookups.has(one.id)))
      this.#machinery.plans.know(id, JSON.parse(schema) as TableSchema);
    for (const { input, schema, version, seen } of shapes)
      await this.#enter({ input, schema: JSON.parse(schema) as TableSchema, version, seen });
  }

  async #result(schema: TableSchema): Promise<void> {
    const made = new ResultState(this.#duck, schema);
    await made.create();
    await made.begin();
    this.#results.set(made.name, made);
  }

  /** Every result has at least the columns that a plan gives it. */
  async #widen(plan: Plan): Promise<void> {
    for (const { schema } of plan.targets) {
      const name = tableName(schema);
      const result = this.#results.get(name);
      if (!result) {
        await this.#result(schema);
        this.#begun.add(name);
      } else if (await result.widen(schema)) {
        await result.begin();
        this.#reshaped.add(name);
      } else continue;
      await this.#duck.run('DELETE FROM results WHERE name = $1', [name]);
      await this.#duck.run('INSERT INTO results VALUES ($1, $2)', [name, JSON.stringify(this.#results.get(name)?.schema)]);
    }
  }

  async begin(): Promise<void> {
    await this.#duck.run('BEGIN');
  }

  /** @param vector what it holds then, in one transaction with the rows */
  async commit(definition: string, vector: Vector): Promise<void> {
    await this.#duck.run('DELETE FROM place');
    await this.#duck.run('INSERT INTO place VALUES ($1, $2)', [definition, JSON.stringify(writeVector(vector))]);
    await this.#duck.run('COMMIT');
  }

  /** From here on it is noted what changes in the result. */
  async note(): Promise<void> {
    for (const result of this.#results.values()) await result.begin();
  }

  /** Applies what came in. */
  async apply(input: string, { batches, pieces, transactions }: Run): Promise<void> {
    const mark = batches[0]?.header.kind === 'read' ? (batches[0].header.mark ?? null) : null;
    for (const piece of pieces) {
      if (piece.rows > 0) this.#at = `${piece.placeOf(0)} or behind`;
      const entered = await this.#entered(input, piece);
      await this.#change(entered, {
        piece,
        atOf: (row) => transactions[piece.transactions[row] as number]?.committedAt ?? null,
      });
    }
    if (mark) await this.#mark(input, mark);
  }

  async #mark(input: string, { step, table }: SnapshotMark): Promise<void> {
    const known = this.#tables.get(`${input}.${table}`);
    if (!known || !readsTable(this.#transform, input, table)) return;
    const { state } = known;
    if (step === 'begin' && state.keyless) {
      // Nothing tells its rows apart: those that were there go, and come again.
      return this.#empty(known);
    }
    if (step === 'begin') await state.beginSeen();
    else if (step === 'end' && state.seen) {
      await state.choose(`NOT EXISTS (SELECT 1 FROM ${state.named} s WHERE s.k = r.k)`, { gone: true });
      await this.#settle(known);
      await state.endSeen();
    } else return;
    await this.#duck.run('UPDATE shapes SET seen = $2 WHERE id = $1', [state.id, state.seen]);
  }

  async #entered(input: string, { schema, version }: Pick<Piece, 'schema' | 'version'>) {
    const id = `${input}.${tableName(schema)}`;
    const known = this.#tables.get(id);
    if (known?.state.version === version) return known;
    if (this.#lookups.has(id)) this.#machinery.plans.know(id, schema);
    const entered = await this.#enter({ input, schema, version, seen: known?.state.seen ?? false });
    const { state, plan } = entered;
    if (plan) await this.#widen(plan);
    if (known) {
      // What came of its rows is found by their old keys.
      if (known.plan && known.state.key.join() !== state.key.join()) {
        await known.state.choose('true', { gone: true });
        for (const result of this.#resultsOf(known.plan)) await result.take(state.id);
      }
      await state.reshape(known.state.schema);
      await this.#duck.run('DELETE FROM shapes WHERE id = $1', [state.id]);
    } else await state.create();
    await this.#duck.run('INSERT INTO shapes VALUES ($1, $2, $3, $4, $5)', [
      state.id,
      input,
      JSON.stringify(schema),
      version,
      state.seen,
    ]);
    if (known && plan) {
      await state.choose('true', { gone: false });
      await this.#compute(entered);
    }
    if (known && this.#lookups.has(id)) await this.#planAgain(id);
    return entered;
  }

  /** A table that is looked up in has another shape: so may have what is made of the rows that look it up. */
  async #planAgain(id: string): Promise<void> {
    for (const { state, plan } of this.#tables.values()) {
      if (!plan || referring(plan, state, id).length === 0) continue;
      const input = plan.source;
      const again = await this.#enter({ input, schema: state.schema, version: state.version, seen: state.seen });
      await this.#widen(again.plan as Plan);
      await again.state.choose('true', { gone: false });
      await this.#compute(again);
    }
  }

  async #enter(shape: { input: string; schema: TableSchema; version: string; seen: boolean }) {
    const wanted = wantsTable(this.#transform, shape.input, tableName(shape.schema));
    const plan = wanted ? await this.#machinery.plans.of(shape.input, shape.schema, shape.version) : null;
    const entered: Entered = { state: new TableState(this.#duck, shape), plan };
    this.#tables.set(entered.state.id, entered);
    return entered;
  }

  /** All rows of a table go. */
  async #empty(entered: Entered): Promise<void> {
    await entered.state.choose('true', { gone: true });
    await this.#settle(entered);
  }

  /** Folds the changes of a piece to the last one a key, and applies them. */
  async #change(entered: Entered, { piece, atOf }: { piece: Piece; atOf: (row: number) => number | null }): Promise<void> {
    const { state } = entered;
    if (state.keyless) return this.#changeKeyless(entered, { piece, atOf });
    const net = new NetChanges(state.key);
    const ats = new Map<string, number | null>();
    const flush = () => this.#flush(entered, { net, ats });
    for (const { row, op, cells, old } of changesOf(piece)) {
      if (op === Op.truncated) {
        await flush();
        await this.#empty(entered);
        continue;
      }
      ats.set(net.keyOf(cells), op === Op.read || op === Op.kept ? null : atOf(row));
      if (op === Op.deleted) net.delete(cells);
      else if (op === Op.kept) net.fill(cells);
      else if (op === Op.updated && old) await this.#update(state, { net, flush, old, cells });
      else net.put(cells);
    }
    await flush();
  }

  /** Of a table without a key: rows come, and one of those that are as the old row is goes. */
  async #changeKeyless(entered: Entered, { piece, atOf }: { piece: Piece; atOf: (row: number) => number | null }): Promise<void> {
    const { state } = entered;
    const fold = new KeylessFold();
    const flush = async () => {
      const { gone, come } = fold.take();
      const [keys, serials] = [await state.equals(gone), await state.serials(come.length)];
      if (keys.length + come.length === 0) return;
      await state.load([
        ...keys.map((key) => ({ key, cells: null, at: null })),
        ...come.map((row, i) => ({ key: serials[i] as string, ...row })),
      ]);
      await this.#settle(entered);
    };
    for (const { row, op, cells, old } of changesOf(piece)) {
      if (op === Op.truncated) {
        await flush();
        await this.#empty(entered);
      } else if (op === Op.deleted) fold.delete(cells);
      // Fills what is there, and nothing tells which row that is.
      else if (op !== Op.kept) {
        if (old) fold.delete(old);
        const whole = cells.map((cell, c) => (cell === undefined ? (old?.[c] ?? null) : cell));
        fold.put(whole, op === Op.read ? null : atOf(row));
      }
    }
    await flush();
  }

  /** An update with its old row: cells left out are those of the old row, also where it had another key. */
  async #update(
    state: TableState,
    { net, flush, old, cells }: { net: NetChanges; flush: () => Promise<void>; old: Cell[]; cells: Cell[] },
  ): Promise<void> {
    const complete = cells.map((cell, c) => (cell === undefined && !state.key.includes(c) ? old[c] : cell));
    if (net.keyOf(old) === net.keyOf(cells)) return net.put(complete);
    if (net.move(old, complete)) return;
    await flush();
    const key = keyText(old, state.key);
    const stored = (await state.find([key])).get(key);
    net.delete(old);
    net.put(complete.map((cell, c) => (cell === undefined ? (stored?.[c] ?? null) : cell)));
  }

  async #flush(entered: Entered, { net, ats }: { net: NetChanges; ats: Map<string, number | null> }): Promise<void> {
    if (net.size === 0) return;
    const { state } = entered;
    const { deleted, rows, keys } = net.take();
    const told = (key: string) => ats.get(key) ?? null;
    const changes: NewRow[] = deleted.map((key) => ({ key: key, cells: null, at: told(key) }));
    const partial = rows.flatMap(({ row, fill }, i) => (fill || row?.includes(undefined) ? [keys[i] as string] : []));
    const before = partial.length > 0 ? await state.find(partial) : new Map<string, Cell[]>();
    for (const [i, { row, fill }] of rows.entries()) {
      const key = keys[i] as string;
      const old = before.get(key);
      // Only fills what is there.
      if (fill && !old) continue;
      const cells = (row as Cell[]).map((cell, c) => (cell === undefined ? (old?.[c] ?? null) : cell));
      changes.push({ key, cells, at: fill ? null : told(keys[i] as string) });
    }
    await state.load(changes);
    await this.#settle(entered);
    await state.note(rows.flatMap(({ fill }, i) => (fill ? [keys[i] as string] : [])));
  }

  /** What stands in `touched` and `fresh` goes through the steps, into the state and the result; so do rows that look it up. */
  async #settle(entered: Entered): Promise<void> {
    const { id } = entered.state;
    if (!this.#lookups.has(id)) return this.#compute(entered);
    await entered.state.look();
    await this.#compute(entered);
    for (const one of this.#tables.values()) {
      const asked = one.plan ? referring(one.plan, one.state, id) : [];
      if (asked.length === 0) continue;
      await one.state.choose(`r.k IN (${asked.join(' UNION ')})`, { gone: false });
      await this.#compute(one);
    }
  }

  #resultsOf({ targets }: Plan): ResultState[] {
    return targets.map(({ schema }) => this.#results.get(tableName(schema)) as ResultState);
  }

  async #compute({ state, plan }: Entered): Promise<void> {
    if (!plan) return state.store();
    const results = this.#resultsOf(plan);
    for (const result of results) await result.take(state.id);
    for await (const { rows, keys, ats, columns } of state.fresh(PAGE_ROWS)) {
      const evaluated = await this.#machinery.evaluator.evaluate(plan, { rows, columns, placeOf: () => this.#at });
      const { kept, route } = evaluated;
      for (const [t, target] of plan.targets.entries()) {
        const chosen = route ? [...route.keys()].filter((row) => route[row] === t) : null;
        const own = (c: number) => (chosen ? pick(evaluated.columns[c] as Column, chosen) : (evaluated.columns[c] as Column));
        const passed = chosen ?? [...Array(evaluated.rows).keys()];
        const origin = passed.map((row) => (kept ? (kept[row] as number) : row));
        await results[t]?.add(state.id, {
          rows: passed.length,
          schema: target.schema,
          columns: target.columns.map(own),
          from: pick(keys, origin),
          ats: pick(ats, origin),
        });
      }
    }
    await state.store();
  }
}

/** `old`: the whole old row, where the change names one. */
function* changesOf(piece: Piece) {
  const columns = piece.columns.map((column) => column.values());
  const olds = piece.old?.columns.map((column) => column.values()) ?? [];
  const oldAt = new Map([...(piece.old?.row ?? [])].map((row, i) => [row, i]));
  for (let row = 0; row < piece.rows; row++) {
    const i = oldAt.get(row);
    yield {
      row,
      op: piece.ops[row],
      cells: columns.map((column) => column[row]),
      old: i === undefined ? null : olds.map((column) => column[i]),
    };
  }
}

/** Statements for the keys of the rows of a table that look up what stands in `looked`. */
function referring({ stages }: Plan, state: TableState, id: string): string[] {
  return stages.flatMap((stage) =>
    stage instanceof SqlStage ? stage.referring(state.rows, { rows: keptRows(id), keys: 'looked' }) : [],
  );
}
