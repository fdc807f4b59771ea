import { join } from 'node:path';
import type { Changelogs } from '@tributary/changelog';
import {
  type Actor,
  type ActorSpec,
  aborted,
  type Assignment,
  type ConfiguredService,
  runService,
  type Runtime,
} from '@tributary/cluster';
import {
  type Config,
  type EventsSinkConfig,
  type LakeSinkConfig,
  type SinkConfig,
  type ConnectionConfig,
  lakeFolder,
  sourcesOf,
} from '@tributary/config';
import { type Part, partName, partsOf, WHOLE } from '@tributary/core';
import { Sandbox } from '@tributary/duckdb';
import { type Projection, ProjectionActor } from '@tributary/projection';
import { openEvents } from './events/open.ts';
import { LakeProjection } from './lake/lake.ts';
import { LakeStore } from './lake/lake-store.ts';
import { QUERY_LIMITS, serveQueries } from './lake/query.ts';
import { OdsProjection } from './ods/ods.ts';

/** Changelog applied together while catching up. */
const ODS_GROUP_BYTES = 2 * 2 ** 20;
const ODS_OVERLAP_BYTES = 256 * 1024;
const LAKE_GROUP_BYTES = 2 * 2 ** 20;
/** Small: a group's rows become objects and JSON, several times its size. */
const EVENTS_GROUP_BYTES = 512 * 1024;
/** The lake gathers changes this long: it is asked rarely, and every group costs the same whatever its size. */
const LAKE_REST_MS = 250;

/**
 * Runs this worker's share of the projections. An ODS moves source by source, or part by part, events source by source; a lake moves as a whole, because its
 * projections share one state, which queries read.
 */
export async function startSinks(config: Config, runtime: Runtime<Changelogs>): Promise<ConfiguredService<Config>> {
  const assignmentsOf = (desired: Config) =>
    desired.sinks.flatMap((sink) => {
      if (sink.type === 'ods') return odsAssignments(sink, desired, runtime);
      return sink.type === 'lake' ? lakeAssignment(sink, desired, runtime) : eventsAssignments(sink, desired, runtime);
    });
  return runService('sink', runtime, { config, assignmentsOf });
}

function spec(
  sink: SinkConfig,
  source: string,
  runtime: Runtime<Changelogs>,
  how: {
    part: Part;
    open: (cut: AbortSignal) => Promise<Projection>;
    groupBytes: number;
    restMs: number;
    onError?: 'halt' | 'quarantine';
  },
): ActorSpec {
  const { changelogs, bus, clock } = runtime;
  return {
    name: partName(`${sink.name}/${source}`, how.part),
    kind: sink.type,
    make: () => new ProjectionActor({ sink: sink.name, source, changelogs, bus, clock, ...how }),
  };
}

function odsAssignments(sink: Extract<SinkConfig, { type: 'ods' }>, config: Config, runtime: Runtime<Changelogs>): Assignment[] {
  const { changelogs, bus } = runtime;
  return sourcesOf(sink, config).flatMap((source) => {
    const sourceConnection = connectionOf(config, source);
    return partsOf(sink.partitions).map((part) => ({
      name: partName(`${sink.name}/${source}`, part),
      labels: {},
      fingerprint: JSON.stringify([sink, sourceConnection]),
      actors: [
        spec(sink, source, runtime, {
          part,
          open: (cut) =>
            OdsProjection.open({
              config: sink,
              source,
              sourceConnection,
              bus,
              part,
              changelogs,
              overlapBytes: ODS_OVERLAP_BYTES,
              cut,
            }),
          groupBytes: ODS_GROUP_BYTES,
          restMs: 0,
          onError: sink.onError,
        }),
      ],
    }));
  });
}

function eventsAssignments(sink: EventsSinkConfig, config: Config, runtime: Runtime<Changelogs>): Assignment[] {
  const { replicas } = config.cluster.nats;
  return sourcesOf(sink, config).map((source) => {
    const database = connectionOf(config, source)?.database ?? source;
    return {
      name: `${sink.name}/${source}`,
      labels: {},
      fingerprint: JSON.stringify([sink, database, replicas]),
      actors: [
        spec(sink, source, runtime, {
          part: WHOLE,
          open: async () => openEvents({ config: sink, source, database, replicas, runtime }),
          groupBytes: EVENTS_GROUP_BYTES,
          restMs: 0,
        }),
      ],
    };
  });
}

