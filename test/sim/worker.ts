import { type Changelogs, memoryBus, type Store, StoredChangelogs } from '@tributary/changelog';
import { type ActorSpec, type Log, type Runtime, runService, Supervisor } from '@tributary/cluster';
import type { SourceConfig } from '@tributary/config';
import { AssertionFailed, askOne, type Bus, Fault, type Kv, WHOLE } from '@tributary/core';
import { ProjectionActor } from '@tributary/projection';
import { SourceActor, type SourceDatabase, Vitals } from '@tributary/source';
import { type Broker, type Publish, SimStore } from './broker.ts';
import { type KvModel, SimKv } from './kv.ts';
import type { Ledger } from './ledger.ts';
import type { Link, Weather } from './link.ts';
import { SimDatabase } from './pg-database.ts';
import type { PostgresModel } from './pg-model.ts';
import { Process } from './scheduler.ts';
import { commitOnce, SimProjection, type SinkModel, type SinkWrite } from './sink.ts';
import { SimClock, SimRandom, type World } from './world.ts';

export const SOURCE = 's';

/** Ways to break production code on purpose, at the seams: how the simulation proves that it can fail. */
export interface Breakage {
  readonly changelogs?: (changelogs: Changelogs, store: Store) => Changelogs;
  readonly database?: (database: SourceDatabase) => SourceDatabase;
  readonly write?: SinkWrite;
  readonly publish?: Publish;
  readonly kv?: (kv: Kv) => Kv;
  readonly confirmAfterMs?: number;
}

/** What all workers of one world share. */
export interface Cluster {
  readonly world: World;
  readonly broker: Broker;
  readonly ledger: Ledger;
  readonly postgres: PostgresModel;
  readonly sink: SinkModel;
  readonly weather: { readonly broker: Weather; readonly postgres: Weather; readonly sink: Weather };
  /** How long the broker may take to get a message onto its disk, ms. */
  readonly syncMs: number;
  /** Null: nobody keeps workers from running everything, all of them; only the data's own fences do. */
  readonly kv: KvModel | null;
  readonly breakage: Breakage;
}

/** One worker process: production actors under a production supervisor, with its own clock and connections. */
export class Worker {
  readonly process: Process;
  readonly clock: SimClock;
  readonly #cluster: Cluster;
  readonly #store: SimStore;
  readonly #database: SimDatabase;
  readonly #sinkLinks = new Set<Link>();
  readonly #bus = memoryBus();
  /** Its last words on how it is. */
  status: () => string = () => '';

