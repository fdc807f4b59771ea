import { existsSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { answerProcess, type ProcessQuestion } from './answers.ts';
import { importedPath } from './exchange/import.ts';
import { openState } from './state.ts';

/** Names of the logs that were imported into this data folder. */
export async function importedNames(dataDir: string): Promise<string[]> {
  const folder = dirname(importedPath(dataDir, 'any'));
  if (!existsSync(folder)) return [];
  return (await readdir(folder))
    .filter((name) => name.endsWith('.duckdb'))
    .map((name) => name.slice(0, -'.duckdb'.length))
    .toSorted();
}

/** @returns was there such a log? */
export async function removeImported(dataDir: string, name: string): Promise<boolean> {
  if (!(await importedNames(dataDir)).includes(name)) return false;
  await rm(importedPath(dataDir, name), { force: true });
  return true;
}

/** Answers a question about an imported log. Its file is open only meanwhile, so that any process may ask. @returns null when there is none */
export function answerImported(dataDir: string, name: string, question: ProcessQuestion): AsyncGenerator<unknown> | null {
  const path = importedPath(dataDir, name);
  return existsSync(path) ? answer(path, name, question) : null;
}

async function* answer(path: string, name: string, question: ProcessQuestion): AsyncGenerator<unknown> {
  const database = await openState(path);
  try {
    const duck = await database.connect();
    try {
      const [first] = await duck.rows<{ object: string }>('SELECT object FROM event WHERE "case" IS NOT NULL LIMIT 1');
      yield* answerProcess(duck, question, { name, root: first?.object ?? '' });
    } finally {
      duck.close();
    }
  } finally {
    database.close();
  }
}
