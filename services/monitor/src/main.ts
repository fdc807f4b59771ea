import { getHeapStatistics } from 'node:v8';
import type { Changelogs } from '@tributary/changelog';
import { type ActorSpec, type Assignment, type ConfiguredService, runService, type Runtime } from '@tributary/cluster';
import { type Config, type HookConfig, type ProcessConfig, sourcesOfProcess } from '@tributary/config';
import { WHOLE } from '@tributary/core';
import { Shared } from '@tributary/duckdb';
import { ProjectionActor } from '@tributary/projection';
import { ProcessActor } from './live/actor.ts';
import { ProcessProjection } from './live/projection.ts';
import { ProcessStore } from './live/store.ts';

/** Changelog applied together while catching up. */
const GROUP_BYTES = 4 * 2 ** 20;
/** Changes are gathered this long between two groups: each costs a look into the tables whatever its size. */
const REST_MS = 50;
/** For the cases that all processes of a worker hold in memory: so much of its heap (that of a thread of `up` is small), but not more than that. */
const HELD_SHARE = 0.25;
const HELD_BYTES_MAX = 128 * 2 ** 20;

/** Runs this worker's share of the processes. A process moves as a whole: all its sources write to one file. */
export async function startMonitor(config: Config, runtime: Runtime<Changelogs>): Promise<ConfiguredService<Config>> {
  const held = Math.min(HELD_BYTES_MAX, HELD_SHARE * getHeapStatistics().heap_size_limit);
  const assignmentsOf = (desired: Config) =>
    desired.processes.map((one) =>
      assignmentOf(one, { hooks: hooksOf(one, desired), heldBytes: held / desired.processes.length }, runtime),
    );
  return runService('monitor', runtime, { config, assignmentsOf });
}

function assignmentOf(
  process: ProcessConfig,
  { hooks, heldBytes }: { readonly hooks: readonly HookConfig[]; readonly heldBytes: number },
  { bus, changelogs, clock, log, dataDir }: Runtime<Changelogs>,
): Assignment {
  const warn = (facts: object, message: string) => log.warn(facts, message);
  const shared = new Shared<ProcessStore>({
    open: () => ProcessStore.open({ dataDir, process, heldBytes, warn }),
    valid: (store) => !store.invalid.aborted,
    close: async (store) => store.close(),
  });
  const projections = sourcesOfProcess(process).map(
    (source): ActorSpec => ({
      name: `${process.name}/${source}`,
      kind: 'process',
      make: () =>
        new ProjectionActor({
          sink: process.name,
          source,
          part: WHOLE,
          changelogs,
          bus,
          clock,
          groupBytes: GROUP_BYTES,
          restMs: REST_MS,
          open: async () => ProcessProjection.open(await shared.open(), source),
        }),
    }),
  );
  const answers: ActorSpec = {
    name: `process.${process.name}`,
    kind: 'query',
    make: () =>
      new ProcessActor({ open: () => shared.open(), process, hooks, positions: changelogs.positions, bus, clock, warn }),
  };
  return {
    name: `process/${process.name}`,
    labels: {},
    fingerprint: JSON.stringify([process, hooks]),
    actors: [answers, ...projections],
    close: () => shared.close(),
  };
}

/** Hooks that its alerts name: with another one of these it starts anew. */
function hooksOf({ watch }: ProcessConfig, { hooks }: Config): HookConfig[] {
  const named = new Set(watch.alerts.flatMap(({ to }) => to));
  return hooks.filter(({ name }) => named.has(name));
}
