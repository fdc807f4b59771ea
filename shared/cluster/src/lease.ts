import type { Clock, Kv, KvEntry } from '@tributary/core';

/** Longest time without a renewal after which others may take a lease, ms. */
export const LEASE_TTL_MS = 10_000;

/** What stands at `lease.<assignment>`. */
export interface LeaseRecord {
  /** Worker that has it; '' = free. */
  readonly owner: string;
  /** Rises with every taking. */
  readonly epoch: number;
}

export interface LeaseOptions {
  readonly kv: Kv;
  readonly clock: Clock;
  readonly assignment: string;
  readonly owner: string;
  readonly ttlMs: number;
}

/** Key of an assignment's lease. Assignment names hold `/` and `#`; a key takes the first but not the second. */
export function leaseKey(assignment: string): string {
  return `lease.${assignment.replaceAll('#', '=')}`;
}

export function readLease(value: unknown): LeaseRecord {
  const { owner, epoch } = (value ?? {}) as Partial<LeaseRecord>;
  return { owner: typeof owner === 'string' ? owner : '', epoch: typeof epoch === 'number' ? epoch : 0 };
}

/**
 * The right to run one assignment, for a while. It saves wasted work and protects nothing: changelogs, slots and positions
 * refuse a second writer by themselves (ARCHITECTURE.md, Fencing).
 *
 * L1 It is taken and kept only by writes over the revision that was read: of two, one wins.
 * L2 `heldUntil` counts from before the last successful write was sent, on this process's monotonic clock, and ends
 *    before any other worker, which counts from when it saw that write, may take it.
 * L3 Epochs only rise, as long as the bucket lives. In a bucket made anew revisions begin at 1 again, so the renewal of an
 *    owner that slept through it may once write over a newer lease; the simulation shows it, and that no data is harmed.
 */
export class Lease {
  readonly epoch: number;
  readonly #options: LeaseOptions;
  #revision: number;
  #writtenAt: number;

  private constructor(options: LeaseOptions, epoch: number, written: { readonly revision: number; readonly at: number }) {
    this.#options = options;
    this.epoch = epoch;
    this.#revision = written.revision;
    this.#writtenAt = written.at;
  }

  /**
   * @param epochMin epoch that was seen last
   * @param free may this lease, as it stands, be taken?
   * @returns null when it may not, or somebody else was faster
   * @throws Fault `broker_unreachable`
   */
  static async take(options: LeaseOptions, epochMin: number, free: (entry: KvEntry) => boolean): Promise<Lease | null> {
    const { kv, clock, owner } = options;
    const key = leaseKey(options.assignment);
    const entry = await kv.get(key);
    if (entry && !free(entry)) return null;
    const epoch = Math.max(epochMin, entry ? readLease(entry.value).epoch : 0) + 1;
    const at = clock.monotonic();
    const record: LeaseRecord = { owner, epoch };
    const revision = entry ? await kv.update(key, record, entry.revision) : await kv.create(key, record);
    return revision === null ? null : new Lease(options, epoch, { revision, at });
  }

  /** Monotonic time at which the last write that succeeded was sent. */
  get writtenAt(): number {
    return this.#writtenAt;
  }

  /** Monotonic time at which the work must have ended unless the lease was renewed; a fifth of the TTL is kept for draining. */
  get heldUntil(): number {
    return this.#writtenAt + this.#options.ttlMs * 0.8;
  }

  /**
   * Several may be under way: a question that was lost with a leader of the bucket is asked again before its time is over.
   * @returns false when somebody else has it. @throws Fault `broker_unreachable`: it may or may not have been renewed
   */
  async renew(): Promise<boolean> {
    const { kv } = this.#options;
    const key = leaseKey(this.#options.assignment);
    for (;;) {
      if (await this.#write((record) => kv.update(key, record, this.#revision))) return true;
      const entry = await kv.get(key);
      // The bucket was lost: whoever makes the key first has the lease.
      if (!entry) {
        if (await this.#write((record) => kv.create(key, record))) return true;
        continue;
      }
      const { owner, epoch } = readLease(entry.value);
      if (owner !== this.#options.owner || epoch !== this.epoch) return false;
      // The answer to an earlier renewal was lost, or has not come yet; the renewal was made.
      this.#revision = entry.revision;
    }
  }

  /** Lets go; the key stays, so that the epoch goes on. */
  async release(): Promise<void> {
    await this.#options.kv.update(leaseKey(this.#options.assignment), { owner: '', epoch: this.epoch }, this.#revision);
  }

  async #write(write: (record: LeaseRecord) => Promise<number | null>): Promise<boolean> {
    const at = this.#options.clock.monotonic();
    const revision = await write({ owner: this.#options.owner, epoch: this.epoch });
    if (revision === null) return false;
    // The answer to an earlier question, after that to a later one.
    if (at < this.#writtenAt) return true;
    this.#revision = revision;
    this.#writtenAt = at;
    return true;
  }
}
