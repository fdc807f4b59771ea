import type { Clock, Lsn } from '@tributary/core';
import { ContractAlerts } from './contract-alerts.ts';
import type { SlotHealth } from './database.ts';

/** The source's clock may be off, and a heartbeat late, by this much (ms) before its age counts as lag. */
const PATIENCE_MS = 2_000;

/**
 * What a worker remembers of a source from one instance of its actor to the next, for status and alarms only.
 *
 * A source that cannot start tells nothing of itself, and just then its slot keeps log that nobody takes. So the
 * ages here go on growing while instances come and go.
 */
export class Vitals {
  readonly #heartbeatMs: number;
  readonly #clock: Clock;
  readonly alerts: ContractAlerts;
  #slot: SlotHealth | null = null;
  #confirmed: Lsn = 0n;
  /** Monotonic, ms. */
  #confirmedAt: number | null = null;
  /** Microseconds, the source's clock. */
  #watermark = 0;

  constructor(heartbeatMs: number, clock: Clock, alerts = new ContractAlerts(clock)) {
    this.alerts = alerts;
    this.#heartbeatMs = heartbeatMs;
    this.#clock = clock;
  }

  slot(health: SlotHealth | null): void {
    this.#slot = health;
  }

  confirmed(lsn: Lsn): void {
    if (this.#confirmedAt !== null && lsn <= this.#confirmed) return;
    this.#confirmed = lsn;
    this.#confirmedAt = this.#clock.monotonic();
  }

  /** The changelog is complete up to this commit time (microseconds). */
  complete(watermark: number): void {
    this.#watermark = Math.max(this.#watermark, watermark);
  }

  /** @param arrivedMs how late the newest stored commit was; a changelog that stopped moving is as late as it is old */
  facts(arrivedMs: number | null): Record<string, unknown> {
    const ageMs = this.#watermark === 0 ? 0 : this.#clock.now() - this.#watermark / 1_000;
    const late = ageMs > 2 * this.#heartbeatMs + PATIENCE_MS;
    return {
      slot: this.#slot,
      confirmAgeMs: this.#confirmedAt === null ? null : this.#clock.monotonic() - this.#confirmedAt,
      watermark: this.#watermark,
      lagMs: late ? Math.round(ageMs) : arrivedMs,
      alerts: this.alerts.list(),
    };
  }
}
