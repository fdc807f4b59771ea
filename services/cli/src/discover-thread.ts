import { parentPort, workerData } from 'node:worker_threads';
import { connectNats } from '@tributary/changelog';
import { describeError, Fault } from '@tributary/core';
import { type ProposedProcess, proposedProcesses } from './proposed.ts';

/** Where the changelogs are. */
export interface DiscoverTask {
  readonly url: string;
  readonly creds: string | undefined;
  readonly replicas: number;
}

/** A fault does not come through between threads as what it is. */
export type DiscoverTold =
  | { readonly proposals: readonly ProposedProcess[] }
  | { readonly fault: Pick<Fault, 'kind' | 'message' | 'facts'> }
  | { readonly failed: string };

/** Proposes processes, in a thread of its own that ends with the answer: it reads all that is retained, and nobody else must wait meanwhile. */
async function run(task: DiscoverTask): Promise<DiscoverTold> {
  try {
    const broker = await connectNats({ ...task, name: 'tributary discover' });
    try {
      return { proposals: await proposedProcesses({ broker }, new AbortController().signal) };
    } finally {
      await broker.close();
    }
  } catch (error) {
    if (!(error instanceof Fault)) return { failed: describeError(error) };
    const { kind, message, facts } = error;
    return { fault: { kind, message, facts } };
  }
}

parentPort?.postMessage(await run(workerData as DiscoverTask));