  constructor(cluster: Cluster, name: string) {
    const { world, broker, postgres, ledger, weather, breakage, syncMs } = cluster;
    this.#cluster = cluster;
    this.process = new Process(name);
    this.clock = new SimClock(world, this.process);
    this.#store = new SimStore(broker, this.process, weather.broker);
    this.#database = new SimDatabase({
      world,
      process: this.process,
      model: postgres,
      weather: weather.postgres,
      confirmed: (lsn) => ledger.confirmed(lsn, broker.durableSeq(syncMs, ledger.lastSeq)),
    });
    const random = new SimRandom(world.random);
    const stored = new StoredChangelogs(this.#store, { clock: this.clock, random });
    const changelogs = breakage.changelogs?.(stored, this.#store) ?? stored;
    const bus = this.#bus;
    const log = this.#log();
    const specs = { source: this.#source(changelogs, { bus, random, log }), sink: this.#projection(changelogs, bus) };
    world.tell(`${name} starts`);
    if (cluster.kv) this.#lead(specs, { changelogs, bus, log, kv: new SimKv(cluster.kv, broker, this.#store.link) });
    else this.#fight(specs, log);
  }

  /** Production leases and placement decide what runs here. */
  #lead(specs: Specs, runtime: Pick<Runtime<Changelogs>, 'changelogs' | 'bus' | 'log' | 'kv'>): void {
    const { breakage } = this.#cluster;
    const told = new Map<string, string>();
    void runtime.bus.listen('tributary.status', (value) => {
      const { service, actors } = value as { service: string; actors: readonly { state: string; fault: unknown }[] };
      told.set(service, actors.map(({ state, fault }) => `${service} ${state} ${JSON.stringify(fault)}`).join());
    });
    this.status = () => [...told.values()].join('; ');
    for (const [service, spec] of Object.entries(specs)) {
      const kv = breakage.kv?.(runtime.kv) ?? runtime.kv;
      const place = { dataDir: '', worker: this.process.name, labels: null, capacity: 1 };
      const assignment = { name: spec.name, labels: {}, fingerprint: '', actors: [spec] };
      const started = { config: null, assignmentsOf: () => [assignment] };
      runService(service, { ...runtime, ...place, kv, clock: this.clock }, started);
    }
  }

  /** Everything runs here, whatever others do. */
  #fight(specs: Specs, log: Log): void {
    const supervisor = new Supervisor(this.clock, log, () => {});
    for (const spec of Object.values(specs)) supervisor.start(spec);
    this.status = () =>
      supervisor
        .status()
        .map(({ name, state, fault }) => `${name} ${state} ${fault?.message ?? ''}`)
        .join('; ');
  }

  #source(changelogs: Changelogs, { bus, random, log }: { bus: Bus; random: SimRandom; log: Log }): ActorSpec {
    const { breakage, syncMs } = this.#cluster;
    const vitals = new Vitals(sourceConfig.heartbeatMs, this.clock);
    return {
      name: `source/${SOURCE}`,
      kind: 'source',
      make: () =>
        new SourceActor({
          config: sourceConfig,
          database: breakage.database?.(this.#database) ?? this.#database,
          changelogs,
          changelog: { replicas: 1, maxAgeMs: 0, maxBytes: 0 },
          lingerMs: 5,
          confirmAfterMs: breakage.confirmAfterMs ?? syncMs,
          bus,
          clock: this.clock,
          random,
          vitals,
          warn: (facts, message) => log.warn(facts, message),
        }),
    };
  }

  #projection(changelogs: Changelogs, bus: Bus): ActorSpec {
    return {
      name: `sink/${SOURCE}`,
      kind: 'ods',
      make: () =>
        new ProjectionActor({
          part: WHOLE,
          sink: 'sink',
          source: SOURCE,
          changelogs,
          bus,
          clock: this.clock,
          groupBytes: 2 ** 20,
          restMs: 0,
          open: async () => this.#openSink(),
        }),
    };
  }

  #openSink(): SimProjection {
    const { world, sink, weather, breakage } = this.#cluster;
    const projection = new SimProjection({
      world,
      process: this.process,
      model: sink,
      weather: weather.sink,
      write: breakage.write ?? commitOnce,
    });
    this.#sinkLinks.add(projection.link);
    return projection;
  }

  /** A bug (a broken assertion) in production code breaks a rule of its own; everything else is told. */
  #log(): Log {
    const { world } = this.#cluster;
    const tell = (level: string) => (facts: object, message: string) => {
      const { fault, stack } = facts as { fault?: string; stack?: string };
      world.tell(`${this.process.name} ${level} ${fault ?? ''} ${message}`);
      if (fault === 'bug') world.broke('bug', `${message}\n${stack}`);
    };
    return { debug() {}, info: tell('info'), warn: tell('warn'), error: tell('error') };
  }

  /** Asks its source, as a command would; nobody may answer. */
  ask(what: 'barrier' | 'snapshot', question: { readonly table?: string }): void {
    const { world } = this.#cluster;
    const told = (how: string) => world.tell(`${this.process.name} ${what} ${question.table ?? ''}: ${how}`);
    told('asked');
    askOne(this.#bus, `tributary.source.${SOURCE}.${what}`, question).then(
      () => told('answered'),
      (error: unknown) => {
        told(error instanceof Fault ? error.kind : String(error));
        if (error instanceof AssertionFailed) world.broke('bug', `${error.message}\n${error.stack}`);
      },
    );
  }

  get brokerLink(): Link {
    return this.#store.link;
  }

  get databaseLinks(): ReadonlySet<Link> {
    return this.#database.links;
  }

  get sinkLinks(): ReadonlySet<Link> {
    return this.#sinkLinks;
  }

  /** kill -9. @param silent nobody on the other side learns of it: the machine is gone */
  crash(silent: boolean): void {
    this.process.alive = false;
    for (const link of [this.#store.link, ...this.#database.links, ...this.#sinkLinks]) {
      if (silent) link.cut();
      else link.close();
    }
  }
}

interface Specs {
  readonly source: ActorSpec;
  readonly sink: ActorSpec;
}

const sourceConfig: SourceConfig = {
  name: SOURCE,
  postgres: { host: 'sim', port: 5432, user: 'sim', database: 'sim' },
  tables: ['public.*'],
  snapshot: 'initial',
  labels: {},
  schemaChanges: 'apply',
  heartbeatMs: 1_000,
};
