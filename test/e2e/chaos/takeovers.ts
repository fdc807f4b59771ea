import { type Broker, connectNats } from '@tributary/changelog';
import type { StatusTold } from '@tributary/cluster';

/** An actor that is away for longer is told at once: the logs around it say why, ms. */
const LATE_MS = 20_000;

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

function spread(times: readonly number[]): string {
  const sorted = times.map(Math.round).toSorted((a, b) => a - b);
  const [p50, p99, max] = [0.5, 0.99, 1].map((share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]);
  return `p50 ${p50}, p99 ${p99}, max ${max} ms`;
}

/**
 * Measures how long an actor is away: from the blow at the worker that runs it until another process tells that it runs.
 * It hears what `tributary status` hears.
 */
export class Takeovers {
  readonly #broker: Broker;
  readonly #late: (taken: Taken) => void;
  /** Which worker tells that it runs an actor. */
  readonly #runs = new Map<string, string>();
  readonly #waiting = new Map<string, Waiting>();
  readonly #taken: Taken[] = [];
  readonly #ended = new Map<string, number[]>();

  private constructor(broker: Broker, late: (taken: Taken) => void) {
    this.#broker = broker;
    this.#late = late;
  }

  /** @param late told of every actor that was away for longer than {@link LATE_MS} */
  static async listen(natsUrl: string, late: (taken: Taken) => void): Promise<Takeovers> {
    const takeovers = new Takeovers(await connectNats({ url: natsUrl, name: 'chaos observer' }), late);
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

  /** A process of a service has ended, so long after SIGTERM. */
  ended(service: string, ms: number): void {
    this.#ended.set(service, [...(this.#ended.get(service) ?? []), ms]);
  }

  /** Per kind of blow, how long actors were away, and per service, how long its processes took to end. */
  report(): string[] {
    const faults = [...new Set(this.#taken.map((one) => one.fault))];
    const away = faults.map((fault) => {
      const times = this.#taken.filter((one) => one.fault === fault).map(({ ms }) => ms);
      return `after ${fault}: ${times.length} actors ran elsewhere after ${spread(times)}`;
    });
    return [
      ...away,
      ...[...this.#ended].map(([service, ms]) => `SIGTERM: ${ms.length} ${service} workers ended after ${spread(ms)}`),
    ];
  }

  async close(): Promise<void> {
    await this.#broker.close();
  }

  #hear({ worker, actors }: StatusTold): void {
    const running = new Set(actors.filter(({ state }) => state === 'running').map(({ name }) => name));
    // What it gave away or lost before, for whatever reason, is not what a blow at it takes away.
    for (const [name, where] of this.#runs) if (where === worker && !running.has(name)) this.#runs.delete(name);
    for (const { name, state } of actors) {
      if (state !== 'running') continue;
      const waiting = this.#waiting.get(name);
      if (waiting?.worker === worker) continue;
      if (waiting) {
        const taken = { fault: waiting.fault, actor: name, ms: performance.now() - waiting.since };
        this.#taken.push(taken);
        if (taken.ms > LATE_MS) this.#late(taken);
        this.#waiting.delete(name);
      }
      this.#runs.set(name, worker);
    }
  }
}
