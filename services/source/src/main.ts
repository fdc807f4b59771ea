import type { Changelogs } from '@tributary/changelog';
import { type ConfiguredService, type Assignment, runService, type Runtime } from '@tributary/cluster';
import type { Config } from '@tributary/config';
import { systemRandom } from '@tributary/core';
import { type ContractAlert, ContractAlerts } from './contract-alerts.ts';
import { PostgresDatabase } from './postgres-database.ts';
import { SourceActor } from './source-actor.ts';
import { Vitals } from './vitals.ts';

/** Runs this worker's share of the sources: one assignment and one actor each. */
export async function startSources(config: Config, runtime: Runtime<Changelogs>): Promise<ConfiguredService<Config>> {
  // A source whose contract was changed is another assignment: what was told of it is not forgotten.
  const alerts = new Map<string, ContractAlerts>();
  const alertsOf = (source: string) => {
    const known = alerts.get(source) ?? new ContractAlerts(runtime.clock, (alert) => tell(runtime, source, alert));
    alerts.set(source, known);
    return known;
  };
  return runService('source', runtime, { config, assignmentsOf: (desired) => assignmentsOf(desired, runtime, alertsOf) });
}

function tell({ log }: Runtime<Changelogs>, source: string, { resolvedAt, raisedAt: _raisedAt, ...facts }: ContractAlert): void {
  if (resolvedAt === null) log.warn({ source, ...facts }, 'a table does not keep its contract');
  else log.info({ source, ...facts }, 'a table keeps its contract again');
}

function assignmentsOf(
  { cluster, sources }: Config,
  runtime: Runtime<Changelogs>,
  alertsOf: (source: string) => ContractAlerts,
): Assignment[] {
  const { changelog, nats } = cluster;
  return sources.map((source) => {
    const vitals = new Vitals(source.heartbeatMs, runtime.clock, alertsOf(source.name));
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
