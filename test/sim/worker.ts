import { type Changelogs, memoryBus, StoredChangelogs } from '@tributary/changelog';
import { type ActorSpec, type Log, Supervisor } from '@tributary/cluster';
import type { SourceConfig } from '@tributary/config';
import { type Position, type StoredBatch, WHOLE } from '@tributary/core';
import { ProjectionActor } from '@tributary/projection';
import { SourceActor, type SourceDatabase, Vitals } from '@tributary/source';
import { type Broker, SimStore } from './broker.ts';
import type { Ledger } from './ledger.ts';
import type { Link, Weather } from './link.ts';
import { SimDatabase } from './pg-database.ts';
import type { PostgresModel } from './pg-model.ts';
import { Process } from './scheduler.ts';
import { SimProjection, type SinkModel } from './sink.ts';
import { SimClock, SimRandom, type World } from './world.ts';

export const SOURCE = 's';

/** Ways to break production code on purpose, at the seams: how the simulation proves that it can fail. */
export interface Breakage {
  readonly changelogs?: (changelogs: Changelogs) => Changelogs;
  readonly database?: (database: SourceDatabase) => SourceDatabase;
  readonly write?: (model: SinkModel, expected: Position, batches: readonly StoredBatch[], after: Position) => void;
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
  readonly #supervisor: Supervisor;

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
    const changelogs = breakage.changelogs?.(stored) ?? stored;
    const bus = memoryBus();
    const log = this.#log();
    this.#supervisor = new Supervisor(this.clock, log, () => {});
    const vitals = new Vitals(sourceConfig.heartbeatMs);
    const source: ActorSpec = {
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
    const projection: ActorSpec = {
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
    this.#supervisor.start(source);
    this.#supervisor.start(projection);
    world.tell(`${name} starts`);
  }

  #openSink(): SimProjection {
    const { world, sink, weather, breakage } = this.#cluster;
    const projection = new SimProjection({
      world,
      process: this.process,
      model: sink,
      weather: weather.sink,
      write: breakage.write ?? ((model, expected, batches, after) => model.commit(expected, batches, after)),
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

  status(): string {
    return this.#supervisor
      .status()
      .map((actor) => `${actor.name} ${actor.state} ${actor.fault?.message ?? ''}`)
      .join('; ');
  }

  stop(): Promise<void> {
    return this.#supervisor.stop();
  }
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
