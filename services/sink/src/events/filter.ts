import { type Condition, type EventsSinkConfig, matchesTable, wantsTable } from '@tributary/config';
import { type Cell, Fault, type TableSchema, tableName } from '@tributary/core';
import type { RowChange } from './row-changes.ts';

type Test = (cells: readonly Cell[]) => boolean;

/** Which changes of one source become events. */
export class Filter {
  readonly #config: EventsSinkConfig;
  readonly #source: string;
  readonly #ops: ReadonlySet<string>;
  readonly #tables = new Map<string, boolean>();
  readonly #tests = new WeakMap<TableSchema, Test>();

  constructor(config: EventsSinkConfig, source: string) {
    this.#config = config;
    this.#source = source;
    this.#ops = new Set(config.snapshot ? config.ops : config.ops.filter((op) => op !== 'read'));
  }

  /** Are events of `schema.table` wanted at all? */
  wants(table: string): boolean {
    const known = this.#tables.get(table);
    if (known !== undefined) return known;
    const wanted = wantsTable(this.#config, this.#source, table) && matchesTable(this.#config.tables, table);
    this.#tables.set(table, wanted);
    return wanted;
  }

  get marks(): boolean {
    return this.#ops.has('read');
  }

  /**
   * A row is judged as it is now, a deleted one as it was. A column that was not sent (unchanged TOAST, the rest of a
   * deleted row) is taken to meet its condition: rather an event too many than one too few.
   */
  passes(change: RowChange): boolean {
    if (!this.#ops.has(change.op)) return false;
    const cells = change.after ?? change.before;
    return cells === null || this.#test(change.schema)(cells);
  }

  #test(schema: TableSchema): Test {
    const known = this.#tests.get(schema);
    if (known) return known;
    const name = tableName(schema);
    const tests = Object.entries(this.#config.where[name] ?? {}).map(([column, condition]) => {
      const index = schema.columns.findIndex((one) => one.name === column);
      if (index === -1) {
        const message = `sink ${this.#config.name}: where names ${name}.${column}, a column that the table does not have`;
        throw new Fault('config_invalid', message, { table: name });
      }
      const meets = conditionOf(condition);
      return (cells: readonly Cell[]) => cells[index] === undefined || meets(cells[index] ?? null);
    });
    const test: Test = (cells) => tests.every((one) => one(cells));
    this.#tests.set(schema, test);
    return test;
  }
}

function conditionOf(condition: Condition): (cell: string | null) => boolean {
  if (typeof condition === 'object' && condition !== null && 'not' in condition) {
    const meets = conditionOf(condition.not);
    return (cell) => !meets(cell);
  }
  const tests = [condition as Exclude<Condition, { readonly not: unknown }>].flat().map((value) => (cell: string | null) => {
    if (value === null || cell === null) return value === cell;
    if (typeof value === 'number') return cell.trim() !== '' && Number(cell) === value;
    return cell === (typeof value === 'boolean' ? (value ? 't' : 'f') : value);
  });
  return (cell) => tests.some((test) => test(cell));
}
