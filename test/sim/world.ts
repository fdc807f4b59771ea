import type { Clock, Random } from '@tributary/core';
import { Prng } from './prng.ts';
import { type Process, Scheduler } from './scheduler.ts';

/** 2026-11-26, in milliseconds since 1970: when every simulated world begins. */
export const WORLD_BEGINS = 1_795_651_200_000;

/** A rule that a simulated world broke, by the name of its checker. */
export class Violation extends Error {
  readonly checker: string;

  constructor(checker: string, message: string) {
    super(`${checker}: ${message}`);
    this.checker = checker;
  }
}

/** Time, chance, and what happened: what everything in one simulated world shares. */
export class World {
  readonly scheduler = new Scheduler();
  readonly random: Prng;
  /** The first rule that was broken. */
  violation: Violation | null = null;
  readonly lines: string[] = [];
  readonly #linesMax: number;

  constructor(seed: number, linesMax: number) {
    this.random = new Prng(seed);
    this.#linesMax = linesMax;
  }

  get now(): number {
    return this.scheduler.now;
  }

  after(delay: number, run: () => void, owner: Process | null = null): () => void {
    return this.scheduler.after(delay, run, owner);
  }

  /** Notes what happened: it is part of the trace hash. */
  tell(line: string): void {
    for (let i = 0; i < line.length; i++) this.scheduler.mix(line.charCodeAt(i));
    if (this.#linesMax === 0) return;
    this.lines.push(`${this.now.toFixed(3)} ${line}`);
    if (this.lines.length > this.#linesMax) this.lines.shift();
  }

  broke(checker: string, message: string): void {
    this.violation ??= new Violation(checker, `at ${this.now.toFixed(3)} ms: ${message}`);
    this.tell(`VIOLATION ${checker}: ${message}`);
  }
}

/** One process's view of time: its wall clock may jump, its monotonic clock does not, and its sleeps end with it. */
export class SimClock implements Clock {
  readonly #world: World;
  readonly #owner: Process;
  /** How far the wall clock is off, ms. */
  offset = 0;

  constructor(world: World, owner: Process) {
    this.#world = world;
    this.#owner = owner;
  }

  now(): number {
    return WORLD_BEGINS + Math.floor(this.#world.now) + this.offset;
  }

  monotonic(): number {
    return this.#world.now;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason as Error);
      const abort = () => {
        cancel();
        reject(signal?.reason as Error);
      };
      const wake = () => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
      // As a real timer: never shorter than a millisecond.
      const cancel = this.#world.after(Math.max(1, ms), wake, this.#owner);
      signal?.addEventListener('abort', abort, { once: true });
    });
  }
}

/** Names drawn from the world's chance. */
export class SimRandom implements Random {
  readonly #prng: Prng;
  #given = 0;

  constructor(prng: Prng) {
    this.#prng = prng;
  }

  token(): string {
    return `${this.#prng.word().toString(36)}-${this.#given++}`;
  }
}