function lakeAssignment(sink: LakeSinkConfig, config: Config, runtime: Runtime<Changelogs>): Assignment {
  const { bus, changelogs, clock } = runtime;
  const sources = sourcesOf(sink, config);
  const root = lakeFolder(config, runtime.dataDir);
  const shared = new SharedStore(join(runtime.dataDir, 'lake-state'), sink.name, (facts, message) =>
    runtime.log.warn(facts, message),
  );
  const serve = async (cut: AbortSignal) => {
    const store = await shared.open();
    const sandbox = new Sandbox(join(runtime.dataDir, 'lake-state', `${sink.name}.queries`), QUERY_LIMITS);
    await sandbox.open();
    const stop = await serveQueries({ bus, changelogs, store, sandbox, sink: sink.name, sources, cut });
    const unserve = async () => {
      await stop();
      sandbox.close();
    };
    return { unserve, invalid: store.database.invalid };
  };
  return {
    name: sink.name,
    labels: {},
    fingerprint: JSON.stringify([sink, root, sources.map((source) => connectionOf(config, source))]),
    actors: [
      { name: `query/${sink.name}`, kind: 'query', make: () => new QueryActor(serve) },
      ...sources.map((source) =>
        spec(sink, source, runtime, {
          part: WHOLE,
          open: async (cut) =>
            LakeProjection.open({
              config: sink,
              source,
              sourceConnection: connectionOf(config, source),
              bus,
              store: await shared.open(),
              folder: join(root, source),
              now: () => clock.monotonic(),
              warn: (facts, message) => runtime.log.warn(facts, message),
              cut,
            }),
          groupBytes: LAKE_GROUP_BYTES,
          restMs: LAKE_REST_MS,
        }),
      ),
    ],
    close: () => shared.close(),
  };
}

/** The state that all actors of one lake share: opened by the first of them, closed after the last, and anew when DuckDB gave it up. */
class SharedStore {
  readonly #folder: string;
  readonly #sink: string;
  readonly #warn: (facts: object, message: string) => void;
  #opening: Promise<LakeStore> | null = null;

  constructor(folder: string, sink: string, warn: (facts: object, message: string) => void) {
    this.#folder = folder;
    this.#sink = sink;
    this.#warn = warn;
  }

  /** Concurrent callers get the same one. @throws Fault of {@link LakeStore.open}; then the next caller tries again */
  open(): Promise<LakeStore> {
    const before = this.#opening?.catch(() => null) ?? Promise.resolve(null);
    const opening = before.then((store) => {
      if (store && !store.database.invalid.aborted) return store;
      store?.close();
      return LakeStore.open(this.#folder, this.#sink, this.#warn);
    });
    this.#opening = opening;
    return opening;
  }

  async close(): Promise<void> {
    const opening = this.#opening;
    this.#opening = null;
    (await opening?.catch(() => null))?.close();
  }
}

interface Served {
  readonly unserve: () => Promise<void>;
  /** Aborts when what is served can be read no longer. */
  readonly invalid: AbortSignal;
}

/** Answers queries as long as it runs. */
class QueryActor implements Actor {
  readonly #serve: (cut: AbortSignal) => Promise<Served>;

  constructor(serve: (cut: AbortSignal) => Promise<Served>) {
    this.#serve = serve;
  }

  facts(): Record<string, unknown> {
    return {};
  }

  async run(signal: AbortSignal, ready: () => void): Promise<void> {
    const { unserve, invalid } = await this.#serve(signal);
    ready();
    await aborted(AbortSignal.any([signal, invalid]));
    await unserve();
    if (!signal.aborted) throw invalid.reason as Error;
  }
}

/** Of the database whose rows a changelog holds; null for a transform's. */
function connectionOf(config: Config, source: string): ConnectionConfig | null {
  return config.sources.find((one) => one.name === source)?.postgres ?? null;
}
