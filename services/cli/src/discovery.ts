import type { ProcessDiscovery } from '@tributary/console';
import type { DiscoverTask } from './discover-thread.ts';
import type { ProposedProcess } from './proposed.ts';
import { threadParts } from './thread-parts.ts';

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
    const program = new URL('./discover-thread.js', import.meta.url);
    const options = { name: 'discover', task: this.#task, heapMb: HEAP_MB, signal: this.#signal };
    const { value } = await threadParts(program, options).next();
    return value as readonly ProposedProcess[];
  }
}
