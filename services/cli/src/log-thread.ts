import { workerData } from 'node:worker_threads';
import { answerImported, type ImportOptions, importLog, type ProcessQuestion } from '@tributary/monitor';
import { Fault } from '@tributary/core';
import { tellParts } from './thread-parts.ts';

export type LogTask =
  | { readonly what: 'import'; readonly path: string; readonly options: ImportOptions }
  | { readonly what: 'ask'; readonly dataDir: string; readonly name: string; readonly question: ProcessQuestion };

/** Imports a log, or answers a question about one, in a thread of its own: both read all of it. */
async function* told(task: LogTask): AsyncGenerator<unknown> {
  if (task.what === 'import') {
    const name = await importLog(task.path, task.options);
    return yield* told({ what: 'ask', dataDir: task.options.dataDir, name, question: { what: 'map' } });
  }
  const answer = answerImported(task.dataDir, task.name, task.question);
  if (!answer) throw new Fault('not_found', `there is no imported log ${task.name} any more`);
  yield* answer;
}

await tellParts(told(workerData as LogTask));
