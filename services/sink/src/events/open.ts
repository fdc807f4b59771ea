import type { Changelogs } from '@tributary/changelog';
import type { Runtime } from '@tributary/cluster';
import type { EventsSinkConfig } from '@tributary/config';
import { EventsProjection } from './events.ts';
import { NatsOutlet } from './nats-outlet.ts';

/** Wires the events of one source to where the sink sends them. */
export function openEvents({
  config,
  source,
  database,
  replicas,
  runtime,
}: {
  readonly config: EventsSinkConfig;
  readonly source: string;
  readonly database: string;
  readonly replicas: number;
  readonly runtime: Runtime<Changelogs>;
}): EventsProjection {
  const { changelogs, clock, log } = runtime;
  const { eventStreams: streams, positions } = changelogs;
  if (!('nats' in config.target)) throw new Error('webhooks are not built yet');
  const outlet = new NatsOutlet({
    sink: config.name,
    source,
    target: config.target.nats,
    replicas,
    streams,
    positions,
    clock,
    log,
  });
  return new EventsProjection({ config, source, database, outlet });
}
