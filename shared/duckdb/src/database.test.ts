import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Database, type Duck } from './database.ts';

/** Takes hours. */
const LONG = 'SELECT count(*) FROM range(3000000) a, range(3000000) b WHERE (a.range * b.range) % 7 = 3';
const STOPPED = new Error('told to stop');

describe('a connection that is cut', () => {
  let database: Database;
  let duck: Duck;
  let cut: AbortController;
  beforeEach(async () => {
    database = await Database.open({ path: ':memory:', memoryBytes: 64 * 2 ** 20, threads: 1, spillDir: '' });
    cut = new AbortController();
    duck = await database.connect(cut.signal);
  });
  afterEach(() => {
    duck.close();
    database.close();
  });

  it('ends the statement that runs, with the reason, also one that DuckDB has not begun with', async () => {
    const running = duck.rows(LONG);
    cut.abort(STOPPED);
    await expect(running).rejects.toBe(STOPPED);
  });

  it('refuses everything from then on but to roll back, and nothing of the transaction stays', async () => {
    await duck.run('CREATE TABLE t (id INTEGER)');
    await duck.run('BEGIN');
    await duck.run('INSERT INTO t VALUES (1)');
    cut.abort(STOPPED);
    await expect(duck.run('INSERT INTO t VALUES (2)')).rejects.toBe(STOPPED);
    await expect(duck.run('COMMIT')).rejects.toBe(STOPPED);
    await expect(duck.append('t', { id: 'INTEGER' }, { id: [3] })).rejects.toBe(STOPPED);
    await duck.run('ROLLBACK');
    const other = await database.connect();
    expect(await other.rows('FROM t')).toEqual([]);
    other.close();
  });

  it('lets other connections of the same database be', async () => {
    const other = await database.connect();
    const running = other.rows<{ n: number }>('SELECT count(*) AS n FROM range(2000000) a WHERE a.range % 7 = 3');
    cut.abort(STOPPED);
    expect((await running)[0]?.n).toBe(285_714);
    other.close();
  });
});
