import type { EventStreams } from '@tributary/changelog';
import type { HookConfig, KpiConfig, KpiPublish } from '@tributary/config';
import { type Clock, Fault } from '@tributary/core';
import { Backoff, Receiver } from '@tributary/projection';
import type { FollowedPart } from './follow.ts';

/** Of the stream that holds the values of one KPI; then the oldest go. */
const STREAM_MS = 7 * 24 * 3_600_000;
const STREAM_BYTES = 2 ** 30;
/** Largest body for a webhook. */
const HOOK_BYTES = 1024 * 1024;

/** A place to which values go. */
interface Outlet {
  readonly bodyBytesMax: number;
  /** Resolves when it was taken: true; false: it will not be. */
  send(message: { id: string; position: string; body: string }, signal: AbortSignal): Promise<boolean>;
  close(): void;
}

export interface PublishOptions {
  readonly config: KpiConfig;
  readonly publish: KpiPublish;
  readonly hooks: readonly HookConfig[];
  readonly streams: EventStreams;
  readonly replicas: number;
  readonly clock: Clock;
  readonly warn: (facts: object, message: string) => void;
  /** The values from now on, for one outlet. */
  readonly parts: (signal: AbortSignal) => AsyncIterable<FollowedPart>;
}

/**
 * Tasks that send the values of a KPI, one for each place: first all of them, then those that changed, not more often than `every`. Nothing is
 * noted: values are a state, and who begins again begins with all of it. A place that is slow misses states in between, never the last one.
 */
export function publishing(options: PublishOptions): ((signal: AbortSignal) => Promise<void>)[] {
  const { publish, hooks } = options;
  const named = hooks.filter(({ name }) => publish.to.includes(name));
  return [
    ...(publish.subject === null ? [] : [(signal: AbortSignal) => toStream(options, publish.subject as string, signal)]),
    ...named.map((hook) => (signal: AbortSignal) => sendAll(options, hookOutlet(hook, options), signal)),
  ];
}

async function toStream(options: PublishOptions, subject: string, signal: AbortSignal): Promise<void> {
  const { config, streams, replicas } = options;
  const limits = { subject, replicas, maxAgeMs: STREAM_MS, maxBytes: STREAM_BYTES };
  const writer = await streams.open(`KPI_${config.name}`, limits);
  const outlet: Outlet = {
    bodyBytesMax: writer.bodyBytesMax,
    async send({ id, position, body }) {
      await writer.append({ subject, id, body, headers: { 'Content-Type': 'application/json', 'Tributary-Position': position } });
      return true;
    },
    close: () => writer.close(),
  };
  await sendAll(options, outlet, signal);
}

function hookOutlet({ name: hook, target }: HookConfig, { clock, warn }: PublishOptions): Outlet {
  const receiver = new Receiver(target, clock);
  const backoff = new Backoff(target.retries, Math.random);
  return {
    bodyBytesMax: HOOK_BYTES,
    async send({ id, body }, signal) {
      for (let tries = 1, refused = 0; !signal.aborted; tries++) {
        const answer = await receiver.post({ id, contentType: 'application/json', headers: {}, body }, signal);
        if (answer.kind === 'taken') return true;
        if (answer.kind === 'refused') refused++;
        if (tries === 1) warn({ hook, id, reason: answer.reason }, 'a receiver did not take values: they are sent again');
        if (answer.kind === 'gone' || refused >= target.retries.attempts) return false;
        await clock.sleep(backoff.ms(tries, answer.retryAfterMs), signal).catch(() => {});
      }
      return false;
    },
    close: () => {},
  };
}

async function sendAll(
  { config, publish, clock, parts, warn }: PublishOptions,
  outlet: Outlet,
  signal: AbortSignal,
): Promise<void> {
  try {
    while (!signal.aborted) {
      // Whoever did not take a change is told everything the next time.
      for await (const part of parts(signal)) {
        if (!(await sendPart(config.name, part, outlet, signal))) break;
        await clock.sleep(publish.everyMs, signal).catch(() => {});
      }
      if (signal.aborted) return;
      warn({ kpi: config.name }, 'a receiver does not take the values of a KPI: it is told all of them later');
      await clock.sleep(GIVEN_UP_MS, signal).catch(() => {});
    }
  } finally {
    outlet.close();
  }
}

/** A receiver that refused is left alone for so long. */
const GIVEN_UP_MS = 60_000;

async function sendPart(kpi: string, part: FollowedPart, outlet: Outlet, signal: AbortSignal): Promise<boolean> {
  const { whole, rows, freshness } = part;
  if (!whole && rows.length === 0) return true;
  const slices = sliced(rows, outlet.bodyBytesMax - JSON.stringify(freshness).length - 1_000);
  for (const [i, slice] of slices.entries()) {
    const id = [kpi, freshness.definitionVersion, freshness.position, ...(slices.length === 1 ? [] : [i])].join('.');
    const among = slices.length === 1 ? {} : { part: i + 1, parts: slices.length };
    const body = JSON.stringify({ type: 'tributary.kpi.values', kpi, whole, ...among, rows: slice, freshness });
    if (!(await outlet.send({ id, position: freshness.position, body }, signal))) return false;
  }
  return true;
}

/** Rows in as few slices as fit. @throws Fault `query_refused` when one row alone does not */
export function sliced<Row>(rows: readonly Row[], bytesMax: number): readonly (readonly Row[])[] {
  if (Buffer.byteLength(JSON.stringify(rows)) <= bytesMax) return [rows];
  if (rows.length === 1) throw new Fault('query_refused', `one row is larger than ${bytesMax} bytes and cannot be published`);
  const middle = Math.ceil(rows.length / 2);
  return [...sliced(rows.slice(0, middle), bytesMax), ...sliced(rows.slice(middle), bytesMax)];
}
