import type { Duck } from './database.ts';
import { duckIdent, duckLiteral } from './identifier.ts';

/**
 * Makes a DuckDB file of what a database holds at one moment. A second process cannot open a writer's file; it can open this one.
 * @param connect a connection of the database; with the signal: one whose statements end when it aborts
 * @param path where to; whoever calls removes it
 * @param work fills the copy, whose name it is given, in the transaction in which it reads
 */
export async function copied<T>(
  connect: (cut?: AbortSignal) => Promise<Duck>,
  { path, signal }: { readonly path: string; readonly signal: AbortSignal },
  work: (duck: Duck, copy: string) => Promise<T>,
): Promise<T> {
  const duck = await connect(signal);
  const copy = duckIdent(path);
  let whole = false;
  try {
    await duck.run(`ATTACH ${duckLiteral(path)} AS ${copy} (BLOCK_SIZE 16384)`);
    await duck.run('BEGIN');
    const result = await work(duck, copy);
    await duck.run('COMMIT');
    await duck.run(`DETACH ${copy}`);
    whole = true;
    return result;
  } finally {
    duck.close();
    if (!whole) await letGo(connect, copy);
  }
}

/** What was given up is attached still, and its connection may not be able to say more. */
async function letGo(connect: () => Promise<Duck>, copy: string): Promise<void> {
  const duck = await connect();
  await duck.run(`DETACH DATABASE IF EXISTS ${copy}`).finally(() => duck.close());
}
