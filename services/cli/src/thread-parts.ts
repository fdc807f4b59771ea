import { on, once } from 'node:events';
import { parentPort, Worker } from 'node:worker_threads';
import { describeError, Fault } from '@tributary/core';

/** A fault does not come through between threads as what it is. */
type Told =
  | { readonly part: unknown }
  | { readonly done: true }
  | { readonly fault: Pick<Fault, 'kind' | 'message' | 'facts'> }
  | { readonly failed: string };

export interface ThreadPartsOptions {
  readonly name: string;
  /** What the thread is to do. */
  readonly task: unknown;
  /** Of its objects, MiB. */
  readonly heapMb: number;
  /** Ends it. */
  readonly signal: AbortSignal;
}

/**
 * Starts a thread for work that would keep everybody waiting, and passes on what it makes, part by part: it makes the next one when
 * this one was taken. It ends with the last part, or when nobody wants any more.
 * @throws Fault as the work throws it; `query_refused` when it needs more memory than it may have
 */
export async function* threadParts(program: URL, { name, task, heapMb, signal }: ThreadPartsOptions): AsyncGenerator<unknown> {
  const worker = new Worker(program, { workerData: task, name, resourceLimits: { maxOldGenerationSizeMb: heapMb } });
  try {
    for await (const [told] of on(worker, 'message', { signal, close: ['exit'] }) as AsyncIterable<[Told]>) {
      if ('done' in told) return;
      if ('failed' in told) throw new Error(told.failed);
      if ('fault' in told) throw new Fault(told.fault.kind, told.fault.message, told.fault.facts);
      yield told.part;
      worker.postMessage('taken');
    }
    throw new Error(`the thread ${name} ended without an answer`);
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_WORKER_OUT_OF_MEMORY') throw error;
    throw new Fault('query_refused', `it needs more than ${heapMb} MiB of memory`, {}, { cause: error });
  } finally {
    await worker.terminate();
  }
}

/** The other side: what the thread's program makes. */
export async function tellParts(parts: AsyncIterable<unknown>): Promise<void> {
  const port = parentPort;
  if (!port) return;
  const tell = (told: Told) => port.postMessage(told);
  try {
    for await (const part of parts) {
      const taken = once(port, 'message');
      tell({ part });
      await taken;
    }
    tell({ done: true });
  } catch (error) {
    if (!(error instanceof Fault)) return tell({ failed: describeError(error) });
    const { kind, message, facts } = error;
    tell({ fault: { kind, message, facts } });
  }
}
