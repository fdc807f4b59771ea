import { join } from 'node:path';
import type { Changelogs } from '@tributary/changelog';
import { type ActorSpec, type Assignment, type ConfiguredService, runService, type Runtime } from '@tributary/cluster';
import { type Config, inputsOf, type KpiConfig, lakeFolder, sourcesOf, sourcesOfKpis, wantsTable } from '@tributary/config';
import { WHOLE } from '@tributary/core';
import { type SandboxLimits, Shared } from '@tributary/duckdb';
import { ProjectionActor } from '@tributary/projection';
import { KpiActor } from './answers.ts';
import { Engine } from './engine.ts';
import { EngineActor } from './engine-actor.ts';
import { KpiProjection } from './projection.ts';
import { KpiStore } from './store.ts';
import { TRIAL_LIMITS } from './trial.ts';

/** Changelog applied together while catching up. */
const GROUP_BYTES = 4 * 2 ** 20;
/** Changes are gathered this long between two groups: each costs a scan of the tables whatever its size. */
const REST_MS = 50;

/**
 * Runs this worker's share of the engines. An engine moves as a whole: its tables and KPIs share one file.
 * @param trials what trying a definition may take
 */
export async function startKpis(
  config: Config,
  runtime: Runtime<Changelogs>,
  trials = TRIAL_LIMITS,
): Promise<ConfiguredService<Config>> {
  const assignmentsOf = (desired: Config) =>
    [...new Set(desired.kpis.map(({ engine }) => engine))].map((engine) =>
      engineAssignment(
        engine,
        desired.kpis.filter((kpi) => kpi.engine === engine),
        { config: desired, runtime, trials },
      ),
    );
  return runService('kpi', runtime, { config, assignmentsOf });
}

function engineAssignment(
  name: string,
  kpis: readonly KpiConfig[],
  { config, runtime, trials }: { config: Config; runtime: Runtime<Changelogs>; trials: SandboxLimits },
): Assignment {
  const { bus, changelogs, clock, log } = runtime;
  const { memoryBytes, threads } = config.cluster.kpi;
  const guarded = config.kpis.filter(({ access }) => access !== null);
  const sources = sourcesOfKpis(kpis, config);
  const warn = (facts: object, message: string) => log.warn(facts, message);
  const shared = new Shared<Engine>({
    open: async () => {
      const store = await KpiStore.open({ folder: join(runtime.dataDir, 'kpi'), engine: name, memoryBytes, threads, warn });
      return Engine.open({ name, kpis, sources, estate: config, store, clock, warn });
    },
    valid: ({ store }) => !store.invalid.aborted,
    close: ({ store }) => store.close(),
  });
  const open = () => shared.open();
  const projections = sources.map((source): ActorSpec => {
    const lakes = config.sinks.filter((sink) => sink.type === 'lake' && sourcesOf(sink, config).includes(source));
    return {
      name: `${name}/${source}`,
      kind: 'kpi',
      make: () =>
        new ProjectionActor({
          sink: name,
          source,
          part: WHOLE,
          changelogs,
          bus,
          clock,
          groupBytes: GROUP_BYTES,
          restMs: REST_MS,
          open: async () => {
            const engine = await open();
            const wanted = [...engine.wanted(source)];
            const holding = lakes
              .filter((sink) => wanted.every((table) => wantsTable(sink, source, table)))
              .map((sink) => sink.name);
            return KpiProjection.open({ engine, source, bus, lakes: holding, warn });
          },
        }),
    };
  });
  return {
    name: `kpi-engine/${name}`,
    labels: {},
    fingerprint: JSON.stringify([
      kpis,
      memoryBytes,
      threads,
      sources,
      hooksOf(kpis, config),
      guarded,
      config.cluster.lake,
      behind(sources, config),
    ]),
    actors: [
      {
        name: `kpi-engine.${name}`,
        kind: 'query',
        make: () => {
          const folder = join(runtime.dataDir, 'kpi', `${name}.trials`);
          return new EngineActor({ open, bus, engine: name, folder, limits: trials, guarded });
        },
      },
      ...kpis.map(
        (kpi): ActorSpec => ({
          name: `kpi.${kpi.name}`,
          kind: 'query',
          make: () =>
            new KpiActor({
              open,
              bus,
              name: kpi.name,
              hooks: config.hooks,
              positions: changelogs.positions,
              streams: changelogs.eventStreams,
              replicas: config.cluster.nats.replicas,
              warn,
              folder: join(lakeFolder(config, runtime.dataDir), 'kpis'),
            }),
        }),
      ),
      ...projections,
    ],
    close: () => shared.close(),
  };
}

/** Transforms that changelogs come from, one behind another: a KPI says which columns of sources it is made from. */
function behind(changelogs: readonly string[], config: Config): Config['transforms'] {
  const found = new Set<Config['transforms'][number]>();
  const follow = (names: readonly string[]) => {
    for (const transform of config.transforms) {
      if (!names.includes(transform.name) || found.has(transform)) continue;
      found.add(transform);
      follow(inputsOf(transform, config));
    }
  };
  follow(changelogs);
  return [...found];
}

/** Hooks that some KPIs name: with another one of these they start anew. */
function hooksOf(kpis: readonly KpiConfig[], { hooks }: Pick<Config, 'hooks'>): Config['hooks'] {
  const named = new Set(kpis.flatMap(({ alerts, publish }) => [...alerts.flatMap(({ to }) => to), ...(publish?.to ?? [])]));
  return hooks.filter(({ name }) => named.has(name));
}
