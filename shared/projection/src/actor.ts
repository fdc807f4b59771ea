import type { Changelogs } from '@tributary/changelog';
import { type Actor, Grace, unlessAborted } from '@tributary/cluster';
import { type Bus, type Clock, Fault, formatLsn, type Part, partName, type Position, type StoredBatch } from '@tributary/core';
import { traceApply } from '@tributary/ops';
import { bridge } from './bridge.ts';
import { GroupQueue } from './group-queue.ts';
import { leaveOut } from './leave-out.ts';
import type { Projection } from './projection.ts';
import type { Order } from './order.ts';
import { culpritOf, Quarantine } from './quarantine.ts';
import { answerReplay } from './replay.ts';
import { readInWholes } from './whole-reads.ts';

export interface ProjectionActorOptions {
  /** Name of the sink. */
  readonly sink: string;
  /** Whose changelog. */
  readonly source: string;
  /** Of a projection that is split by table. */
  readonly part: Part;
  readonly changelogs: Changelogs;
  readonly bus: Bus;
  readonly clock: Clock;
  /** Bytes of changelog applied together while catching up. */
  readonly groupBytes: number;
  /** How long it gathers changes between two groups, unless somebody waits for a position; 0 = not at all. */
  readonly restMs: number;
  /** What happens to a table whose change cannot be applied; default: halt. */
  readonly onError?: 'halt' | 'quarantine';
  /** `cut` aborts when whatever the projection does must end at once, as a crash would end it. */
  readonly open: (cut: AbortSignal) => Promise<Projection>;
}

/**
 * Drives one projection of one changelog: reads from where it stands, groups to transaction ends, applies, tells how
 * far it is, and goes back when asked to replay. Faults end it; the supervisor starts it again from its stored position.
 */
export class ProjectionActor implements Actor {
  readonly #options: ProjectionActorOptions;
  /** `<sink>/<source>`, with `#<index>` for one part of several. */
  readonly #name: string;
  #position: Position | null = null;
  #watermark = 0;
  #appliedAt = 0;
  #lagMs = 0;
  #applied = 0;
  /** Back-pressure: how long reading stood still because the target was behind. */
  #heldMs = 0;
  #reachedWaiters: { readonly seq: number; readonly resolve: () => void; readonly reject: (error: Error) => void }[] = [];
  #order: Order | null = null;
  #quarantine: Quarantine | null = null;
  /** Up to here batch by batch, to find the one that cannot be applied; null = in groups. */
  #carefulTo: Position | null = null;
  /** It waits for a snapshot of its source. */
  #bridging = false;
  /** End of the group that is being applied. */
  #trying: Position | null = null;
  /** Why it stands still until a person acts; null while it works. */
  #halted: Fault | null = null;
  #interrupt: () => void = () => {};
  #wake: () => void = () => {};
  #projection: Projection | null = null;

  constructor(options: ProjectionActorOptions) {
    this.#options = options;
    this.#name = partName(`${options.sink}/${options.source}`, options.part);
  }

