import type { Changelogs } from '@tributary/changelog';
import { type RunningService, runService, type Runtime } from '@tributary/cluster';
import type { Config } from '@tributary/config';
import { systemRandom } from '@tributary/core';
import { PostgresDatabase } from './postgres-database.ts';
import { SourceActor } from './source-actor.ts';
import { Vitals } from './vitals.ts';

/** Starts one actor a source. */
export async function startSources(config: Config, runtime: Runtime<Changelogs>): Promise<RunningService> {
  const { changelog, nats } = config.cluster;
  const vitals = new Map(config.sources.map((source) => [source.name, new Vitals(source.heartbeatMs)]));
  return runService(
    'source',
    runtime,
    config.sources.map((source) => ({
      name: `source/${source.name}`,
      kind: 'source',
      make: () =>
        new SourceActor({
          config: source,
          database: new PostgresDatabase(source),
          vitals: vitals.get(source.name) as Vitals,
          changelogs: runtime.changelogs,
          changelog: { replicas: nats.replicas, maxAgeMs: changelog.maxAgeMs, maxBytes: changelog.maxBytes },
          lingerMs: changelog.lingerMs,
          confirmAfterMs: changelog.confirmAfterMs,
          bus: runtime.bus,
          clock: runtime.clock,
          random: systemRandom,
          warn: (facts, message) => runtime.log.warn(facts, message),
        }),
    })),
  );
}
