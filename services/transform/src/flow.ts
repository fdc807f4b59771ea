import { type Column, Op, Fault, tableName } from '@tributary/core';
import type { Evaluated, Evaluator } from './evaluator.ts';
import { type OutSection, shapeAlone } from './output.ts';
import { columnOf, Gathering, pick, unknownColumn } from './pick.ts';
import type { Plan, PlanColumn, Steps, Target } from './plan.ts';
import type { Piece } from './run.ts';

/**
 * What cannot be known from the changes alone: it needs the rows as they were. Thrown, and caught by who can keep them.
 * No fault: nothing is wrong.
 */
export class StateNeeded extends Error {
  /** @param reason words for the log */
  constructor(reason: string) {
    super(`state is needed: ${reason}`);
  }
}

/** Rows of a piece and old rows of its updates, evaluated together; what did not pass has no place. */
interface Images {
  readonly evaluated: Evaluated;
  /** By row of the input: its row in `evaluated`, or -1. */
  readonly place: Int32Array;
}

interface Emitted {
  readonly op: number;
  /** Row of the piece. */
  readonly row: number;
  /** Row of the columns that are put out, stacked. */
  readonly from: number;
  /** The same of the old row, -1 = none. */
  readonly old: number;
}

/**
 * Sends changes through the steps of a plan without knowing any row but those that are named: nothing is kept.
 *
 * What a filter does to an update whose old row is not known: a row that passes goes out as updated, which makes it where it
 * is not yet; a row that does not pass goes out as deleted, which is nothing where it was not. Where the old row is
 * known (replica identity full) each is told as what it is. A row with cells that the database did not send (unchanged TOAST)
 * may be one that was filtered out until now, and a computed column may need them: that needs state. So may a row that a snapshot read, where the source's
 * contract keeps a column that the table lost (`schemaChanges: keep`); also under identity full nobody knows that cell then.
 */
export class Flow {
  readonly #evaluator: Evaluator;

  constructor(evaluator: Evaluator) {
    this.#evaluator = evaluator;
  }

  /** @throws StateNeeded */
  async transform(piece: Piece, plan: Plan): Promise<OutSection[]> {
    if (piece.rows === 0) return plan.targets.map(({ schema }) => shapeAlone(schema));
    if (piece.chosen && plan.filters) return this.#keyed(piece, plan);
    const whole = isWhole(piece);
    const plain = piece.old === null && piece.ops.every((op) => op === Op.created || op === Op.read);
    if (plain && whole) return this.#plain(piece, plan);
    const full = piece.schema.identity === 'full' && whole;
    if (piece.ops.some((op) => op === Op.updated || op === Op.deleted) && !plan.keyFollows && !full) {
      throw new StateNeeded(`the key of the result of ${tableName(piece.schema)} is not known from the key of its rows`);
    }
    return full ? this.#full(piece, plan) : this.#keyed(piece, plan);
  }

