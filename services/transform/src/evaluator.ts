import { JoinedColumn } from '@tributary/changelog';
import { type Column, Fault, tableName } from '@tributary/core';
import { type Duck, type DuckDBValue, hasMarks, listValue, load, type Loaded, type Prepared } from '@tributary/duckdb';
import { ModuleFailure, type ModuleStage } from './module.ts';
import { columnOf, pick } from './pick.ts';
import type { PlanColumn, Steps } from './plan.ts';
import { joinedColumn, listColumn } from './read-columns.ts';
import { type LoadKind, type Ref, ROWS, SqlStage } from './sql-stage.ts';

/** Rows of one table, column by column. */
export interface Rows {
  readonly rows: number;
  /** One a column of the plan's input; cells that are not known count as NULL. */
  readonly columns: readonly Column[];
  /** Where a row stands in its changelog, for people. */
  readonly placeOf: (row: number) => string;
}

/** What the steps made of them. */
export interface Evaluated {
  /** Rows that passed, in order; null = all of them. */
  readonly kept: Int32Array | null;
  readonly rows: number;
  /** One a column of the plan, with a cell for every row that passed. */
  readonly columns: readonly Column[];
  /** Per row that passed the number of its target; null = it goes to each. */
  readonly route: readonly number[] | null;
}

/**
 * Sends rows through the steps of a plan, a section at a time and column by column. Columns that no step touches never
 * enter DuckDB; the others go in as one string each, and come back as one.
 */
export class Evaluator {
  readonly #duck: Duck;
  readonly #name: string;
  readonly #prepared = new Map<SqlStage, Map<string, Promise<Prepared>>>();

  /** @param name of the transform */
  constructor(duck: Duck, name: string) {
    this.#duck = duck;
    this.#name = name;
  }

  /** @throws Fault `poison` naming step, table and position of a row whose value cannot be computed */
  async evaluate(plan: Steps, given: Rows): Promise<Evaluated> {
    let kept: Int32Array | null = null;
    let rows = given.rows;
    let slots: Column[] = [];
    const picked = new Map<number, Column>();
    const at = (ref: Ref): Column => {
      if ('slot' in ref) return slots[ref.slot] as Column;
      const column = given.columns[ref.input] as Column;
      if (!kept) return column;
      const known = picked.get(ref.input) ?? pick(column, kept);
      picked.set(ref.input, known);
      return known;
    };
    const placeOf = (row: number) => given.placeOf(kept ? (kept[row] as number) : row);
    for (const stage of plan.stages) {
      if (rows === 0) break;
      const columns = stage.loads.map(({ ref }) => at(ref));
      const into = { rows, columns, placeOf };
      const result = stage instanceof SqlStage ? await this.#run(plan, stage, into) : await this.#module(plan, stage, into);
      const { left } = result;
      if (left) {
        slots = slots.map((column) => pick(column, left));
        picked.clear();
        const before: Int32Array | null = kept;
        kept = before ? left.map((row) => before[row] as number) : left;
        rows = left.length;
      }
      stage.given.forEach(({ slot }, i) => (slots[slot] = result.columns[i] as Column));
    }
    if (rows === 0)
      return { kept: new Int32Array(), rows: 0, columns: plan.columns.map(() => new JoinedColumn('', 0)), route: null };
    const route = plan.route ? at(plan.route.ref).values().map(Number) : null;
    return { kept, rows, columns: plan.columns.map((column: PlanColumn) => at(column.ref)), route };
  }

  async #run(plan: Steps, stage: SqlStage, given: Rows): Promise<{ left: Int32Array | null; columns: Column[] }> {
    const loaded = given.columns.map(load);
    try {
      const answer = await this.#ask(stage, loaded, { rows: given.rows, lists: false });
      return (await this.#columns(stage, answer, { loaded, rows: given.rows })) as { left: Int32Array | null; columns: Column[] };
    } catch (error) {
      if (!(error instanceof Fault) || error.kind !== 'database_rejected') throw error;
      throw await this.#located(plan, stage, given, error);
    }
  }

