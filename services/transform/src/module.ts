import { type Cell, type Column, Fault } from '@tributary/core';
import type { Ref } from './sql-stage.ts';
import type { SqlType } from './sql-types.ts';

/**
 * A value in a module: small integers and floats are numbers, `bigint` is a bigint, `boolean` a boolean, `json` and `jsonb` what they hold; everything
 * else (also `numeric`, dates and times) is PostgreSQL's text of it. NULL is null.
 */
export type ModuleValue = string | number | bigint | boolean | null | { readonly [key: string]: unknown } | readonly unknown[];

/** One row, by the names that its columns have at this step. */
export type ModuleRow = Readonly<Record<string, ModuleValue>>;

/** Rows of one table that go through a module together. How many there are, and which, means nothing. */
export interface ModuleBatch {
  readonly rows: readonly ModuleRow[];
}

export interface ModuleContext {
  /** Name of the transform. */
  readonly transform: string;
  /** Name of the input that the rows come of. */
  readonly source: string;
  /** `schema.table` of the rows. */
  readonly table: string;
}

/** Per row the columns it gives, those it leaves out being NULL; null: the row does not pass. */
export type ModuleResult = readonly (Readonly<Record<string, unknown>> | null)[];

/**
 * What a module exports. It must give the same for the same row whenever it is asked: rows go through it again after a crash, and
 * when the result is told anew.
 */
export interface TransformModule {
  /** Columns that it adds or gives another value, with their types in PostgreSQL's words. */
  readonly columns: Readonly<Record<string, string>>;
  /** Columns that it reads; all of them, where it does not say. */
  readonly reads?: readonly string[];
  readonly default: (batch: ModuleBatch, context: ModuleContext) => ModuleResult | Promise<ModuleResult>;
}

const loaded = new Map<string, Promise<TransformModule>>();

/** @param code an ES module. @throws Fault `config_invalid` when it cannot be run, or is no module of a transform */
export function loadModule(code: string): Promise<TransformModule> {
  let module = loaded.get(code);
  if (!module) loaded.set(code, (module = imported(code)));
  return module;
}

async function imported(code: string): Promise<TransformModule> {
  let exports: Partial<TransformModule>;
  try {
    exports = (await import(
      `data:text/javascript;base64,${Buffer.from(code, 'utf8').toString('base64')}`
    )) as Partial<TransformModule>;
  } catch (error) {
    throw new Fault('config_invalid', `the module cannot be loaded: ${String(error)}`, {}, { cause: error });
  }
  if (typeof exports.default !== 'function')
    throw new Fault('config_invalid', 'the module exports no function as default: export default (batch, context) => …');
  if (typeof exports.columns !== 'object' || exports.columns === null)
    throw new Fault('config_invalid', `the module does not say which columns it gives: export const columns = { name: 'text' }`);
  return exports as TransformModule;
}

export interface ModuleStageOptions {
  /** Its path, as written. */
  readonly file: string;
  readonly step: number;
  readonly module: TransformModule;
  readonly context: ModuleContext;
  readonly loads: readonly { readonly ref: Ref; readonly name: string; readonly type: SqlType }[];
  /** One a column of the module, in that order. */
  readonly given: readonly { readonly slot: number; readonly name: string }[];
}

/** A step that a module does. Its columns come out as text. */
export class ModuleStage {
  readonly loads: ModuleStageOptions['loads'];
  readonly given: ModuleStageOptions['given'];
  readonly step: number;
  readonly file: string;
  readonly #options: ModuleStageOptions;

  constructor(options: ModuleStageOptions) {
    this.#options = options;
    this.loads = options.loads;
    this.given = options.given;
    this.step = options.step;
    this.file = options.file;
  }

  /** @returns per row its new cells, or null where it does not pass. @throws ModuleFailure */
  async run(columns: readonly Column[], rows: number): Promise<(readonly Cell[] | null)[]> {
    const { module, context } = this.#options;
    const cells = columns.map((column) => column.values());
    const given = Array.from({ length: rows }, (_, row) =>
      Object.freeze(Object.fromEntries(this.loads.map(({ name, type }, c) => [name, valueOf(cells[c]?.[row], type)] as const))),
    );
    const result = await this.#call(module, { rows: given }, context);
    if (!Array.isArray(result) || result.length !== rows)
      throw new ModuleFailure(`it must give an array with one entry a row: for ${rows} rows it gave ${told(result)}`);
    return result.map((row: unknown) => this.#cells(row));
  }

  async #call(module: TransformModule, batch: ModuleBatch, context: ModuleContext): Promise<unknown> {
    try {
      return await module.default(batch, context);
    } catch (error) {
      // What it says may quote values of the row.
      const at = /:(\d+:\d+)\)?$/m.exec((error as Error).stack ?? '')?.[1];
      throw new ModuleFailure(
        `${(error as Error).name ?? 'an error'}${at === undefined ? '' : `, line ${at} of the bundled module`}`,
      );
    }
  }

  #cells(row: unknown): readonly Cell[] | null {
    if (row === null) return null;
    if (typeof row !== 'object') throw new ModuleFailure(`for a row it must give an object, or null: it gave ${told(row)}`);
    const unknown = Object.keys(row).find((name) => !this.given.some((one) => one.name === name));
    if (unknown !== undefined) throw new ModuleFailure(`it gave a column "${unknown}" that its "columns" do not name`);
    return this.given.map(({ name }) => cellOf((row as Record<string, unknown>)[name], name));
  }
}

/** Why a module could not do its work, without values of rows. */
export class ModuleFailure extends Error {}

function told(value: unknown): string {
  if (Array.isArray(value)) return `${value.length}`;
  return value === null ? 'null' : typeof value;
}

const NUMBERS = new Set(['TINYINT', 'SMALLINT', 'INTEGER', 'UINTEGER', 'FLOAT', 'DOUBLE']);

function valueOf(cell: Cell, { duck }: SqlType): ModuleValue {
  if (cell === null || cell === undefined) return null;
  if (duck === 'BOOLEAN') return cell === 't';
  if (duck === 'BIGINT') return BigInt(cell);
  if (duck === 'JSON') return JSON.parse(cell) as ModuleValue;
  return NUMBERS.has(duck) ? Number(cell) : cell;
}

function cellOf(value: unknown, name: string): Cell {
  switch (typeof value) {
    case 'undefined':
      return null;
    case 'string':
      if (value.includes('\0')) throw new ModuleFailure(`"${name}" holds a zero byte`);
      return value;
    case 'boolean':
      return value ? 't' : 'f';
    case 'number':
    case 'bigint':
      return String(value);
    case 'object':
      return value === null ? null : value instanceof Date ? value.toISOString() : JSON.stringify(value);
    default:
      throw new ModuleFailure(`"${name}" is a ${typeof value}`);
  }
}
