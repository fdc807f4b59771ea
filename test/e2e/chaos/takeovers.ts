import { type Broker, connectNats } from '@tributary/changelog';
import type { StatusTold } from '@tributary/cluster';

interface Taken {
  readonly fault: string;
  readonly actor: string;
  readonly ms: number;
}

interface Waiting {
  readonly fault: string;
  readonly worker: string;
  /** `performance.now()` of the blow. */
  readonly since: number;
}

/** A share of a sorted list's way: 0.5 is its middle. */
function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] as number;
}

/**
 * Measures how long an actor is away: from the blow at the worker that runs it until another process tells that it runs.
 * It hears what `tributary status` hears.
 */
export class Takeovers {
  readonly #broker: Broker;
  /** Which worker told last that it runs an actor. */
  readonly #runs = new Map<string, string>();
  readonly #waiting = new Map<string, Waiting>();
  readonly #taken: Taken[] = [];

  private constructor(broker: Broker) {
    this.#broker = broker;
  }

  static async listen(natsUrl: string): Promise<Takeovers> {
    const takeovers = new Takeovers(await connectNats({ url: natsUrl, name: 'chaos observer' }));
    await takeovers.#broker.bus.listen('tributary.status', (value) => takeovers.#hear(value as StatusTold));
    return takeovers;
  }

  /** A blow falls now on a worker, named as it names itself: whatever it runs is awaited elsewhere. @returns those actors */
  blow(fault: string, worker: string): string[] {
    const actors = [...this.#runs].filter(([, where]) => where === worker).map(([actor]) => actor);
    for (const actor of actors) this.#waiting.set(actor, { fault, worker, since: performance.now() });
    return actors;
  }

  /** The worker is well again before somebody took over: what it still runs was never away. */
  spared(worker: string): void {
    for (const [actor, waiting] of this.#waiting) if (waiting.worker === worker) this.#waiting.delete(actor);
  }

  /** True when every one of these actors runs somewhere, as far as was heard. */
  run(actors: readonly string[]): boolean {
    return actors.every((actor) => this.#runs.has(actor));
  }

  /** Per kind of blow: how many actors moved, and how long they were away, ms. */
  report(): Record<string, { count: number; p50Ms: number; p99Ms: number; maxMs: number }> {
    return Object.fromEntries(
      [...new Set(this.#taken.map((one) => one.fault))].map((fault) => {
        const taken = this.#taken.filter((one) => one.fault === fault);
        const sorted = taken.map((one) => Math.round(one.ms)).toSorted((a, b) => a - b);
        const [p50Ms, p99Ms, maxMs] = [0.5, 0.99, 1].map((share) => quantile(sorted, share)) as [number, number, number];
        return [fault, { count: sorted.length, p50Ms, p99Ms, maxMs }];
      }),
    );
  }

  async close(): Promise<void> {
    await this.#broker.close();
  }

  #hear({ worker, actors }: StatusTold): void {
    for (const { name, state } of actors) {
      if (state !== 'running') continue;
      const waiting = this.#waiting.get(name);
      if (waiting?.worker === worker) continue;
      if (waiting) {
        this.#taken.push({ fault: waiting.fault, actor: name, ms: performance.now() - waiting.since });
        this.#waiting.delete(name);
      }
      this.#runs.set(name, worker);
    }
  }
}
