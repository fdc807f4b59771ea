import { createHash } from 'node:crypto';
import { type BatchHeader, formatLsn, type StoredBatch } from '@tributary/core';
import type { Attributes, Tracer } from '@opentelemetry/api';
import type { OpsLog } from './log.ts';

export interface TracingOptions {
  /** `source`, `sink`. */
  readonly service: string;
  readonly worker: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly log: OpsLog;
}

/** What a trace is derived from. */
type Traced = Pick<BatchHeader, 'source' | 'epoch' | 'position' | 'transactions'>;

/** Traces of one batch in so many, unless OTEL_TRACES_SAMPLER_ARG says otherwise. */
const RATIO = 0.01;
/** Longest wait for the collector when the process ends. */
const FLUSH_MS = 300;

interface Ids {
  readonly traceId: string;
  readonly spanId: string;
}

interface Running {
  readonly ratio: number;
  /** @param ids of the span itself (then it is the root), or of its parent */
  span(name: string, ids: { readonly own: Ids } | { readonly parent: Ids }, from: number, attributes: Attributes): SpanEnd;
}

/** Ends a span. @param at ms since 1970 */
type SpanEnd = (at: number, attributes?: Attributes) => void;

let running: Running | null = null;

/**
 * Sends traces where OTEL_EXPORTER_OTLP_ENDPOINT says; without it nothing is loaded, and every call below is one comparison.
 *
 * A trace follows one batch from commit to projections. Its ids are derived from the batch's place (source, epoch, LSN, ordinal), so
 * whoever handles the batch knows them without being told, in whatever process, also in a replay: nothing travels with the message, and
 * every process samples the same batches. Spans hold names, positions and counts, never row values.
 * @returns what to call at the end; it waits shortly for the collector
 */
export async function startTracing({ service, worker, env, log }: TracingOptions): Promise<() => Promise<void>> {
  const endpoint = env['OTEL_EXPORTER_OTLP_ENDPOINT'] ?? env['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT'];
  if (!endpoint || env['OTEL_SDK_DISABLED'] === 'true') return async () => {};
  const [api, sdk, { OTLPTraceExporter }, { resourceFromAttributes }] = await Promise.all([
    import('@opentelemetry/api'),
    import('@opentelemetry/sdk-trace-base'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('@opentelemetry/resources'),
  ]);
  const warn = (message: string) => log.warn({ service }, `traces: ${message.split('\n')[0]?.slice(0, 200)}`);
  api.diag.setLogger({ error: warn, warn, info() {}, debug() {}, verbose() {} }, api.DiagLogLevel.WARN);
  const random = new sdk.RandomIdGenerator();
  let next: Ids | null = null;
  const provider = new sdk.BasicTracerProvider({
    resource: resourceFromAttributes({
      'service.name': env['OTEL_SERVICE_NAME'] ?? `tributary-${service}`,
      'service.instance.id': worker,
    }),
    // Sampled before a span is begun.
    sampler: new sdk.AlwaysOnSampler(),
    idGenerator: {
      generateTraceId: () => next?.traceId ?? random.generateTraceId(),
      generateSpanId: () => next?.spanId ?? random.generateSpanId(),
    },
    spanProcessors: [new sdk.BatchSpanProcessor(new OTLPTraceExporter())],
  });
  const tracer: Tracer = provider.getTracer('tributary');
  running = {
    ratio: ratioOf(env['OTEL_TRACES_SAMPLER_ARG']),
    span(name, ids, from, attributes) {
      next = 'own' in ids ? ids.own : null;
      const context =
        'parent' in ids
          ? api.trace.setSpanContext(api.ROOT_CONTEXT, { ...ids.parent, traceFlags: api.TraceFlags.SAMPLED, isRemote: true })
          : api.ROOT_CONTEXT;
      const span = tracer.startSpan(name, { startTime: from, attributes }, context);
      next = null;
      return (at, more) => {
        if (more) span.setAttributes(more);
        span.end(at);
      };
    },
  };
  return async () => {
    running = null;
    await Promise.race([provider.shutdown().catch(() => {}), new Promise((resolve) => setTimeout(resolve, FLUSH_MS).unref())]);
  };
}

/**
 * A batch goes to the changelog: the root of its trace, from its first commit until it is stored.
 * @param from ms since 1970
 * @returns null when it is not traced
 */
export function traceCapture(header: Traced, from: number): ((at: number, seq: number) => void) | null {
  const ids = running && sampled(header, running.ratio);
  if (!running || !ids) return null;
  const attributes = attributesOf(header);
  const committed = (header.transactions[0]?.committedAt ?? 0) / 1_000;
  const root = running.span(`capture ${header.source}`, { own: ids }, Math.min(from, committed), attributes);
  const store = running.span('store', { parent: ids }, from, {});
  return (at, seq) => {
    store(at);
    root(at, { 'tributary.seq': seq });
  };
}

/**
 * A group of batches goes into a projection: one span in the trace of each batch that has one.
 * @param from ms since 1970
 * @returns null when none is traced
 */
export function traceApply(projection: string, batches: readonly StoredBatch[], from: number): ((at: number) => void) | null {
  if (!running) return null;
  const ends: SpanEnd[] = [];
  for (const { header, seq, storedAt } of batches) {
    const ids = sampled(header, running.ratio);
    if (!ids) continue;
    const attributes = {
      ...attributesOf(header),
      'tributary.seq': seq,
      'tributary.waited_ms': Math.max(0, from - storedAt),
      'tributary.group_batches': batches.length,
    };
    ends.push(running.span(`apply ${projection}`, { parent: ids }, from, attributes));
  }
  return ends.length === 0 ? null : (at) => ends.forEach((end) => end(at));
}

function attributesOf({ source, position, transactions }: Traced): Attributes {
  return {
    'tributary.source': source,
    'tributary.lsn': formatLsn(position.lsn),
    'tributary.transactions': transactions.length,
  };
}

/** The ids of a batch's trace; null when it is not sampled, or holds no transaction (heartbeats, snapshots). */
function sampled({ source, epoch, position, transactions }: Traced, ratio: number): Ids | null {
  if (transactions.length === 0) return null;
  const digest = createHash('sha256').update(`${source} ${epoch} ${position.lsn} ${position.ordinal}`).digest();
  if (digest.readUInt32BE(24) >= ratio * 2 ** 32) return null;
  return { traceId: digest.toString('hex', 0, 16), spanId: digest.toString('hex', 16, 24) };
}

/** @returns a number from 0 to 1 */
function ratioOf(text: string | undefined): number {
  const ratio = Number(text ?? RATIO);
  return ratio >= 0 && ratio <= 1 ? ratio : RATIO;
}