  facts(): Record<string, unknown> {
    const position = this.#position;
    return {
      changelog: this.#options.source,
      position: position ? { seq: position.seq, lsn: formatLsn(position.lsn) } : null,
      watermark: this.#watermark,
      lagMs: this.#lagMs,
      applied: this.#applied,
      appliedAt: this.#appliedAt,
      heldMs: this.#heldMs,
      bridging: this.#bridging,
      quarantine: { tables: this.#quarantine?.tables ?? [], batches: this.#quarantine?.batches ?? 0 },
      ...(this.#options.part.of > 1 ? { part: this.#options.part } : {}),
      ...this.#projection?.facts?.(),
    };
  }

  async run(signal: AbortSignal, ready: () => void, halted: (fault: Fault) => Promise<void>): Promise<void> {
    const grace = new Grace(signal, this.#options.clock);
    try {
      await this.#run(grace, { signal, ready, halted });
    } finally {
      grace.forget();
    }
  }

  async #run(
    grace: Grace,
    { signal, ready, halted }: { signal: AbortSignal; ready: () => void; halted: (fault: Fault) => Promise<void> },
  ): Promise<void> {
    const projection = await this.#options.open(grace.cut);
    this.#projection = projection;
    const services = new Services(this.#options.bus);
    try {
      await projection.position();
      const { changelogs, clock } = this.#options;
      const letters = { projection: this.#name, clock, held: projection.held() };
      const quarantine = await unlessAborted(Quarantine.open(changelogs.deadLetters, letters), grace.cut);
      this.#quarantine = quarantine;
      await unlessAborted(this.#serve(services, projection, { quarantine, signal }), grace.cut);
      while (!signal.aborted) {
        try {
          await this.#follow(projection, quarantine, { grace, signal, ready });
        } catch (error) {
          if (!(error instanceof Fault) || error.reaction !== 'operator' || signal.aborted) throw error;
          if (error.kind === 'history_trimmed') await this.#bridge(projection, { grace, signal, halted });
          else if (!this.#putAside(quarantine, error)) await this.#halt(this.#named(error), halted);
        }
        if (this.#order && !signal.aborted) await this.#obeyed(projection, this.#order, { grace, signal });
      }
    } finally {
      await services.end();
      const stopped = new Fault('not_found', `projection ${this.#name} stopped`);
      for (const waiter of this.#reachedWaiters.splice(0)) waiter.reject(stopped);
      this.#order?.failed(stopped);
      await projection.close();
    }
  }

  /** Waits for a person, answering questions; goes on when it is to be tried again, or at an order. */
  async #halt(fault: Fault, halted: (fault: Fault) => Promise<void>): Promise<void> {
    this.#halted = fault;
    for (const waiter of this.#reachedWaiters.splice(0)) waiter.reject(fault);
    if (!this.#order) {
      const ordered = new Promise<void>((resolve) => {
        this.#interrupt = resolve;
      });
      await Promise.race([halted(fault), ordered]);
    }
    this.#halted = null;
  }

  /**
   * A table whose change cannot be applied goes to quarantine, once the batch is known: the group is first tried again
   * batch by batch. @returns false when that is not allowed, or no help
   */
  #putAside(quarantine: Quarantine, fault: Fault): boolean {
    const table = this.#options.onError === 'quarantine' ? culpritOf(fault) : null;
    if (table === null || !this.#trying || quarantine.tables.includes(table)) return false;
    if (this.#carefulTo) {
      quarantine.begin(table, fault);
      this.#carefulTo = null;
    } else this.#carefulTo = this.#trying;
    return true;
  }

  /** History that it needs is gone: a snapshot of the source takes its place, without anybody having to ask. */
  async #bridge(
    projection: Projection,
    { grace, signal, halted }: { grace: Grace; signal: AbortSignal; halted: (fault: Fault) => Promise<void> },
  ): Promise<void> {
    this.#bridging = true;
    try {
      await unlessAborted(bridge(projection, this.#options, signal), grace.cut);
    } catch (error) {
      if (signal.aborted || !(error instanceof Fault) || error.reaction !== 'operator') throw error;
      await this.#halt(error, halted);
    } finally {
      this.#bridging = false;
    }
  }

  /** A fault that a replay mends names the command. */
  #named(fault: Fault): Fault {
    const from = fault.facts['replayFrom'];
    if (typeof from !== 'string') return fault;
    const { sink, source } = this.#options;
    const message = `${fault.message}. Run: tributary replay ${sink}/${source} --from ${from}`;
    return new Fault(fault.kind, message, fault.facts, { cause: fault.cause });
  }

  /** Applies until `signal` aborts or a replay is asked for. */
  async #follow(
    projection: Projection,
    quarantine: Quarantine,
    { grace, signal, ready }: { grace: Grace; signal: AbortSignal; ready: () => void },
  ): Promise<void> {
    this.#position = await unlessAborted(this.#seated(await projection.position()), grace.cut);
    ready();
    this.#answerReached();
    const { clock } = this.#options;
    const stop = new AbortController();
    const queue = new GroupQueue(this.#carefulTo ? 1 : this.#options.groupBytes);
    this.#interrupt = () => {
      stop.abort();
      queue.end();
    };
    signal.addEventListener('abort', this.#interrupt, { once: true });
    if (this.#order || signal.aborted) this.#interrupt();
    const reading = this.#read(projection, queue, stop.signal);
    let following = true;
    try {
      for (let taken = await queue.take(); taken; taken = await queue.take()) {
        const last = taken.batches.at(-1) as (typeof taken.batches)[number];
        const after: Position = { seq: last.seq, ...last.header.position, epoch: last.header.epoch };
        this.#trying = after;
        const batches: StoredBatch[] = [];
        for (const batch of taken.batches) {
          batches.push(await unlessAborted(quarantine.divert(leaveOut(batch, projection.held())), grace.cut));
        }
        const traced = traceApply(this.#name, batches, clock.now());
        const { watermark, transactions } = last.header;
        const accepted = await grace.step(async () =>
          projection.apply({ batches, partial: taken.partial, after, watermark, alone: this.#carefulTo !== null }),
        );
        const applied = () => {
          traced?.(clock.now());
          for (const batch of batches) for (const section of batch.sections) this.#applied += section.rows;
          if (!taken.partial) this.#advance(after, watermark, transactions.at(-1)?.committedAt);
        };
        if (!accepted) applied();
        else
          accepted.settled.then(
            () => {
              if (following) applied();
            },
            (error: unknown) => queue.end(error),
          );
        // The batch by batch part is over: in groups again.
        if (!taken.partial && this.#carefulTo && this.#carefulTo.seq <= after.seq) {
          this.#carefulTo = null;
          break;
        }
        if (stop.signal.aborted) break;
        if (!taken.partial) await this.#rest(stop.signal);
      }
    } finally {
      following = false;
      this.#interrupt();
      signal.removeEventListener('abort', this.#interrupt);
      // What the reader still asks of the broker changes nothing, and during an election it takes seconds.
      await unlessAborted(reading, grace.cut).catch(() => {});
    }
  }

  /** The same place, by the sequences of the changelog as it is now: it may have been lost and begun again. */
  async #seated(position: Position): Promise<Position> {
    const { changelogs, source } = this.#options;
    return { ...position, seq: await changelogs.reached(source, position) };
  }

  async #read(projection: Projection, queue: GroupQueue, signal: AbortSignal): Promise<void> {
    const { changelogs, source } = this.#options;
    const after = this.#position as Position;
    const wants = (table: string) => projection.wants?.(table) ?? true;
    try {
      for await (const batch of readInWholes(changelogs, source, { after, signal, wants })) {
        const full = queue.push(batch);
        if (full) await this.#held(full);
        if (signal.aborted) break;
      }
      queue.end();
    } catch (error) {
      queue.end(error);
    }
  }

  async #held(room: Promise<void>): Promise<void> {
    const { clock } = this.#options;
    const since = clock.monotonic();
    await room;
    this.#heldMs += clock.monotonic() - since;
  }

  #advance(after: Position, watermark: number, committedAt: number | undefined): void {
    const now = this.#options.clock.now();
    this.#position = after;
    this.#watermark = watermark;
    this.#appliedAt = now;
    if (committedAt !== undefined) this.#lagMs = Math.max(0, now - committedAt / 1_000);
    this.#answerReached();
  }

  async #rest(signal: AbortSignal): Promise<void> {
    if (this.#options.restMs === 0 || this.#reachedWaiters.length > 0) return;
    const awake = new AbortController();
    this.#wake = () => awake.abort();
    try {
      await this.#options.clock.sleep(this.#options.restMs, AbortSignal.any([signal, awake.signal]));
    } catch {
      // Woken because somebody waits, or because it is to stop: both are seen by the loop.
    }
  }

  #answerReached(): void {
    const seq = this.#position?.seq ?? 0;
    this.#reachedWaiters = this.#reachedWaiters.filter((waiter) => {
      if (waiter.seq > seq) return true;
      waiter.resolve();
      return false;
    });
  }

  async #obeyed(projection: Projection, order: Order, { grace, signal }: { grace: Grace; signal: AbortSignal }): Promise<void> {
    this.#order = null;
    // Whoever asks from now on whether a sequence is reached must not be answered from where it stood before.
    this.#position = null;
    try {
      // What is accepted is either applied now, or forgotten.
      await unlessAborted(projection.position(), grace.cut);
      await unlessAborted(order.obey(projection, signal), grace.cut);
      this.#position = await projection.position();
    } catch (error) {
      order.failed(error as Error);
      // What cannot be obeyed is the asker's matter: nothing has changed here. What broke on the way is ours.
      if (!(error instanceof Fault) || error.reaction !== 'operator') throw error;
    }
  }

  #obey(order: Order): void {
    this.#order?.failed(new Fault('fenced', 'something else was asked for'));
    this.#order = order;
    this.#interrupt();
  }

  get #replayOptions() {
    const { source, changelogs, clock } = this.#options;
    return { name: this.#name, source, changelogs, clock };
  }

  async #reached(seq: number): Promise<void> {
    if (this.#halted) throw this.#halted;
    const position = this.#position;
    const status = await this.#options.changelogs.status(this.#options.source);
    if (position && status && position.seq > status.lastSeq) {
      const seated = await this.#seated(position);
      if (this.#position === position) this.#position = seated;
    }
    return new Promise((resolve, reject) => {
      this.#reachedWaiters.push({ seq, resolve, reject });
      this.#wake();
      this.#answerReached();
    });
  }

  async #serve(
    services: Services,
    projection: Projection,
    { quarantine, signal }: { quarantine: Quarantine; signal: AbortSignal },
  ): Promise<void> {
    const subject = (what: string) => `tributary.projection.${this.#name.replace('/', '.')}.${what}`;
    const reached = (seq: number) => this.#reached(seq);
    const replaying = (from: string) =>
      answerReplay(this.#replayOptions, from, {
        obey: (order) => this.#obey(order),
        reached,
        seq: () => this.#position?.seq ?? 0,
      });
    const commands = projection.commands?.({ reached, signal }) ?? {};
    const settled = (question: unknown) => this.#settle(quarantine, question as { do: 'retry' | 'drop'; table?: string });
    await services.serve(subject('reached'), async function* (question) {
      await reached((question as { seq: number }).seq);
      yield { reached: true };
    });
    await services.serve(subject('replay'), (question) => replaying((question as { from?: string }).from ?? 'start'));
    for (const [what, answer] of Object.entries({ quarantine: settled, ...commands })) {
      await services.serve(subject(what), answer);
    }
  }

  /** Takes quarantined tables back, or gives them up, one after the other. */
  async *#settle(quarantine: Quarantine, question: { do: 'retry' | 'drop'; table?: string }): AsyncGenerator<unknown> {
    for (const table of quarantine.chosen(question.table)) {
      const batches = await new Promise<number>((resolve, failed) => {
        const obey: Order['obey'] = async (projection) =>
          resolve(
            question.do === 'drop' ? await quarantine.drop(table) : await quarantine.retry(projection, table, this.#watermark),
          );
        this.#obey({ obey, failed });
      });
      yield { projection: this.#name, table, batches };
    }
  }
}

/** Questions that are answered; also one whose subscription is only then made is taken back at the end. */
class Services {
  readonly #bus: Bus;
  readonly #stops: (() => Promise<void>)[] = [];
  #ended = false;

  constructor(bus: Bus) {
    this.#bus = bus;
  }

  async serve(...[subject, answer]: Parameters<Bus['serve']>): Promise<void> {
    if (this.#ended) return;
    const stop = await this.#bus.serve(subject, answer);
    if (this.#ended) await stop();
    else this.#stops.push(stop);
  }

  async end(): Promise<void> {
    this.#ended = true;
    for (const stop of this.#stops.splice(0)) await stop();
  }
}
