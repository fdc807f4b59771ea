import type { Process } from './scheduler.ts';
import type { World } from './world.ts';

/** How a network behaves at present. All in ms, or probabilities a message. */
export interface Weather {
  delayMs: number;
  /** A message that is never heard of again, while those behind it arrive. */
  lossChance: number;
}

/** Messages of one connection arrive this far apart, at least: at the same moment, rounding would change their order. */
const APART_MS = 0.001;

/** When a caller gives up waiting for an answer. */
const TIMEOUT_MS = 10_000;

export interface LinkOptions {
  readonly weather: Weather;
  readonly unreachable: (why: string) => Error;
  /** A client that connects again by itself; else the connection is of no use once it broke. */
  readonly reconnects: boolean;
}

interface Call {
  readonly fail: (error: Error) => void;
}

/**
 * One connection of a process to a server. Messages arrive in order, late or never; when it breaks, some of what was
 * under way to the server still arrives there, and nothing arrives back: an answer is lost after the write.
 */
export class Link {
  readonly #world: World;
  readonly #owner: Process;
  readonly #options: LinkOptions;
  #lastUp = 0;
  #lastDown = 0;
  #underway: { cancel: () => void }[] = [];
  #calls = new Set<Call>();
  #generation = 0;
  /** While cut nothing passes in either direction; it waits, as TCP sends again. */
  #cut: (() => void)[] | null = null;
  #closed = false;
  readonly #breakers = new Set<() => void>();
  /** The server's side learns that the connection is gone. */
  readonly #hangups = new Set<() => void>();

  constructor(world: World, owner: Process, options: LinkOptions) {
    this.#world = world;
    this.#owner = owner;
    this.#options = options;
  }

  /** Asks the server; `serve` runs there. */
  call<T>(serve: () => Promise<T> | T): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(this.#options.unreachable('connection closed'));
      const call: Call = { fail: reject };
      this.#calls.add(call);
      const settle = (how: () => void) => this.down(() => this.#calls.delete(call) && how());
      const generation = this.#generation;
      const lost = this.#world.random.chance(this.#options.weather.lossChance);
      const lostBack = !lost && this.#world.random.chance(this.#options.weather.lossChance);
      if (lost || lostBack) this.#giveUp(call);
      if (lost) return;
      const answered = (answer: () => void) => {
        if (generation === this.#generation && !lostBack) settle(answer);
      };
      this.up(() => {
        Promise.resolve()
          .then(serve)
          .then(
            (value) => answered(() => resolve(value)),
            (error: Error) => answered(() => reject(error)),
          );
      });
    });
  }

  #giveUp(call: Call): void {
    const timeout = () => this.#calls.delete(call) && call.fail(this.#options.unreachable('no answer in time'));
    this.#world.after(TIMEOUT_MS, timeout, this.#owner);
  }

  /** One way to the server, in order. */
  up(run: () => void): void {
    if (this.#closed) return;
    if (this.#cut) {
      this.#cut.push(() => this.up(run));
      return;
    }
    this.#lastUp = Math.max(this.#lastUp + APART_MS, this.#world.now + this.#delay());
    const entry = { cancel: () => {} };
    entry.cancel = this.#world.after(this.#lastUp - this.#world.now, () => {
      this.#underway = this.#underway.filter((one) => one !== entry);
      run();
    });
    this.#underway.push(entry);
  }

  /** One way back, in order; dropped when the connection broke meanwhile. */
  down(run: () => void): void {
    if (this.#cut) {
      this.#cut.push(() => this.down(run));
      return;
    }
    const generation = this.#generation;
    this.#lastDown = Math.max(this.#lastDown + APART_MS, this.#world.now + this.#delay());
    this.#world.after(
      this.#lastDown - this.#world.now,
      () => {
        if (generation === this.#generation) run();
      },
      this.#owner,
    );
  }

  #delay(): number {
    const { delayMs } = this.#options.weather;
    return delayMs * 0.2 + this.#world.random.long(delayMs * 0.8);
  }

  /** Both sides learn that it broke; of what was under way to the server the first so many messages still arrive. */
  break(why: string): void {
    if (!this.#options.reconnects) this.#closed = true;
    this.#generation++;
    this.#cut = null;
    const arrive = this.#world.random.below(this.#underway.length + 1);
    for (const entry of this.#underway.splice(0).slice(arrive)) entry.cancel();
    for (const hangup of this.#hangups) hangup();
    const calls = [...this.#calls];
    this.#calls.clear();
    const tell = () => {
      for (const call of calls) call.fail(this.#options.unreachable(why));
      for (const broken of this.#breakers) broken();
    };
    this.#world.after(this.#world.random.between(0, 2), tell, this.#owner);
  }

  /** Nothing passes until it is healed or breaks. */
  cut(): void {
    this.#cut ??= [];
  }

  heal(): void {
    const waiting = this.#cut ?? [];
    this.#cut = null;
    for (const send of waiting) send();
  }

  /** The process side closes it, or died. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.break('connection closed');
  }

  onBreak(broken: () => void): () => void {
    this.#breakers.add(broken);
    return () => this.#breakers.delete(broken);
  }

  onHangup(hangup: () => void): () => void {
    this.#hangups.add(hangup);
    return () => this.#hangups.delete(hangup);
  }
}
