import type { Changelogs } from '@tributary/changelog';
import type { Runtime } from '@tributary/cluster';
import type { EventsSinkConfig } from '@tributary/config';
import { EventsProjection } from './events.ts';
import { NatsOutlet } from './nats-outlet.ts';
import { WebhookOutlet } from './webhook/webhook-outlet.ts';

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
  readonly runtime: Pick<Runtime<Changelogs>, 'changelogs' | 'clock' | 'log'>;
}): EventsProjection {
  const { changelogs, clock, log } = runtime;
  const { eventStreams: streams, positions, deadLetters: letters } = changelogs;
  const { name: sink, target, onError } = config;
  const shared = { sink, source, positions, clock };
  const outlet =
    'nats' in target
      ? new NatsOutlet({ ...shared, target: target.nats, replicas, streams, log })
      : new WebhookOutlet({ ...shared, target: target.webhook, onError, letters, chance: () => Math.random() });
  return new EventsProjection({ config, source, database, outlet });
}
