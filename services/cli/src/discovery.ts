import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { ProcessDiscovery } from '@tributary/console';
import { Fault } from '@tributary/core';
import type { DiscoverTask, DiscoverTold } from './discover-thread.ts';
import type { ProposedProcess } from './proposed.ts';

/** What it holds of some twenty thousand objects a table. */
const HEAP_MB = 256;

/** Proposes processes for whoever asks over HTTP, in a thread that runs as long as it takes; whoever asks meanwhile gets the same answer. */
export class Discovery implements ProcessDiscovery {
  readonly #task: DiscoverTask;
  readonly #signal: AbortSignal;
  #running: Promise<readonly ProposedProcess[]> | null = null;

  /** @param signal ends what runs */
  constructor(task: DiscoverTask, signal: AbortSignal) {
    this.#task = task;
    this.#signal = signal;
  }

  /** @throws Fault as the changelogs cannot be read */
  propose(): Promise<readonly ProposedProcess[]> {
    this.#running ??= this.#proposed().finally(() => (this.#running = null));
    return this.#running;
  }

  async #proposed(): Promise<readonly ProposedProcess[]> {
    const worker = new Worker(new URL('./discover-thread.js', import.meta.url), {
      workerData: this.#task,
      name: 'discover',
      resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
    });
    try {
      const [told] = (await once(worker, 'message', { signal: this.#signal })) as [DiscoverTold];
      if ('failed' in told) throw new Error(told.failed);
      if ('fault' in told) throw new Fault(told.fault.kind, told.fault.message, told.fault.facts);
      return told.proposals;
    } finally {
      await worker.terminate();
    }
  }
}
