import { configReading } from '@tributary/config';
import { type Cell, type ColumnSchema, Fault, type TableSchema } from '@tributary/core';
import { Database } from '@tributary/duckdb';
import { connect, machineryOf } from './engine.ts';
import { columnOf } from './pick.ts';
import { namedType } from './sql-types.ts';

export interface ModuleTrial {
  /** Columns of the rows with their types in PostgreSQL's words; the first one is the key. */
  readonly columns: Readonly<Record<string, string>>;
  /** Values in PostgreSQL's text, or as JavaScript has them; left out = NULL. */
  readonly rows: readonly Readonly<Record<string, string | number | boolean | null>>[];
  readonly source?: string;
}

/**
 * Sends rows through a module just as a transform does, bundling, conversion and checks of types included: for tests of modules.
 * @param path of the module, JavaScript or TypeScript
 * @returns per row what comes out, as PostgreSQL's text; null where the row does not pass
 * @throws Fault `config_invalid` or `poison`, as the transform would fail with
 */
export async function testModule(path: string, trial: ModuleTrial): Promise<(Readonly<Record<string, string | null>> | null)[]> {
  const schema = schemaOf(trial.columns);
  const source = trial.source ?? 'source';
  const { bundleModule } = await configReading();
  const code = await bundleModule(path);
  const steps = [{ kind: 'module', module: path, code } as const];
  const transform = { name: 'test', from: [`${source}.public.rows`], steps, places: [path] };
  const database = await Database.open({ path: ':memory:', memoryBytes: 2 ** 27, threads: 1, spillDir: '' });
  try {
    const { plans, evaluator } = machineryOf(transform, await connect(database));
    const plan = await plans.of(source, schema, '');
    const columns = schema.columns.map(({ name }) => columnOf(trial.rows.map((row) => textOf(row[name]))));
    const { kept, columns: made } = await evaluator.evaluate(plan, {
      rows: trial.rows.length,
      columns,
      placeOf: (row) => `row ${row + 1}`,
    });
    const cells = made.map((column) => column.values());
    const at = new Map(kept ? [...kept].map((row, i) => [row, i]) : trial.rows.map((_, i) => [i, i]));
    return trial.rows.map((_, row) => {
      const i = at.get(row);
      return i === undefined ? null : Object.fromEntries(plan.columns.map(({ name }, c) => [name, cells[c]?.[i] ?? null]));
    });
  } finally {
    database.close();
  }
}

function schemaOf(columns: ModuleTrial['columns']): TableSchema {
  return {
    schema: 'public',
    table: 'rows',
    identity: 'default',
    columns: Object.entries(columns).map(([name, text], c): ColumnSchema => {
      const found = namedType(text);
      if (!found) throw new Fault('config_invalid', `column ${name}: the type "${text}" is not known`);
      const { type, typmod, sqlType } = found;
      return { name, type, typmod, sqlType, key: c === 0 ? 1 : 0 };
    }),
  };
}

function textOf(value: string | number | boolean | null | undefined): Cell {
  if (value === null || value === undefined) return null;
  if (typeof value === 'boolean') return value ? 't' : 'f';
  return String(value);
}
