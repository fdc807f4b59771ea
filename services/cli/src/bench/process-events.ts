import { join } from 'node:path';
import { Database, type Duck } from '@tributary/duckdb';
import { EVENT_COLUMNS } from '@tributary/monitor';
import { measure, type Usage } from './measure.ts';

type EventColumns = Parameters<typeof Duck.prototype.append<typeof EVENT_COLUMNS>>[2];

/** Events of one transaction: about what a group of a changelog brings. */
const AT_ONCE = 20_000;
const MEMORY_BYTES = 256 * 2 ** 20;
const THREADS = 2;

/** The events that the file of a process holds, appended to a table of their shape, and nothing else. The file is not open anywhere. */
export async function insertPlainly(path: string, folder: string): Promise<Usage & { readonly events: number }> {
  const from = await opened(path, folder);
  const to = await opened(join(folder, 'plain.duckdb'), folder);
  try {
    const columns = (await from.duck.columns('SELECT * FROM event')) as EventColumns;
    const events = columns.case.length;
    const types = Object.entries(EVENT_COLUMNS).map(([name, type]) => `"${name}" ${type}`);
    await to.duck.run(`CREATE TABLE event (${types.join(', ')})`);
    const usage = await measure(async () => {
      for (let at = 0; at < events; at += AT_ONCE) {
        const some = Object.entries(columns).map(([name, values]) => [name, values.slice(at, at + AT_ONCE)]);
        await to.duck.run('BEGIN');
        await to.duck.append('event', EVENT_COLUMNS, Object.fromEntries(some) as EventColumns);
        await to.duck.run('COMMIT');
      }
    });
    return { ...usage, events };
  } finally {
    for (const { duck, database } of [from, to]) {
      duck.close();
      database.close();
    }
  }
}

async function opened(path: string, folder: string): Promise<{ database: Database; duck: Duck }> {
  const database = await Database.open({ path, memoryBytes: MEMORY_BYTES, threads: THREADS, spillDir: join(folder, 'spill') });
  return { database, duck: await database.connect() };
}
