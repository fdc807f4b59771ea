import { type Clock, describeError, Fault, type Kv } from '@tributary/core';
import type { ActorSpec, Log } from './actor.ts';
import { LEASE_TTL_MS, Lease, leaseKey, readLease } from './lease.ts';
import { type Candidate, place } from './place.ts';
import { Registration, type WorkerRecord, workersIn } from './registration.ts';
import { Rest } from './rest.ts';
import { Supervisor } from './supervisor.ts';
import { aborted } from './together.ts';
import { View } from './view.ts';

/** What moves together from worker to worker, under one lease. */
export interface Assignment {
  /** Unique in the cluster: `source/<source>`, `<sink>/<source>`, or the sink where all its projections share one state. */
  readonly name: string;
  /** Only workers with all of these run it. */
  readonly labels: Readonly<Record<string, string>>;
  /** Of everything it is made from: another one means that it is started anew. */
  readonly fingerprint: string;
  readonly actors: readonly ActorSpec[];
  /** Lets go of what the actors share, after the last has ended. */
  close?(): Promise<void>;
}

export interface WorkerOptions {
  /** Unique among all that ever ran, unless the earlier one is known to be dead: then its leases are taken at once. */
  readonly id: string;
  readonly service: string;
  /** Null: whatever labels ask for. */
  readonly labels: Readonly<Record<string, string>> | null;
  readonly capacity: number;
  readonly kv: Kv;
  readonly clock: Clock;
  readonly log: Log;
  /** Default {@link LEASE_TTL_MS}. */
  readonly ttlMs?: number;
  /** Called when an actor's state or a lease changed. */
  readonly changed: () => void;
}

export interface LeaseStatus {
  readonly assignment: string;
  readonly epoch: number;
  /** Since it was taken, ms. */
  readonly heldMs: number;
  /** Since the last renewal was sent, ms. */
  readonly renewedMs: number;
}

/** An assignment that this worker leads. */
interface Led {
  readonly lease: Lease;
  readonly since: number;
  assignment: Assignment;
  /** Aborted when it is to be given away. */
  readonly release: AbortController;
  /** Aborted when its assignment is to be started anew, from another config. */
  restart: AbortController;
  lost: boolean;
}

/** Longest wait for the others to hear that this worker leaves before it begins to drain, ms. */
const FAREWELL_MS = 200;
/**
 * Longest wait of a leaving worker for a broker that does not answer, ms: during an election a lease that is not given back
 * ends by itself not much later than it could be given back.
 */
const GOODBYE_MS = 300;
/** Share of the TTL between two renewals. */
const RENEWALS_A_TTL = 4;
/** A renewal that is not answered for so long is asked again beside it, ms: what went to a leader that died is never answered. */
const UNANSWERED_MS = 1_000;
/** Shortest wait after a lease could not be taken or renewed, ms. */
const AGAIN_MS = 250;

/**
 * One worker of the cluster: registers, looks who is there, computes who runs what, and leads what is placed on it.
 *
 * W1 It runs an assignment's actors only while it has the assignment's lease, and ends them before the lease can end.
 * W2 It gives an assignment away only drained: actors ended first, then the lease.
 * W3 What it decides depends on the bucket alone, so workers that have seen the same decide the same.
 * States and rules: SPEC.md.
 */
export class Worker {
  readonly supervisor: Supervisor;
  readonly #options: WorkerOptions;
  readonly #ttlMs: number;
  readonly #view: View;
  readonly #registration: Registration;
  readonly #led = new Map<string, Led>();
  /** Being taken or led. */
  readonly #tasks = new Map<string, Promise<void>>();
  /** Aborted when it begins to drain, because it leaves. */
  readonly #farewell = new AbortController();
  readonly #end = new AbortController();
  readonly #rest: Rest;
  #assignments = new Map<string, Assignment>();
  #running: Promise<unknown> = Promise.resolve();
  #leaving = false;
  #takeovers = 0;

  constructor(options: WorkerOptions) {
    this.#options = options;
    this.#ttlMs = options.ttlMs ?? LEASE_TTL_MS;
    this.supervisor = new Supervisor(options.clock, options.log, options.changed);
    this.#rest = new Rest(options.clock);
    this.#view = new View(options, () => this.#rest.call());
    this.#registration = new Registration({ ...options, ttlMs: this.#ttlMs });
  }

  /** Leases that were taken from a worker which had gone silent. */
  get takeovers(): number {
    return this.#takeovers;
  }

