import type { Changelogs } from '@tributary/changelog';
import { type ConfiguredService, type Assignment, runService, type Runtime } from '@tributary/cluster';
import type { Config } from '@tributary/config';
import { systemRandom } from '@tributary/core';
import { PostgresDatabase } from './postgres-database.ts';
import { SourceActor } from './source-actor.ts';
import { Vitals } from './vitals.ts';

/** Runs this worker's share of the sources: one assignment and one actor each. */
export async function startSources(config: Config, runtime: Runtime<Changelogs>): Promise<ConfiguredService<Config>> {
  return runService('source', runtime, { config, assignmentsOf: (desired) => assignmentsOf(desired, runtime) });
}

function assignmentsOf({ cluster, sources }: Config, runtime: Runtime<Changelogs>): Assignment[] {
  const { changelog, nats } = cluster;
  return sources.map((source) => {
    const vitals = new Vitals(source.heartbeatMs, runtime.clock);
    return {
      name: `source/${source.name}`,
      labels: source.labels,
      fingerprint: JSON.stringify([source, changelog, nats.replicas]),
      actors: [
        {
          name: `source/${source.name}`,
          kind: 'source',
          make: () =>
            new SourceActor({
              config: source,
              database: new PostgresDatabase(source),
              vitals,
              changelogs: runtime.changelogs,
              changelog: { replicas: nats.replicas, maxAgeMs: changelog.maxAgeMs, maxBytes: changelog.maxBytes },
              lingerMs: changelog.lingerMs,
              confirmAfterMs: changelog.confirmAfterMs,
              bus: runtime.bus,
              clock: runtime.clock,
              random: systemRandom,
              warn: (facts, message) => runtime.log.warn(facts, message),
            }),
        },
      ],
    };
  });
}
