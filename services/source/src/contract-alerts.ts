import type { Clock } from '@tributary/core';
import type { Breach } from './contract.ts';

/** A breach of a contract, as status and alarms tell it. JSON. */
export interface ContractAlert {
  /** `schema.table`. */
  readonly table: string;
  readonly column: string | null;
  readonly problem: string;
  /** Who answers for the contract. */
  readonly owner: string;
  /** Milliseconds since 1970. */
  readonly raisedAt: number;
  /** Null while it lasts. */
  readonly resolvedAt: number | null;
}

/** Alerts that are over are remembered, up to so many. */
const RESOLVED_MAX = 100;

/**
 * What a worker remembers of the breaches of one source: each is told of once when it begins and once when it ends, however
 * often it is seen meanwhile, and whatever becomes of the actor, or of the contract.
 */
export class ContractAlerts {
  readonly #clock: Clock;
  readonly #told: (alert: ContractAlert) => void;
  #raised = new Map<string, ContractAlert>();
  #resolved: ContractAlert[] = [];

  /** @param told called once for each alert that is raised, and once when it is resolved */
  constructor(clock: Clock, told: (alert: ContractAlert) => void = () => {}) {
    this.#clock = clock;
    this.#told = told;
  }

  /** Everything that is broken now. */
  tell(breaches: readonly Breach[], owner: string): void {
    const now = this.#clock.now();
    const before = this.#raised;
    this.#raised = new Map();
    for (const { table, column, problem } of breaches) {
      const id = JSON.stringify([table, problem, owner]);
      const known = before.get(id);
      before.delete(id);
      const alert = known ?? { table, column, problem, owner, raisedAt: now, resolvedAt: null };
      this.#raised.set(id, alert);
      if (!known) this.#told(alert);
    }
    for (const alert of before.values()) {
      const over = { ...alert, resolvedAt: now };
      this.#resolved = [...this.#resolved, over].slice(-RESOLVED_MAX);
      this.#told(over);
    }
  }

  /** Those that last, then those that are over, newest first. */
  list(): ContractAlert[] {
    return [...this.#raised.values(), ...this.#resolved.toReversed()];
  }
}
