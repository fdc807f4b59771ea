import type { Changelogs } from '@tributary/changelog';
import type { ActorStatus, Log } from '@tributary/cluster';
import type { Bus, Clock } from '@tributary/core';
import { describeError, projectionOf } from '@tributary/core';
import type {
  AlertView,
  ChangelogView,
  LeaseView,
  ProjectionView,
  SourceView,
  StatusTick,
  StatusView,
  WorkerView,
} from '../wire.ts';
import { alertViews, joinParts, projectionView, sourceView, unassignedProjection, unassignedSource } from './facts.ts';
import { Rates } from './rates.ts';
import { readTold, type Told } from './told.ts';

/** A worker tells twice a second; silent for this long, it is shown as gone. */
const SILENT_AFTER_MS = 5_000;
/** A silent worker is forgotten after this long. */
const FORGOTTEN_AFTER_MS = 60_000;
/** How often it is asked what there is to be run. */
const ASK_REGISTERED_MS = 10_000;
const TICK_MS = 1_000;
const HISTORY_TICKS = 600;
/** Workers remembered at once; telling is open to whoever is on the bus. */
const WORKERS_MAX = 1_000;

interface Registered {
  readonly name: string;
  readonly kind: string;
}

export interface ObserverOptions {
  readonly bus: Bus;
  readonly changelogs: Changelogs;
  readonly clock: Clock;
  readonly log: Log;
  /** Configured sources: shown even when nobody runs them. */
  readonly sources: readonly string[];
  /** Actors that some worker could run: shown even when nobody does. */
  readonly registered?: () => Promise<readonly Registered[]>;
  /** Hears this worker alone, through {@link Observer.hear}, and asks for changelogs only when told to. Default: all, over the bus. */
  readonly only?: string;
}

/** How a service of a worker was last heard. */
export interface Heard {
  readonly service: string;
  readonly silentMs: number;
  readonly actors: readonly ActorStatus[];
}

/**
 * Knows how the cluster is doing from what it hears: workers tell their actors on `tributary.status`, changelogs
 * are asked for their size. Nothing is stored and nothing is asked of an actor, so a console may come and go,
 * and many may run side by side. Where two workers tell of one actor (a hand-over) the newest word counts.
 */
export class Observer {
  readonly #options: ObserverOptions;
  readonly #told = new Map<string, Told>();
  readonly #captured = new Rates(HISTORY_TICKS);
  readonly #applied = new Rates(2);
  readonly #watchers = new Set<(tick: StatusTick) => void>();
  /** Where projections stood last: one that cannot even start tells no position, and its lag must show all the same. */
  readonly #stood = new Map<string, Pick<ProjectionView, 'position' | 'watermark'>>();
  #changelogs: ChangelogView[] = [];
  #registered: readonly Registered[] = [];
  #registeredAt = Number.NEGATIVE_INFINITY;
  #polling: Promise<void> = Promise.resolve();
  #closing = false;
  #expected: readonly string[];
  #unlisten: () => Promise<void> = async () => {};
  #timer: NodeJS.Timeout | undefined;

  constructor(options: ObserverOptions) {
    this.#options = options;
    this.#expected = options.sources;
  }

