import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Changelogs } from '@tributary/changelog';
import { type ActorSpec, type RunningService, runService, type Runtime } from '@tributary/cluster';
import { type Config, type LakeSinkConfig, type SinkConfig, type SourceConfig, sourcesOf } from '@tributary/config';
import { type Projection, ProjectionActor } from '@tributary/projection';
import { LakeProjection } from './lake/lake.ts';
import { LakeStore } from './lake/lake-store.ts';
import { serveQueries } from './lake/query.ts';
import { OdsProjection } from './ods/ods.ts';

/** Changelog applied together while catching up. */
const ODS_GROUP_BYTES = 2 * 2 ** 20;
const LAKE_GROUP_BYTES = 2 * 2 ** 20;
/** The lake gathers changes this long: it is asked rarely, and every group costs the same whatever its size. */
const LAKE_REST_MS = 250;

/** Starts one projection a sink and source. */
export async function startSinks(config: Config, runtime: Runtime<Changelogs>): Promise<RunningService> {
  const specs: ActorSpec[] = [];
  const closers: (() => Promise<void> | void)[] = [];
  for (const sink of config.sinks) {
    if (sink.type === 'ods') specs.push(...odsSpecs(sink, config, runtime));
    else specs.push(...(await lakeSpecs(sink, config, runtime, closers)));
  }
  const service = runService('sink', runtime, specs);
  return {
    async stop() {
      await service.stop();
      for (const close of closers) await close();
    },
  };
}

function spec(
  sink: SinkConfig,
  source: string,
  runtime: Runtime<Changelogs>,
  how: { open: () => Promise<Projection>; groupBytes: number; restMs: number },
): ActorSpec {
  const { changelogs, bus, clock } = runtime;
  return {
    name: `${sink.name}/${source}`,
    kind: sink.type,
    make: () => new ProjectionActor({ sink: sink.name, source, changelogs, bus, clock, ...how }),
  };
}

function odsSpecs(sink: Extract<SinkConfig, { type: 'ods' }>, config: Config, runtime: Runtime<Changelogs>): ActorSpec[] {
  return sourcesOf(sink, config).map((source) =>
    spec(sink, source, runtime, {
      open: () => OdsProjection.open({ config: sink, source, sourceConnection: named(config, source).postgres }),
      groupBytes: ODS_GROUP_BYTES,
      restMs: 0,
    }),
  );
}

async function lakeSpecs(
  sink: LakeSinkConfig,
  config: Config,
  runtime: Runtime<Changelogs>,
  closers: (() => Promise<void> | void)[],
): Promise<ActorSpec[]> {
  const store = await LakeStore.open(join(runtime.dataDir, 'lake-state'), sink.name);
  const sources = sourcesOf(sink, config);
  const unserve = await serveQueries({ bus: runtime.bus, changelogs: runtime.changelogs, store, sink: sink.name, sources });
  closers.push(unserve, () => store.close());
  const root = lakeFolder(config, runtime.dataDir);
  return sources.map((source) =>
    spec(sink, source, runtime, {
      open: () =>
        LakeProjection.open({
          config: sink,
          source,
          sourceConnection: named(config, source).postgres,
          store,
          folder: join(root, source),
          now: () => runtime.clock.now(),
        }),
      groupBytes: LAKE_GROUP_BYTES,
      restMs: LAKE_REST_MS,
    }),
  );
}

function lakeFolder(config: Config, dataDir: string): string {
  const { url } = config.cluster.lake;
  if (!url) return join(dataDir, 'lake');
  return url.startsWith('file:///') ? fileURLToPath(url) : url.slice('file:'.length);
}

function named(config: Config, source: string): SourceConfig {
  return config.sources.find((one) => one.name === source) as SourceConfig;
}