  leases(): LeaseStatus[] {
    const now = this.#options.clock.monotonic();
    return [...this.#led].map(([assignment, { lease, since }]) => ({
      assignment,
      epoch: lease.epoch,
      heldMs: now - since,
      renewedMs: now - lease.writtenAt,
    }));
  }

  start(assignments: readonly Assignment[]): void {
    this.assign(assignments);
    const { signal } = this.#end;
    this.#running = Promise.all([this.#view.run(signal), this.#registration.run(signal), this.#reconcile(signal)]);
  }

  /** What it may run from now on; assignments that are no longer among them end, those that changed start anew. */
  assign(assignments: readonly Assignment[]): void {
    this.#assignments = new Map(assignments.map((assignment) => [assignment.name, assignment]));
    this.#registration.tell(assignments);
    this.#rest.call();
  }

  /** Leaves the cluster: tells so first, then drains everything and gives it away. */
  async stop(): Promise<void> {
    this.#leaving = true;
    const withdrawn = this.#registration.withdraw();
    await Promise.race([withdrawn, this.#options.clock.sleep(FAREWELL_MS)]);
    this.#farewell.abort(new Error('the worker leaves'));
    for (const led of this.#led.values()) led.release.abort();
    await Promise.all(this.#tasks.values());
    this.#end.abort(new Error('the worker has left'));
    this.#rest.call();
    await this.#answered(Promise.all([withdrawn, this.#running])).catch(() => {});
  }

  /** What was asked of the bucket; a worker that leaves does not wait long for it. @throws Fault `broker_unreachable` */
  async #answered<T>(asked: Promise<T>): Promise<T> {
    const answer = new AbortController();
    const patience = async (): Promise<never> => {
      await aborted(AbortSignal.any([this.#farewell.signal, answer.signal]));
      await this.#options.clock.sleep(GOODBYE_MS, answer.signal);
      throw new Fault('broker_unreachable', `the broker has not answered for ${GOODBYE_MS} ms, and this worker leaves`);
    };
    const late = patience();
    late.catch(() => {});
    try {
      return await Promise.race([asked, late]);
    } finally {
      answer.abort(new Error('answered'));
      asked.catch(() => {});
    }
  }

  async #reconcile(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const dueMs = this.#view.current && !this.#leaving ? this.#decide() : this.#ttlMs;
      await this.#rest.take(dueMs, signal);
    }
  }

  /** Gives away and takes what has to be. @returns ms after which to look again though nothing changes */
  #decide(): number {
    const now = this.#options.clock.monotonic();
    const { id, service } = this.#options;
    const { live, dead, dueMs } = workersIn(this.#view, { now, ttlMs: this.#ttlMs, service });
    this.#registration.forget(dead);
    const workers = [...live.filter((worker) => worker.id !== id), this.#registration.record(id)];
    const placed = place(this.#placeable(workers), workers.map(candidate));
    let due = Math.min(this.#ttlMs, dueMs);
    for (const [name, led] of this.#led) {
      const assignment = this.#assignments.get(name);
      if (!assignment || placed.get(name) !== id) led.release.abort();
      else if (assignment.fingerprint !== led.assignment.fingerprint) {
        led.assignment = assignment;
        led.restart.abort();
      }
    }
    for (const [name, assignment] of this.#assignments) {
      if (placed.get(name) !== id || this.#tasks.has(name)) continue;
      const waitMs = this.#freeIn(name, now);
      if (waitMs <= 0) this.#take(assignment);
      else due = Math.min(due, waitMs);
    }
    return due;
  }

  #placeable(workers: readonly (WorkerRecord & { readonly id: string })[]) {
    const labels = new Map(
      workers.flatMap((worker) => worker.assignments.map((assignment) => [assignment.name, assignment.labels])),
    );
    return [...labels].map(([name, wanted]) => {
      const seen = this.#view.get(leaseKey(name));
      const owner = this.#led.has(name) ? this.#options.id : seen ? readLease(seen.value).owner : '';
      return { name, labels: wanted, owner: owner === '' ? null : owner };
    });
  }

  /** Ms until an assignment's lease may be taken; 0 = now. */
  #freeIn(name: string, now: number): number {
    const seen = this.#view.get(leaseKey(name));
    if (!seen) return 0;
    const { owner } = readLease(seen.value);
    if (owner === '' || owner === this.#options.id) return 0;
    return seen.movedAt + this.#ttlMs - now;
  }

  #take(assignment: Assignment): void {
    const task = this.#lead(assignment).finally(() => {
      this.#tasks.delete(assignment.name);
      this.#rest.call();
    });
    this.#tasks.set(assignment.name, task);
  }

  /** Takes the lease, runs the assignment while it lasts, and lets go. */
  async #lead(assignment: Assignment): Promise<void> {
    const { clock, log, id, changed } = this.#options;
    const { name } = assignment;
    const taken = await this.#answered(this.#acquire(name)).catch(() => null);
    if (!taken) return this.#leaving ? undefined : clock.sleep(AGAIN_MS);
    const { lease, from } = taken;
    if (from !== '' && from !== id) this.#takeovers++;
    log.info({ assignment: name, epoch: lease.epoch, ...(from === '' ? {} : { from }) }, 'leads');
    const led: Led = {
      lease,
      assignment,
      since: clock.monotonic(),
      release: new AbortController(),
      restart: new AbortController(),
      lost: false,
    };
    if (this.#leaving) led.release.abort();
    this.#led.set(name, led);
    changed();
    await this.#run(led);
    this.#led.delete(name);
    changed();
  }

  /** @returns null when the lease could not be had; `from`: whose it was, '' = nobody's */
  async #acquire(assignment: string): Promise<{ lease: Lease; from: string } | null> {
    const { kv, clock, log, id } = this.#options;
    const seen = this.#view.get(leaseKey(assignment));
    const epochMin = seen ? readLease(seen.value).epoch : 0;
    let from = '';
    try {
      const lease = await Lease.take({ kv, clock, assignment, owner: id, ttlMs: this.#ttlMs }, epochMin, (entry) => {
        this.#view.note(entry);
        from = readLease(entry.value).owner;
        return this.#freeIn(assignment, clock.monotonic()) <= 0;
      });
      return lease && { lease, from };
    } catch (error) {
      log.warn({ assignment, error: describeError(error) }, 'the lease could not be taken; trying again');
      return null;
    }
  }

  async #run(led: Led): Promise<void> {
    const { log } = this.#options;
    const drained = new AbortController();
    const keeping = this.#keep(led, drained.signal);
    const { signal: release } = led.release;
    while (!release.aborted) {
      const { assignment } = led;
      for (const spec of assignment.actors) this.supervisor.start(spec);
      await aborted(AbortSignal.any([release, led.restart.signal]));
      led.restart = new AbortController();
      await Promise.all(assignment.actors.map((spec) => this.supervisor.stop(spec.name)));
      await assignment.close?.();
    }
    drained.abort();
    const facts = { assignment: led.assignment.name, epoch: led.lease.epoch };
    try {
      // A renewal that is under way comes first: what is given back is what it wrote.
      await this.#answered(keeping);
      if (led.lost) return log.warn(facts, 'lost its lease and stopped');
      await this.#answered(led.lease.release());
      log.info(facts, 'handed over');
    } catch (error) {
      log.warn({ ...facts, error: describeError(error) }, 'the lease could not be given back; it ends by itself');
    }
  }

  /** Renews until `drained`; when somebody else has the lease, or it could not be renewed for too long, it is lost. */
  async #keep(led: Led, drained: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    let waitMs = this.#ttlMs / RENEWALS_A_TTL;
    while (!drained.aborted) {
      await clock.sleep(Math.min(waitMs, Math.max(0, led.lease.heldUntil - clock.monotonic())), drained).catch(() => {});
      if (drained.aborted) return;
      try {
        const renewed = await this.#renewed(led.lease);
        if (renewed === 'kept') {
          waitMs = this.#ttlMs / RENEWALS_A_TTL;
          continue;
        }
        led.lost = true;
      } catch (error) {
        log.warn(
          { assignment: led.assignment.name, error: describeError(error) },
          'the lease could not be renewed; trying again',
        );
        waitMs = AGAIN_MS;
        led.lost = clock.monotonic() >= led.lease.heldUntil;
      }
      if (led.lost) return led.release.abort();
    }
  }

  /** One renewal, asked again while it is not answered, and not waited for beyond the end of the lease. @throws when all failed */
  async #renewed(lease: Lease): Promise<'kept' | 'lost'> {
    const { clock } = this.#options;
    const asked: Promise<boolean>[] = [];
    for (;;) {
      asked.push(lease.renew());
      const kept = await this.#within(Math.min(UNANSWERED_MS, lease.heldUntil - clock.monotonic()), firstOf(asked));
      if (kept !== null) return kept ? 'kept' : 'lost';
      if (clock.monotonic() >= lease.heldUntil) return 'lost';
    }
  }

  /** @returns null when there is no answer after `ms` */
  async #within<T>(ms: number, answer: Promise<T>): Promise<T | null> {
    const answered = new AbortController();
    const late = this.#options.clock.sleep(Math.max(0, ms), answered.signal).then(
      () => null,
      () => null,
    );
    try {
      return await Promise.race([answer, late]);
    } finally {
      answered.abort(new Error('answered'));
    }
  }
}

/** The first answer. @throws the last failure, when there is none but failures */
async function firstOf<T>(asked: readonly Promise<T>[]): Promise<T> {
  try {
    return await Promise.any(asked);
  } catch (error) {
    throw (error as AggregateError).errors.at(-1);
  }
}

function candidate(worker: WorkerRecord & { readonly id: string }): Candidate {
  return {
    id: worker.id,
    labels: worker.labels,
    capacity: worker.capacity,
    assignments: new Set(worker.assignments.map((assignment) => assignment.name)),
  };
}
