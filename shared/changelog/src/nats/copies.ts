import type { JetStreamManager, StreamInfo } from 'nats';
import { asking, type NatsLink, QUESTION_MS } from './connection.ts';

/** An election takes up to 9 s, and a copy of a large stream longer; then it goes on without. */
const CHANGE_MS_MAX = 30_000;
const LOOK_MS = 250;

/** Copies that a stream should have. */
export async function copiesOf(jsm: JetStreamManager, stream: string): Promise<number> {
  return (await asking(() => jsm.streams.info(stream))).config.num_replicas;
}

/**
 * Lets another member of the cluster lead a stream. @returns false when none took over
 * @throws NatsError when the broker does not answer
 */
export async function leadByAnother({ connection }: NatsLink, jsm: JetStreamManager, stream: string): Promise<boolean> {
  const leader = ({ cluster }: StreamInfo) => cluster?.leader || null;
  const before = leader(await asking(() => jsm.streams.info(stream)));
  await asking(() => connection.request(`$JS.API.STREAM.LEADER.STEPDOWN.${stream}`, undefined, { timeout: QUESTION_MS }));
  return changed(jsm, stream, (info) => leader(info) !== null && leader(info) !== before);
}

/**
 * Makes all copies anew, of the one that leads now.
 * @throws NatsError when the broker refuses or does not answer; a writer that is opened then asks for as many copies as there should be
 */
export async function copyAnew(jsm: JetStreamManager, stream: string): Promise<void> {
  const { num_replicas } = (await asking(() => jsm.streams.info(stream))).config;
  await asking(() => jsm.streams.update(stream, { num_replicas: 1 }));
  await changed(jsm, stream, ({ cluster }) => Boolean(cluster?.leader) && (cluster?.replicas ?? []).length === 0);
  await asking(() => jsm.streams.update(stream, { num_replicas }));
}

async function changed(jsm: JetStreamManager, stream: string, holds: (info: StreamInfo) => boolean): Promise<boolean> {
  const end = performance.now() + CHANGE_MS_MAX;
  for (;;) {
    if (holds(await asking(() => jsm.streams.info(stream)))) return true;
    if (performance.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}
