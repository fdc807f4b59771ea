import { keyColumns, type Position, type TableSchema, tableName } from '@tributary/core';
import { quoteIdent, Session } from '@tributary/postgres';
import type { ResultRows } from '../result-rows.ts';
import { copyRows } from './copy-text.ts';
import { type ComparedTable, isThere, type VerifiedTable, type VerifyOdsOptions, verifyTable } from './verify.ts';

/**
 * Compares the rows of a transform's changelog with the target's, both as they stand at the projection's position: all of it in one transaction of
 * the target, which takes the transform's rows into temporary tables, so that their values are those of the target's types.
 * @param rowsAt the rows of some tables at a position
 * @param positionIn the projection's position, as that session sees it
 */
export async function* verifyResult(
  options: Omit<VerifyOdsOptions, 'caughtUp'> & {
    readonly rowsAt: (tables: readonly string[], at: Position) => AsyncIterable<ResultRows>;
    readonly positionIn: (session: Session) => Promise<Position>;
  },
): AsyncGenerator<VerifiedTable> {
  const { to, ask, signal, rowsAt, positionIn } = options;
  const own: string[] = [];
  for (const name of ask.tables ?? []) if (await options.verifies(name)) own.push(name);
  const session = await Session.open(to, { name: `${options.sink} verify` });
  try {
    await session.run('BEGIN ISOLATION LEVEL REPEATABLE READ');
    const at = await positionIn(session);
    const taken = new Map<string, Taken>();
    for await (const part of rowsAt(own, at)) {
      signal.throwIfAborted();
      const name = tableName(part.schema);
      const one = taken.get(name) ?? (await take(session, part.schema, { options, n: taken.size }));
      taken.set(name, { ...one, rows: one.rows + part.rows });
      if (!one.here) continue;
      const copy = session.copyIn(`COPY ${one.here} FROM STDIN`);
      await copy.write(copyRows(Array.from({ length: part.rows }, (_, row) => part.columns.map((cells) => cells[row]))));
      await copy.end();
    }
    for (const name of own) {
      const { table, here, rows } = taken.get(name) ?? { ...nothingOf(name), here: null, rows: 0 };
      await session.run('SAVEPOINT compared');
      if (here) yield await verifyTable({ ...options, caughtUp: null }, table, { source: session, target: session, here });
      else yield await verifyWithout(options, session, { table, rows });
      // Also where a comparison failed, and with it the transaction.
      await session.run('ROLLBACK TO SAVEPOINT compared');
    }
  } finally {
    await session.close();
  }
}

/** Rows of one table of a transform's result. */
interface Taken {
  readonly table: ComparedTable;
  /** The temporary table (quoted) that holds them; null where the target has none of its name yet. */
  readonly here: string | null;
  readonly rows: number;
}

async function take(
  session: Session,
  schema: TableSchema,
  { options, n }: { options: Pick<VerifyOdsOptions, 'targetOf'>; n: number },
): Promise<Taken> {
  const { columns } = schema;
  const key = keyColumns(schema).map((c) => columns[c]?.name as string);
  const table = { schema: schema.schema, table: schema.table, columns, key };
  const { target } = options.targetOf(table);
  if (!(await isThere(session, target))) return { table, here: null, rows: 0 };
  const here = `pg_temp.result_${n}`;
  const names = columns.map(({ name }) => quoteIdent(name)).join(', ');
  await session.run(`CREATE TEMP TABLE result_${n} ON COMMIT DROP AS SELECT ${names} FROM ${target} WITH NO DATA`);
  return { table, here, rows: 0 };
}

function nothingOf(name: string): { readonly table: ComparedTable } {
  const dot = name.indexOf('.');
  return { table: { schema: name.slice(0, dot), table: name.slice(dot + 1), columns: [], key: [] } };
}

/** One side has no rows, or no table: the other must have none either. */
async function verifyWithout(
  { source, sink, targetOf }: Pick<VerifyOdsOptions, 'source' | 'sink' | 'targetOf'>,
  session: Session,
  { table, rows }: Pick<Taken, 'table' | 'rows'>,
): Promise<VerifiedTable> {
  const { target, where = 'true' } = targetOf(table);
  const filled =
    (await isThere(session, target)) &&
    (await session.row<{ filled: boolean }>(`SELECT EXISTS (SELECT 1 FROM ${target} WHERE ${where}) AS filled`)).filled;
  const differences = [
    ...(rows > 0 ? [{ key: '', problem: 'missing' as const }] : []),
    ...(filled ? [{ key: '', problem: 'extra' as const }] : []),
  ];
  const name = `${table.schema}.${table.table}`;
  return { source, table: name, projection: sink, rows, equal: differences.length === 0, differences };
}
