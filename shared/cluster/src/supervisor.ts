import { AssertionFailed, type Clock, describeError, Fault, FAULTS, type Reaction } from '@tributary/core';
import type { Actor, ActorSpec, ActorState, ActorStatus, Log } from './actor.ts';

const BACKOFF_MIN_MS = 100;
const BACKOFF_MAX_MS = 10_000;
/** What only a person can mend is tried again this often, in case one did. */
const OPERATOR_MS = 60_000;
/** Draining that takes longer is told, ms. */
const DRAIN_MS = 1_000;
/** Undisturbed work after which earlier faults no longer count. */
const HEALTHY_AFTER_MS = 60_000;

interface Supervised {
  readonly spec: ActorSpec;
  actor: Actor | null;
  state: ActorState;
  restarts: number;
  fault: ActorStatus['fault'];
  readonly faults: Record<string, number>;
  done: Promise<void>;
  stop: AbortController;
  /** Ends a back-off or a wait for the operator at once. */
  nudge: AbortController;
}

/**
 * Runs actors and is the only place that catches what they throw.
 *
 * starting → running → draining → stopped;  any → waiting (back-off, doubling, 0.1 to 10 s) → starting;
 * any → failed on a fault that only a person can mend: it is tried again every minute, and on `nudge`.
 */
export class Supervisor {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #actors = new Map<string, Supervised>();
  readonly #changed: () => void;

  /** @param changed called whenever some actor's state changes */
  constructor(clock: Clock, log: Log, changed: () => void = () => {}) {
    this.#clock = clock;
    this.#log = log;
    this.#changed = changed;
  }

  start(spec: ActorSpec): void {
    if (this.#actors.has(spec.name)) throw new AssertionFailed(`actor ${spec.name} runs already`);
    const supervised: Supervised = {
      spec,
      actor: null,
      state: 'starting',
      restarts: 0,
      fault: null,
      faults: {},
      done: Promise.resolve(),
      stop: new AbortController(),
      nudge: new AbortController(),
    };
    this.#actors.set(spec.name, supervised);
    supervised.done = this.#supervise(supervised);
  }

  /** Drains one actor, or all; resolves when they have ended. */
  async stop(name?: string): Promise<void> {
    const chosen = [...this.#actors.values()].filter((one) => name === undefined || one.spec.name === name);
    const since = this.#clock.monotonic();
    for (const one of chosen) {
      const state = one.state;
      if (one.state === 'running' || one.state === 'starting') this.#enter(one, 'draining');
      one.stop.abort(new Fault('fenced', 'stopping'));
      void one.done.then(() => {
        const ms = Math.round(this.#clock.monotonic() - since);
        if (ms > DRAIN_MS) this.#log.warn({ actor: one.spec.name, state, ms }, 'took long to end');
      });
    }
    await Promise.all(chosen.map((one) => one.done));
    for (const one of chosen) this.#actors.delete(one.spec.name);
  }

  /** Tries a waiting or failed actor again now. */
  nudge(name: string): void {
    this.#actors.get(name)?.nudge.abort(new Error('nudged'));
  }

  status(): ActorStatus[] {
    return [...this.#actors.values()].map((one) => ({
      name: one.spec.name,
      kind: one.spec.kind,
      state: one.state,
      restarts: one.restarts,
      fault: one.fault,
      faults: { ...one.faults },
      facts: one.actor?.facts() ?? {},
    }));
  }

  #enter(one: Supervised, state: ActorState): void {
    one.state = state;
    this.#changed();
  }

  async #supervise(one: Supervised): Promise<void> {
    const stopping = one.stop.signal;
    while (!stopping.aborted) {
      this.#enter(one, 'starting');
      let readyAt: number | null = null;
      try {
        one.actor = one.spec.make();
        const ready = () => {
          readyAt = this.#clock.monotonic();
          one.fault = null;
          if (!stopping.aborted) this.#enter(one, 'running');
        };
        await one.actor.run(stopping, ready, (fault) => this.#halted(one, fault));
        break;
      } catch (error) {
        if (stopping.aborted) {
          // Cut off in the middle of a step: that is how it was told to end. Anything but a fault is a bug.
          const facts = { actor: one.spec.name, error: describeError(error) };
          if (error instanceof Fault) this.#log.debug(facts, 'cut off while stopping');
          else this.#log.warn(facts, 'actor failed while stopping');
          break;
        }
        if (readyAt !== null && this.#clock.monotonic() - readyAt > HEALTHY_AFTER_MS) one.restarts = 0;
        one.restarts++;
        if (await this.#react(one, error)) break;
      }
    }
    this.#enter(one, 'stopped');
  }

  /** An actor that stays and answers while it waits for a person. */
  async #halted(one: Supervised, fault: Fault): Promise<void> {
    this.#note(one, fault);
    this.#enter(one, 'failed');
    await this.#pause(one, OPERATOR_MS);
  }

  /** @returns true when the actor is to end for good */
  async #react(one: Supervised, error: unknown): Promise<boolean> {
    const reaction = this.#note(one, error);
    if (reaction === 'stop') return true;
    this.#enter(one, reaction === 'operator' ? 'failed' : 'waiting');
    const backoff = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(one.restarts - 1, 10));
    await this.#pause(one, reaction === 'operator' ? OPERATOR_MS : backoff);
    return false;
  }

  /** Tells of a fault: in the status, in the log. @returns what is done about it */
  #note(one: Supervised, error: unknown): Reaction {
    const kind = error instanceof Fault ? error.kind : null;
    const reaction = error instanceof Fault ? error.reaction : error instanceof AssertionFailed ? 'operator' : 'restart';
    const message = describeError(error);
    one.fault = { kind: kind ?? 'bug', message, advice: kind ? FAULTS[kind].advice : 'This is a bug; please report it.' };
    one.faults[one.fault.kind] = (one.faults[one.fault.kind] ?? 0) + 1;
    const facts = error instanceof Fault ? error.facts : { stack: frames(error) };
    this.#log.error({ actor: one.spec.name, fault: one.fault.kind, reaction, ...facts }, message);
    return reaction;
  }

  async #pause(one: Supervised, ms: number): Promise<void> {
    one.nudge = new AbortController();
    try {
      await this.#clock.sleep(ms, AbortSignal.any([one.stop.signal, one.nudge.signal]));
    } catch {
      // Woken early: by stop, which the loop sees, or by a nudge, which is what it asked for.
    }
  }
}

/** Where a bug happened: the stack without the text above it, which {@link describeError} has cleaned already. */
function frames(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  return error.stack
    ?.split('\n')
    .filter((line) => /^\s+at /.test(line))
    .join('\n');
}