  async #module(plan: Steps, stage: ModuleStage, given: Rows): Promise<{ left: Int32Array | null; columns: Column[] }> {
    try {
      const made = await stage.run(given.columns, given.rows);
      const passed = made.flatMap((cells, row) => (cells ? [row] : []));
      const columns = stage.given.map((_, c) => columnOf(passed.map((row) => made[row]?.[c])));
      return { left: passed.length === given.rows ? null : Int32Array.from(passed), columns };
    } catch (error) {
      if (!(error instanceof ModuleFailure)) throw error;
      throw await this.#failed(plan, stage, given, error);
    }
  }

  /** Finds the first row that a module fails on alone; where it does so only on several together, the first of them. */
  async #failed(plan: Steps, stage: ModuleStage, given: Rows, failure: ModuleFailure): Promise<Fault> {
    let [found, why] = [0, failure];
    for (let row = 0; row < given.rows && why === failure; row++) {
      const one = given.columns.map((column) => pick(column, [row]));
      await stage.run(one, 1).catch((error: unknown) => {
        if (error instanceof ModuleFailure) [found, why] = [row, error];
      });
    }
    const table = `${plan.source}.${tableName(plan.input)}`;
    return new Fault(
      'poison',
      `transform ${this.#name}, step ${stage.step + 1} (${stage.file}), table ${table}, at ${given.placeOf(found)}: ${why.message}`,
      { transform: this.#name, table, step: stage.step + 1 },
    );
  }

  async #ask(stage: SqlStage, loaded: readonly Loaded[], how: { rows: number; lists: boolean }): Promise<readonly DuckDBValue[]> {
    const kinds = kindsOf(loaded);
    const variant = `${kinds.join()} ${how.lists}`;
    let variants = this.#prepared.get(stage);
    if (!variants) this.#prepared.set(stage, (variants = new Map()));
    let prepared = variants.get(variant);
    if (!prepared) variants.set(variant, (prepared = this.#duck.prepare(stage.statement(kinds, how.lists))));
    return (await prepared).first(valuesOf(loaded, how.rows));
  }

  async #columns(
    stage: SqlStage,
    answer: readonly DuckDBValue[],
    { loaded, rows }: { loaded: readonly Loaded[]; rows: number },
  ): Promise<{ left: Int32Array | null; columns: Column[] }> {
    const left = stage.filters ? indices(answer[0] as string | null) : null;
    const count = left?.length ?? rows;
    const columns = stage.given.map((_, i) => joinedColumn(answer[1 + 2 * i], count, answer[2 + 2 * i]));
    if (!columns.includes(null)) return { left, columns: columns as Column[] };
    const lists = await this.#ask(stage, loaded, { rows, lists: true });
    return { left, columns: stage.given.map((_, i) => listColumn(lists[1 + 2 * i])) };
  }

  /** Finds the row and the step by doing ever less of the work. */
  async #located(plan: Steps, stage: SqlStage, given: Rows, fault: Fault): Promise<Fault> {
    let from = 0;
    let to = given.rows;
    const slice = (a: number, b: number) => given.columns.map((column) => load(pick(column, range(a, b))));
    while (to - from > 1) {
      const middle = (from + to) >> 1;
      if (await this.#fails(stage.statement, stage, { loaded: slice(from, middle), rows: middle - from })) to = middle;
      else from = middle;
    }
    const loaded = slice(from, from + 1);
    const kinds = kindsOf(loaded);
    let step: number | null = null;
    for (const probe of stage.probes(kinds)) {
      if (!(await this.#fails(() => probe.sql, stage, { loaded, rows: 1 }))) continue;
      step = probe.step;
      break;
    }
    const where = step === null ? '' : `, step ${step + 1}`;
    const table = `${plan.source}.${tableName(plan.input)}`;
    return new Fault(
      'poison',
      `transform ${this.#name}${where}, table ${table}, at ${given.placeOf(from)}: a value cannot be computed (${fault.message})`,
      { transform: this.#name, table, step: step === null ? null : step + 1 },
    );
  }

  async #fails(
    statement: SqlStage['statement'],
    stage: SqlStage,
    { loaded, rows }: { loaded: readonly Loaded[]; rows: number },
  ): Promise<boolean> {
    const kinds = kindsOf(loaded);
    try {
      const prepared = await this.#duck.prepare(statement.call(stage, kinds, true));
      try {
        await prepared.first(valuesOf(loaded, rows));
      } finally {
        prepared.close();
      }
      return false;
    } catch (error) {
      if (error instanceof Fault && error.kind === 'database_rejected') return true;
      throw error;
    }
  }
}

/** All bare or none, so that there are few statements to prepare. */
function kindsOf(loaded: readonly Loaded[]): LoadKind[] {
  const bare = loaded.every((one) => !('text' in one) || !hasMarks(one.text));
  return loaded.map((one) => (!('text' in one) ? 'list' : bare ? 'bare' : 'text'));
}

function valuesOf(loaded: readonly Loaded[], rows: number): Record<string, DuckDBValue> {
  const values: Record<string, DuckDBValue> = { [ROWS]: rows };
  loaded.forEach((one, c) => (values[`c${c}`] = 'text' in one ? one.text : listValue(one.list)));
  return values;
}

function indices(text: string | null): Int32Array {
  return text === null ? new Int32Array() : Int32Array.from(text.split(','), Number);
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}
