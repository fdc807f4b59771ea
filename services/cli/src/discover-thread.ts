import { workerData } from 'node:worker_threads';
import { connectNats } from '@tributary/changelog';
import { type ProposedProcess, proposedProcesses } from './proposed.ts';
import { tellParts } from './thread-parts.ts';

/** Where the changelogs are. */
export interface DiscoverTask {
  readonly url: string;
  readonly creds: string | undefined;
  readonly replicas: number;
}

/** Proposes processes, in a thread of its own: it reads all that is retained, and nobody else must wait meanwhile. */
async function* proposals(task: DiscoverTask): AsyncGenerator<readonly ProposedProcess[]> {
  const broker = await connectNats({ ...task, name: 'tributary discover' });
  try {
    yield await proposedProcesses({ broker }, new AbortController().signal);
  } finally {
    await broker.close();
  }
}

await tellParts(proposals(workerData as DiscoverTask));
