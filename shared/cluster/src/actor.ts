import type { Fault } from '@tributary/core';

/** Structured log lines: names, counts, positions; never row values. `ops` gives one that writes with pino. */
export interface Log {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export type ActorState = 'starting' | 'running' | 'draining' | 'stopped' | 'failed' | 'waiting';

/**
 * One unit of work run by exactly one worker. A fresh instance is made for every start, so an actor never
 * has to clean its own state for another try; whatever must survive lives in changelogs and targets.
 */
export interface Actor {
  /**
   * Works until `signal` aborts, then drains and returns. Throwing a Fault lets the supervisor decide
   * (retry and restart: again after a back-off; operator: waits in state failed; stop: ends).
   * Calls `ready` when it does its work.
   *
   * An actor that still has to answer while it waits for a person does not throw the fault but says `halted`: it is shown
   * as failed, and the promise resolves when it is to be tried again; `ready` then says that all is well.
   */
  run(signal: AbortSignal, ready: () => void, halted: (fault: Fault) => Promise<void>): Promise<void>;
  /** Facts for status and metrics, cheap, callable at any time. JSON only; LSNs as text. */
  facts(): Record<string, unknown>;
}

/** What to run: `name` is `source/<source>` or `<sink>/<source>`. */
export interface ActorSpec {
  readonly name: string;
  /** `source`, `ods`, `lake`. */
  readonly kind: string;
  make(): Actor;
}

export interface ActorStatus {
  readonly name: string;
  readonly kind: string;
  readonly state: ActorState;
  /** Starts after a fault since the last minute of undisturbed work. */
  readonly restarts: number;
  /** Faults by kind (`bug` for what is none) since this worker took the actor. */
  readonly faults: Readonly<Record<string, number>>;
  /** The last fault: what happened and what to do; null when all is well. */
  readonly fault: { readonly kind: string; readonly message: string; readonly advice: string } | null;
  readonly facts: Record<string, unknown>;
}