  async start(): Promise<void> {
    if (this.#options.only === undefined) {
      this.#unlisten = await this.#options.bus.listen('tributary.status', (value) => this.hear(value));
      await this.refresh();
    }
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  async close(): Promise<void> {
    this.#closing = true;
    clearInterval(this.#timer);
    this.#watchers.clear();
    // What was asked of the broker is left unanswered: nobody looks at it any more, and during an election it takes seconds.
    await this.#unlisten();
  }

  /** Sources that are configured from now on. */
  expect(sources: readonly string[]): void {
    this.#expected = sources;
  }

  history() {
    return this.#captured.history();
  }

  latest(): StatusTick {
    return { status: this.status(), rates: this.#captured.latest() };
  }

  /** Calls `seen` once a second until the returned function is called. */
  watch(seen: (tick: StatusTick) => void): () => void {
    this.#watchers.add(seen);
    return () => void this.#watchers.delete(seen);
  }

  status(): StatusView {
    const at = this.#options.clock.now();
    const sources = new Map<string, SourceView>(this.#expected.map((name) => [name, unassignedSource(name)]));
    const projections = new Map<string, ProjectionView>();
    for (const told of this.#live()) {
      for (const actor of told.actors) {
        if (actor.kind === 'source') {
          const name = sourceName(actor);
          const view = sourceView(name, told.worker, actor);
          sources.set(name, { ...view, changesPerSecond: this.#captured.latest()[name] ?? null });
        } else if (isProjection(actor)) {
          projections.set(actor.name, this.#projection(projectionView(told.worker, actor), at));
        }
      }
    }
    for (const { name, kind } of this.#registered) {
      if (kind === 'source') {
        const source = name.slice(name.indexOf('/') + 1);
        if (!sources.has(source)) sources.set(source, unassignedSource(source));
      } else if (isProjection({ kind }) && !projections.has(name)) {
        projections.set(name, this.#projection(unassignedProjection(name, kind), at));
      }
    }
    return {
      at,
      alerts: this.alerts().filter((alert) => alert.resolvedAt === null),
      sources: [...sources.values()].sort(byName),
      changelogs: this.#changelogs,
      projections: wholeOnes(projections.values()).sort(byName),
      workers: this.#workers(),
      leases: this.#leases(),
    };
  }

  /** Also those that are over, as far as their workers remember them; newest first. */
  alerts(): AlertView[] {
    const told = new Map<string, readonly AlertView[]>();
    for (const { actors } of this.#live()) for (const actor of actors) told.set(actor.name, alertViews(actor));
    return [...told.values()].flat().sort((a, b) => b.raisedAt - a.raisedAt);
  }

  /** What the services of one worker last said, silent ones too. */
  heard(worker: string): Heard[] {
    return [...this.#told.values()]
      .filter((told) => told.worker === worker)
      .map((told) => ({ service: told.service, silentMs: this.#silentMs(told), actors: told.actors }));
  }

  #projection(told: ProjectionView, at: number): ProjectionView {
    const view = told.position ? told : { ...told, ...this.#stood.get(told.name) };
    const changelog = this.#changelogs.find((one) => one.name === view.changelog);
    const behind = changelog && view.position ? Math.max(0, changelog.lastSeq - view.position.seq) : null;
    const meanBytes = changelog && changelog.messages > 0 ? changelog.bytes / changelog.messages : 0;
    // What it told is how late the last group came; while more waits, time goes on although nothing is applied.
    const waiting = behind && view.watermark !== null ? at - view.watermark : 0;
    return {
      ...view,
      lagMs: view.lagMs === null && !behind ? null : Math.max(view.lagMs ?? 0, waiting),
      lagMessages: behind,
      lagBytes: behind === null ? null : Math.round(behind * meanBytes),
      appliedPerSecond: this.#applied.latest()[view.name] ?? null,
    };
  }

  /** Where two tell of one lease (the loser has not noticed yet) the later epoch counts. */
  #leases(): LeaseView[] {
    const leases = new Map<string, LeaseView>();
    for (const lease of this.#live().flatMap((told) => told.leases)) {
      if ((leases.get(lease.assignment)?.epoch ?? -1) <= lease.epoch) leases.set(lease.assignment, lease);
    }
    return [...leases.values()].sort((a, b) => (a.assignment < b.assignment ? -1 : 1));
  }

  #silentMs(told: Told): number {
    return this.#options.clock.monotonic() - told.heardOn;
  }

  /** Oldest word first, so that the newest one stands when two tell of the same actor. */
  #live(): Told[] {
    return [...this.#told.values()].filter((told) => this.#silentMs(told) < SILENT_AFTER_MS).sort((a, b) => a.at - b.at);
  }

  #workers(): WorkerView[] {
    const workers = new Map<string, Told[]>();
    for (const told of this.#told.values()) workers.set(told.worker, [...(workers.get(told.worker) ?? []), told]);
    return [...workers]
      .map(([worker, tolds]) => {
        const actors = tolds.flatMap((told) => told.actors);
        const heardAt = Math.max(...tolds.map((told) => told.heardAt));
        return {
          worker,
          services: tolds.map((told) => told.service).sort(),
          labels: tolds.find((told) => told.labels !== null)?.labels ?? null,
          capacity: tolds.reduce<number | null>((sum, { capacity }) => (capacity === null ? sum : (sum ?? 0) + capacity), null),
          takeovers: tolds.reduce((sum, told) => sum + told.takeovers, 0),
          actors: actors.length,
          failed: actors.filter((actor) => actor.state === 'failed').length,
          heardAt,
          alive: tolds.some((told) => this.#silentMs(told) < SILENT_AFTER_MS),
        };
      })
      .sort((a, b) => (a.worker < b.worker ? -1 : 1));
  }

  /** Takes in what a worker tells on `tributary.status`. */
  hear(value: unknown): void {
    const told = readTold(value, this.#options.clock);
    if (!told || (this.#options.only ?? told.worker) !== told.worker) return;
    const key = `${told.worker} ${told.service}`;
    if (!this.#told.has(key) && this.#told.size >= WORKERS_MAX) return;
    this.#told.set(key, told);
    for (const actor of told.actors) {
      if (isProjection(actor)) this.#remember(told.worker, actor);
      const { changes, applied } = actor.facts;
      if (actor.kind === 'source' && typeof changes === 'number') {
        this.#captured.tell(sourceName(actor), changes, told.at);
      } else if (typeof applied === 'number') {
        this.#applied.tell(actor.name, applied, told.at);
      }
    }
  }

  #remember(worker: string, actor: ActorStatus): void {
    const { name, position, watermark } = projectionView(worker, actor);
    if (position) this.#stood.set(name, { position, watermark });
  }

  #tick(): void {
    const at = this.#options.clock.now();
    for (const [key, told] of this.#told) {
      if (this.#silentMs(told) < FORGOTTEN_AFTER_MS) continue;
      this.#told.delete(key);
      for (const actor of told.actors) {
        if (actor.kind === 'source') this.#captured.forget(sourceName(actor));
        else {
          this.#applied.forget(actor.name);
          // What nobody runs any more is still to be run, and its lag goes on.
          if (!this.#registered.some(({ name }) => name === actor.name)) this.#stood.delete(actor.name);
        }
      }
    }
    this.#captured.tick(at);
    this.#applied.tick(at);
    if (this.#options.only === undefined) void this.refresh();
    if (this.#watchers.size === 0) return;
    const tick = this.latest();
    for (const seen of this.#watchers) seen(tick);
  }

  /** Asks the broker for the size of the changelogs; one question at a time, however slow the answers. Never rejects. */
  refresh(): Promise<void> {
    if (this.#pollRuns || this.#closing) return this.#polling;
    this.#pollRuns = true;
    this.#polling = this.#askChangelogs()
      .catch((error: unknown) => {
        if (!this.#closing)
          this.#options.log.warn({ error: describeError(error) }, 'the broker did not tell the size of the changelogs');
      })
      .finally(() => {
        this.#pollRuns = false;
      });
    return this.#polling;
  }
  #pollRuns = false;

  async #askChangelogs(): Promise<void> {
    const { registered, clock } = this.#options;
    if (registered && clock.monotonic() - this.#registeredAt >= ASK_REGISTERED_MS) {
      this.#registered = await registered();
      this.#registeredAt = clock.monotonic();
    }
    const views: ChangelogView[] = [];
    for (const name of await this.#changelogNames()) {
      const status = await this.#options.changelogs.status(name);
      if (status) views.push({ name, ...status });
    }
    this.#changelogs = views;
  }

  /** All of them, or those that the projections of the one worker read. */
  async #changelogNames(): Promise<string[]> {
    if (this.#options.only === undefined) return (await this.#options.changelogs.list()).toSorted();
    const actors = [...this.#told.values()].flatMap((told) => told.actors).filter(isProjection);
    return [...new Set(actors.map((actor) => projectionView('', actor).changelog))].toSorted();
  }
}

/** Beside sources and projections there are those who answer queries. */
function isProjection({ kind }: { readonly kind: string }): boolean {
  return kind !== 'source' && kind !== 'query';
}

/** One view a projection, whether one actor runs it or several share its tables. */
function wholeOnes(views: Iterable<ProjectionView>): ProjectionView[] {
  const parts = new Map<string, ProjectionView[]>();
  const whole: ProjectionView[] = [];
  for (const view of views) {
    const name = projectionOf(view.name);
    const known = parts.get(name);
    if (name === view.name) whole.push(view);
    else if (known) known.push(view);
    else parts.set(name, [view]);
  }
  return [...whole, ...[...parts].map(([name, views]) => joinParts(name, views))];
}

/** Actors of sources are named `source/<source>`. */
function sourceName(actor: ActorStatus): string {
  return actor.name.slice(actor.name.indexOf('/') + 1);
}

function byName(a: { readonly name: string }, b: { readonly name: string }): number {
  return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
}