  /** New rows only. */
  async #plain(piece: Piece, plan: Plan): Promise<OutSection[]> {
    const evaluated = await this.#evaluator.evaluate(plan, piece);
    const { kept, rows, route } = evaluated;
    return plan.targets.flatMap((target, t) => {
      const chosen = route ? [...route.keys()].filter((row) => route[row] === t) : null;
      const count = chosen?.length ?? rows;
      if (count === 0) return [];
      const rowOf = (i: number) => {
        const row = chosen ? (chosen[i] as number) : i;
        return kept ? (kept[row] as number) : row;
      };
      const of = (values: ArrayLike<number>) => Array.from({ length: count }, (_, i) => values[rowOf(i)] as number);
      const columns = target.columns.map((c) => evaluated.columns[c] as Column);
      return [
        {
          schema: target.schema,
          ops: of(piece.ops),
          transactions: of(piece.transactions),
          ordinals: of(piece.ordinals).map((ordinal) => spread(ordinal, t, plan)),
          columns: chosen ? columns.map((column) => pick(column, chosen)) : columns,
          old: null,
        },
      ];
    });
  }

  /** Old rows are known by their key alone. */
  async #keyed(piece: Piece, plan: Plan): Promise<OutSection[]> {
    const { ops, rows } = piece;
    const oldAt = placesOfOld(piece);
    if (plan.modules) this.#checkWhole(piece, plan);
    const whole = plan.modules ? [...ops.keys()].filter((row) => ops[row] !== Op.deleted && ops[row] !== Op.truncated) : null;
    const after = await this.#images(plan, piece, piece.columns, whole);
    this.#checkKnown(piece, plan, after);
    const keyPlan = plan.keyOnly;
    const own = await this.#images(keyPlan, piece, piece.columns);
    const old = piece.old ? await this.#images(keyPlan, { ...piece, rows: piece.old.row.length }, piece.old.columns) : null;
    const before = after.evaluated.rows;
    const beforeOld = before + own.evaluated.rows;
    const routeOf = (row: number) => after.evaluated.route?.[after.place[row] as number] ?? null;
    return plan.targets.flatMap((target, t) => {
      const emitted: Emitted[] = [];
      for (let row = 0; row < rows; row++) {
        const op = ops[row] as number;
        const oldRow = oldAt.get(row);
        const passed = (after.place[row] as number) !== -1 && (routeOf(row) ?? t) === t;
        const gone = { row, old: -1, from: oldRow === undefined ? before + row : beforeOld + oldRow };
        if (op === Op.truncated) emitted.push({ op, row, from: before + row, old: -1 });
        else if (op === Op.deleted) emitted.push({ op, ...gone });
        else if (op === Op.kept) emitted.push({ op, row, from: passed ? (after.place[row] as number) : before + row, old: -1 });
        else if (passed)
          emitted.push({ op, row, from: after.place[row] as number, old: oldRow === undefined ? -1 : beforeOld + oldRow });
        else if (op === Op.updated || op === Op.read) emitted.push({ op: Op.deleted, ...gone });
      }
      const keyColumns = (images: Images | null, c: number) => (images ? [this.#keyColumn(plan, images, c)] : []);
      const counts = [before, own.evaluated.rows];
      const columns = target.columns.map((c) => ({
        counts,
        parts: [masked(piece, plan.columns[c] as PlanColumn, after, c), ...keyColumns(own, c), ...keyColumns(old, c)],
      }));
      return sectionOf(piece, plan, { target, t, emitted, columns });
    });
  }

  /** Every image of a row is known, before and after. */
  async #full(piece: Piece, plan: Plan): Promise<OutSection[]> {
    const oldAt = placesOfOld(piece);
    const columns = piece.old ? filled(piece, oldAt) : piece.columns;
    const whole = plan.modules ? [...piece.ops.keys()].filter((row) => piece.ops[row] !== Op.truncated) : null;
    const after = await this.#images(plan, piece, columns, whole);
    const old = piece.old ? await this.#images(plan, { ...piece, rows: piece.old.row.length }, piece.old.columns) : null;
    const base = after.evaluated.rows;
    const nothing = base + (old?.evaluated.rows ?? 0);
    const goes = (images: Images, row: number, t: number) => {
      const place = images.place[row] as number;
      return place !== -1 && (images.evaluated.route?.[place] ?? t) === t ? place : -1;
    };
    return plan.targets.flatMap((target, t) => {
      const emitted: Emitted[] = [];
      for (let row = 0; row < piece.rows; row++) {
        const op = piece.ops[row] as number;
        const oldRow = oldAt.get(row);
        const now = goes(after, row, t);
        const was = oldRow === undefined ? -1 : goes(old as Images, oldRow, t);
        if (op === Op.updated && oldRow !== undefined) {
          if (now !== -1 && was !== -1) emitted.push({ op, row, from: now, old: base + was });
          else if (now !== -1) emitted.push({ op: Op.created, row, from: now, old: -1 });
          else if (was !== -1) emitted.push({ op: Op.deleted, row, from: base + was, old: -1 });
        } else if (op === Op.truncated) emitted.push({ op, row, from: nothing + row, old: -1 });
        else if (now !== -1) emitted.push({ op, row, from: now, old: -1 });
      }
      const counts = [base, ...(old ? [old.evaluated.rows] : [])];
      const all = target.columns.map((c) => {
        const olds = old ? [old.evaluated.columns[c] as Column] : [];
        return { counts, parts: [after.evaluated.columns[c] as Column, ...olds, unknownColumn(piece.rows)] };
      });
      return sectionOf(piece, plan, { target, t, emitted, columns: all });
    });
  }

  /** @param chosen rows that are evaluated; null = all of them */
  async #images(
    plan: Steps,
    { rows, placeOf }: Pick<Piece, 'rows' | 'placeOf'>,
    columns: readonly Column[],
    chosen: readonly number[] | null = null,
  ): Promise<Images> {
    const rowOf = (i: number) => (chosen ? (chosen[i] as number) : i);
    const evaluated = await this.#evaluator.evaluate(plan, {
      rows: chosen?.length ?? rows,
      columns: chosen ? columns.map((column) => pick(column, chosen)) : columns,
      placeOf: (i) => placeOf(rowOf(i)),
    });
    const place = new Int32Array(rows).fill(-1);
    for (let i = 0; i < evaluated.rows; i++) place[rowOf(evaluated.kept ? (evaluated.kept[i] as number) : i)] = i;
    return { evaluated, place };
  }

  /** @throws StateNeeded when a row leaves out what a module reads */
  #checkWhole({ schema, ops, rows, columns }: Piece, plan: Plan): void {
    for (const c of plan.filterNeeds) {
      const column = columns[c] as Column;
      if (!column.hasUnchanged()) continue;
      const cells = column.values();
      for (let row = 0; row < rows; row++) {
        if ((brings(ops[row]) || ops[row] === Op.kept) && cells[row] === undefined)
          throw new StateNeeded(`a change of ${tableName(schema)} leaves out ${schema.columns[c]?.name}, which a module reads`);
      }
    }
  }

  /** @throws StateNeeded when a row leaves out what decides about it, or what its columns are made of */
  #checkKnown(piece: Piece, plan: Plan, after: Images): void {
    const computed = new Set(plan.columns.flatMap((column) => ('slot' in column.ref ? column.needs : [])));
    const needed = plan.filters ? piece.columns.keys() : computed.keys();
    for (const c of needed) {
      const column = piece.columns[c] as Column;
      if (!column.hasUnchanged()) continue;
      const cells = column.values();
      const decides = plan.filterNeeds.includes(c);
      for (let row = 0; row < piece.rows; row++) {
        if (!brings(piece.ops[row]) || cells[row] !== undefined) continue;
        if (decides || computed.has(c) || after.place[row] !== -1) {
          const { schema } = piece;
          throw new StateNeeded(`a change of ${tableName(schema)} leaves out ${schema.columns[c]?.name}`);
        }
      }
    }
  }

  /** A column of rows of which only the key is known. */
  #keyColumn(plan: Plan, { evaluated }: Images, c: number): Column {
    const at = plan.keyOnly.columns.findIndex((column) => column.name === (plan.columns[c] as PlanColumn).name);
    return at === -1 ? unknownColumn(evaluated.rows) : (evaluated.columns[at] as Column);
  }
}

