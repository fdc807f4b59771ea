import { type Clock, describeError, Fault, type Kv } from '@tributary/core';
import type { Log } from './actor.ts';
import { Rest } from './rest.ts';
import type { Seen, View } from './view.ts';
import type { Assignment } from './worker.ts';

const PREFIX = 'worker.';
/** A record that stood still for so many lifetimes of a lease is removed by whoever sees it. */
const FORGOTTEN_TTLS = 6;
const AGAIN_MS = 250;

/** What stands at `worker.<service>.<id>`; written anew at every third of a lease's lifetime. */
export interface WorkerRecord {
  readonly service: string;
  /** Null: it runs whatever labels ask for. */
  readonly labels: Readonly<Record<string, string>> | null;
  readonly capacity: number;
  /** What it knows how to run. */
  readonly assignments: readonly AssignmentRecord[];
}

export interface AssignmentRecord {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly actors: readonly { readonly name: string; readonly kind: string }[];
}

interface RegistrationOptions {
  readonly id: string;
  readonly service: string;
  readonly labels: Readonly<Record<string, string>> | null;
  readonly capacity: number;
  readonly kv: Kv;
  readonly clock: Clock;
  readonly log: Log;
  readonly ttlMs: number;
}

/** Tells the others that this worker lives, and what it can run. */
export class Registration {
  readonly #options: RegistrationOptions;
  readonly #key: string;
  readonly #rest: Rest;
  #assignments: readonly AssignmentRecord[] = [];
  #revision = 0;
  #withdrawn = false;
  #writing: Promise<void> = Promise.resolve();
  #forgetting = new Set<string>();

  constructor(options: RegistrationOptions) {
    this.#options = options;
    this.#rest = new Rest(options.clock);
    this.#key = `${PREFIX}${options.service}.${options.id}`;
  }

  record(id: string): WorkerRecord & { readonly id: string } {
    const { service, labels, capacity } = this.#options;
    return { id, service, labels, capacity, assignments: this.#assignments };
  }

  tell(assignments: readonly Assignment[]): void {
    this.#assignments = assignments.map(({ name, labels, actors }) => ({
      name,
      labels,
      actors: actors.map((actor) => ({ name: actor.name, kind: actor.kind })),
    }));
    this.#rest.call();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { log, ttlMs } = this.#options;
    while (!signal.aborted && !this.#withdrawn) {
      let waitMs = ttlMs / 3;
      try {
        this.#writing = this.#write();
        await this.#writing;
      } catch (error) {
        log.warn({ error: describeError(error) }, 'the worker could not be registered; trying again');
        waitMs = AGAIN_MS;
      }
      await this.#rest.take(waitMs, signal);
    }
  }

  /** Takes the record away, so that others at once count without this worker. */
  async withdraw(): Promise<void> {
    this.#withdrawn = true;
    this.#rest.call();
    try {
      await this.#writing.catch(() => {});
      if (this.#revision > 0) await this.#options.kv.delete(this.#key, this.#revision);
    } catch (error) {
      this.#options.log.warn(
        { error: describeError(error) },
        'the worker could not be taken out of the cluster; its record ends by itself',
      );
    }
  }

  /** Removes records of the long dead. */
  forget(dead: readonly Seen[]): void {
    const { kv, log } = this.#options;
    for (const { key, revision } of dead) {
      if (key === this.#key || this.#forgetting.has(key)) continue;
      this.#forgetting.add(key);
      kv.delete(key, revision)
        .catch((error: unknown) => log.debug({ key, error: describeError(error) }, 'a dead worker could not be forgotten yet'))
        .finally(() => this.#forgetting.delete(key));
    }
  }

  async #write(): Promise<void> {
    const { kv, service, labels, capacity } = this.#options;
    const record: WorkerRecord = { service, labels, capacity, assignments: this.#assignments };
    const updated = this.#revision > 0 ? await kv.update(this.#key, record, this.#revision) : null;
    if (updated !== null) {
      this.#revision = updated;
      return;
    }
    // New, or forgotten by others while this process was held up, or left behind by a former self, or its last answer was lost.
    const entry = await kv.get(this.#key);
    const revision = entry ? await kv.update(this.#key, record, entry.revision) : await kv.create(this.#key, record);
    this.#revision = revision ?? 0;
  }
}

/**
 * Workers of a service as `view` shows them: alive are those whose record has moved within the lifetime of a lease.
 * @returns also how long until the next one would count as gone, ms
 */
export function workersIn(
  view: View,
  { now, ttlMs, service }: { readonly now: number; readonly ttlMs: number; readonly service: string },
): { live: (WorkerRecord & { readonly id: string })[]; dead: Seen[]; dueMs: number } {
  const prefix = `${PREFIX}${service}.`;
  const live: (WorkerRecord & { readonly id: string })[] = [];
  const dead: Seen[] = [];
  let dueMs = Number.POSITIVE_INFINITY;
  for (const seen of view.under(prefix)) {
    const stillMs = now - seen.movedAt;
    const record = readWorker(seen.value);
    if (record && stillMs < ttlMs) {
      live.push({ ...record, id: seen.key.slice(prefix.length) });
      dueMs = Math.min(dueMs, ttlMs - stillMs);
    } else if (stillMs > FORGOTTEN_TTLS * ttlMs) dead.push(seen);
  }
  return { live, dead, dueMs };
}

/** Every actor that some registered worker could run, each once. @throws Fault `broker_unreachable` */
export async function registeredActors(kv: Kv): Promise<{ readonly name: string; readonly kind: string }[]> {
  const actors = new Map<string, string>();
  for await (const event of kv.watch(new AbortController().signal)) {
    if (event.kind === 'current') return [...actors].map(([name, kind]) => ({ name, kind }));
    const record = event.kind === 'put' && event.key.startsWith(PREFIX) ? readWorker(event.value) : null;
    for (const { actors: known } of record?.assignments ?? []) for (const { name, kind } of known) actors.set(name, kind);
  }
  throw new Fault('broker_unreachable', 'NATS: the connection broke while the cluster was being read');
}

/** @returns null for anything that is no worker's record */
function readWorker(value: unknown): WorkerRecord | null {
  const record = value as Partial<WorkerRecord> | null;
  if (typeof record?.service !== 'string' || typeof record.capacity !== 'number' || !(record.capacity > 0)) return null;
  return Array.isArray(record.assignments) ? (record as WorkerRecord) : null;
}
