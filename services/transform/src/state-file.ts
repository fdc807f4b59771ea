import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Fault } from '@tributary/core';
import { Database } from '@tributary/duckdb';

/** For rows and for expressions over them; what does not fit goes to disk. */
const MEMORY_BYTES = 256 * 2 ** 20;

/** A database of its own in memory: for expressions alone. */
export function openMemory(): Promise<Database> {
  return Database.open({ path: ':memory:', memoryBytes: MEMORY_BYTES, threads: 1, spillDir: '' });
}

/** The file of a state. One that cannot be read is thrown away: all of it comes out of the inputs again. */
export async function openState(folder: string, name: string): Promise<Database> {
  await mkdir(folder, { recursive: true });
  const path = join(folder, `${name}.duckdb`);
  const options = { path, memoryBytes: MEMORY_BYTES, threads: 1, spillDir: join(folder, `${name}.spill`) };
  try {
    return await Database.open(options);
  } catch (error) {
    if (!(error instanceof Fault) || error.facts['unreadable'] !== true) throw error;
    await removeState(folder, name);
    return Database.open(options);
  }
}

export async function removeState(folder: string, name: string): Promise<void> {
  for (const end of ['duckdb', 'duckdb.wal', 'spill']) await rm(join(folder, `${name}.${end}`), { force: true, recursive: true });
}

/** A state for one piece of work, in the system's temporary folder. */
export async function temporaryState(): Promise<{ readonly database: Database; readonly remove: () => Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'tributary-state-'));
  return { database: await openState(folder, 'state'), remove: () => rm(folder, { recursive: true, force: true }) };
}
