import { join } from 'node:path';
import type { Changelogs } from '@tributary/changelog';
import { type Assignment, type ConfiguredService, runService, type Runtime } from '@tributary/cluster';
import { type Config, inputsOf } from '@tributary/config';
import { systemRandom } from '@tributary/core';
import { TransformActor } from './transform-actor.ts';

/** Runs this worker's share of the transforms: one assignment and one actor each. */
export async function startTransforms(config: Config, runtime: Runtime<Changelogs>): Promise<ConfiguredService<Config>> {
  return runService('transform', runtime, { config, assignmentsOf: (desired) => assignmentsOf(desired, runtime) });
}

function assignmentsOf(config: Config, runtime: Runtime<Changelogs>): Assignment[] {
  const { changelog, nats } = config.cluster;
  const { changelogs, bus, clock } = runtime;
  return config.transforms.map((transform) => {
    const inputs = inputsOf(transform, config);
    const { places: _, ...definition } = transform;
    return {
      name: `transform/${transform.name}`,
      labels: {},
      fingerprint: JSON.stringify([definition, inputs, changelog, nats.replicas]),
      actors: [
        {
          name: `transform/${transform.name}`,
          kind: 'transform',
          make: () =>
            new TransformActor({
              config: transform,
              inputs,
              changelogs,
              changelog: { replicas: nats.replicas, maxAgeMs: changelog.maxAgeMs, maxBytes: changelog.maxBytes },
              bus,
              clock,
              random: systemRandom,
              folder: join(runtime.dataDir, 'transform-state'),
              warn: (facts, message) => runtime.log.warn(facts, message),
            }),
        },
      ],
    };
  });
}