/** With `n` targets a row has `n` places: one for each. */
function spread(ordinal: number, target: number, plan: Plan): number {
  const count = plan.targets.length;
  const spreaded = (ordinal - 1) * count + target + 1;
  if (spreaded >= 2 ** 32) throw new Fault('poison', 'a transaction has more changes than can be counted');
  return spreaded;
}

function placesOfOld({ old }: Pick<Piece, 'old'>): Map<number, number> {
  return new Map(old ? [...old.row].map((row, i) => [row, i]) : []);
}

/** Rows as they are now, that may leave out cells. */
function brings(op: number | undefined): boolean {
  return op === Op.updated || op === Op.read;
}

/** Does every row say all of itself, or its old row what it leaves out? */
function isWhole({ columns, ops, old }: Piece): boolean {
  if (!columns.some((column) => column.hasUnchanged())) return true;
  const oldAt = placesOfOld({ old });
  return columns.every((column, c) => {
    if (!column.hasUnchanged()) return true;
    const before = old?.columns[c]?.values() ?? [];
    return column
      .values()
      .every((cell, row) => cell !== undefined || ops[row] === Op.truncated || before[oldAt.get(row) ?? -1] !== undefined);
  });
}

/** Cells that an update left out are those of its old row. */
function filled(piece: Piece, oldAt: ReadonlyMap<number, number>): readonly Column[] {
  return piece.columns.map((column, c) => {
    if (!column.hasUnchanged()) return column;
    const before = piece.old?.columns[c]?.values() ?? [];
    return columnOf(column.values().map((cell, row) => (cell === undefined ? before[oldAt.get(row) ?? -1] : cell)));
  });
}

/** Values computed from what a kept row (`k`) left out are not known. */
function masked(piece: Piece, column: PlanColumn, { evaluated, place }: Images, c: number): Column {
  const whole = evaluated.columns[c] as Column;
  if ('input' in column.ref || !column.needs.some((need) => piece.columns[need]?.hasUnchanged())) return whole;
  const needs = column.needs.map((need) => piece.columns[need]?.values() ?? []);
  const cells = [...whole.values()];
  for (let row = 0; row < piece.rows; row++) {
    const at = place[row] as number;
    if (at !== -1 && needs.some((one) => one[row] === undefined)) cells[at] = undefined;
  }
  return columnOf(cells);
}

/** Columns one on top of the other. */
interface Stacked {
  readonly parts: readonly Column[];
  /** How many rows each but the last has. */
  readonly counts: readonly number[];
}

/** @param rows counted over the whole stack, which has the same counts for every column */
function taken(columns: readonly Stacked[], rows: readonly number[]): Column[] {
  const [first] = columns;
  if (!first) return [];
  const starts = [0];
  for (const count of first.counts) starts.push((starts.at(-1) as number) + count);
  const from = new Uint8Array(rows.length);
  const own = new Uint32Array(rows.length);
  rows.forEach((row, i) => {
    let part = starts.length - 1;
    while (row < (starts[part] as number)) part--;
    from[i] = part;
    own[i] = row - (starts[part] as number);
  });
  const gathering = new Gathering(from, own);
  return columns.map(({ parts }) => gathering.of(parts));
}

function sectionOf(
  piece: Piece,
  plan: Plan,
  { target, t, emitted, columns }: { target: Target; t: number; emitted: readonly Emitted[]; columns: readonly Stacked[] },
): OutSection[] {
  if (emitted.length === 0) return [];
  const olds = emitted.flatMap(({ old }, i) => (old === -1 ? [] : [{ old, i }]));
  return [
    {
      schema: target.schema,
      ops: emitted.map(({ op }) => op),
      transactions: emitted.map(({ row }) => piece.transactions[row] as number),
      ordinals: emitted.map(({ row }) => spread(piece.ordinals[row] as number, t, plan)),
      columns: taken(
        columns,
        emitted.map(({ from }) => from),
      ),
      old:
        olds.length === 0
          ? null
          : {
              rows: olds.map(({ i }) => i),
              columns: taken(
                columns,
                olds.map(({ old }) => old),
              ),
            },
    },
  ];
}
