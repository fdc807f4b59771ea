import { describeError, type Position, tableName } from '@tributary/core';
import { duckIdent, loadCells, Loader, plain } from '@tributary/duckdb';
import type { ResultRows } from '../result-rows.ts';
import type { Differing } from '../standing.ts';
import { differing, parquetSelect, textSelect, toldOf, typedSelect, type Verified, type VerifyLakeOptions } from './verify.ts';

export interface VerifyLakeResultOptions extends Omit<VerifyLakeOptions, 'caughtUp' | 'compact'> {
  /** Compacts, and does some work before anything moves on. @returns the position at which everything stands then */
  readonly atRest: (work: () => Promise<void>) => Promise<Position>;
  /** The rows of some tables at a position. */
  readonly rowsAt: (tables: readonly string[], at: Position) => AsyncIterable<ResultRows>;
}

type Current = NonNullable<Awaited<ReturnType<VerifyLakeOptions['currentOf']>>>;

/**
 * Compares the rows of a transform's changelog with the state that queries see (projection `query`) and with the Parquet files (the sink's name), all
 * as they stand at one position: the state in a transaction of its own, the files copied while nothing moves.
 */
export async function* verifyLakeResult(options: VerifyLakeResultOptions): AsyncGenerator<Verified> {
  const { source, sink, ask, signal } = options;
  await options.reached(ask.seq);
  const duck = await options.store.connect(signal);
  try {
    const held = new Map<string, Current>();
    const at = await options.atRest(async () => {
      await duck.run('BEGIN');
      // A transaction begins with what it first looks at.
      await duck.rows('SELECT count(*) FROM _meta.position');
      for (const name of ask.tables) {
        const current = await options.currentOf(name);
        if (!current) continue;
        const { table, parquet } = current;
        held.set(name, current);
        await duck.run(`CREATE OR REPLACE TEMP TABLE ${files(name)} AS ${await parquetSelect(duck, table, parquet)}`);
      }
    });
    const rows = new Map<string, number>();
    for await (const part of options.rowsAt(ask.tables, at)) {
      signal.throwIfAborted();
      const name = tableName(part.schema);
      const names = part.schema.columns.map((column) => column.name);
      if (!rows.has(name))
        await duck.run(
          `CREATE OR REPLACE TEMP TABLE ${result(name)} (${names.map((one) => `${duckIdent(one)} VARCHAR`).join(', ')})`,
        );
      rows.set(name, (rows.get(name) ?? 0) + part.rows);
      const loader = new Loader(part.columns.map((cells) => loadCells(cells)));
      await duck.run(
        `INSERT INTO ${result(name)} SELECT ${names.map((_, c) => plain(`c${c}`)).join(', ')} FROM (${loader.select})`,
        loader.values,
      );
    }
    for (const name of ask.tables) {
      const current = held.get(name);
      const count = rows.get(name) ?? 0;
      for (const projection of ['query', sink]) {
        let found: Differing = new Map(count === 0 ? [] : [['-table', '']]);
        if (current) {
          const { columns, current: state } = current.table;
          // No row was told of: as if there were a table of none.
          const truth = count === 0 ? `(FROM ${state} LIMIT 0)` : result(name);
          const [here, there] =
            projection === 'query'
              ? [textSelect(columns, state), textSelect(columns, truth)]
              : [`FROM ${files(name)}`, typedSelect(columns, truth)];
          try {
            found = await differing(duck, current.table, { columns, here, there });
          } catch (error) {
            found = new Map([[`-${describeError(error)}`, '']]);
          }
        }
        yield { source, table: name, projection, rows: count, equal: found.size === 0, differences: toldOf(found) };
      }
    }
  } finally {
    duck.close();
  }
}

const result = (table: string) => duckIdent(`result ${table}`);
const files = (table: string) => duckIdent(`files ${table}`);
