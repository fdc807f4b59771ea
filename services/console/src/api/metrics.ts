import type { SourceView, StatusView } from '../wire.ts';

type Labels = Readonly<Record<string, string>>;

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: 'gauge' | 'counter';
  values(status: StatusView): Iterable<readonly [Labels, number | null]>;
}

const ofSources = (read: (source: SourceView) => number | null) => (status: StatusView) =>
  status.sources.map((source) => [{ source: source.name }, read(source)] as const);

const MILLI = 1_000;

/** Everything the console exports about the cluster. A value that nobody tells is left out, never shown as zero. */
const METRICS: readonly Metric[] = [
  {
    name: 'tributary_source_running_state',
    help: '1 while the source is captured.',
    type: 'gauge',
    values: ofSources((source) => (source.state === 'running' ? 1 : 0)),
  },
  {
    name: 'tributary_source_changes_total',
    help: 'Row changes captured since the actor started.',
    type: 'counter',
    values: ofSources((source) => source.changes),
  },
  {
    name: 'tributary_source_lag_seconds',
    help: 'Age of the newest moment up to which the changelog is complete.',
    type: 'gauge',
    values: ofSources((source) => (source.lagMs === null ? null : source.lagMs / MILLI)),
  },
  {
    name: 'tributary_slot_retained_bytes',
    help: 'Write-ahead log that the source database keeps for the slot.',
    type: 'gauge',
    values: ofSources((source) => source.slot?.retainedBytes ?? null),
  },
  {
    name: 'tributary_slot_safe_bytes',
    help: 'Write-ahead log that may still be written before the slot is in danger.',
    type: 'gauge',
    values: ofSources((source) => source.slot?.safeBytes ?? null),
  },
  {
    name: 'tributary_changelog_messages',
    help: 'Messages held by the changelog.',
    type: 'gauge',
    values: (status) => status.changelogs.map((one) => [{ changelog: one.name }, one.messages] as const),
  },
  {
    name: 'tributary_changelog_bytes',
    help: 'Size of the changelog.',
    type: 'gauge',
    values: (status) => status.changelogs.map((one) => [{ changelog: one.name }, one.bytes] as const),
  },
  {
    name: 'tributary_projection_running_state',
    help: '1 while the projection is kept up to date.',
    type: 'gauge',
    values: (status) => status.projections.map((one) => [{ projection: one.name }, one.state === 'running' ? 1 : 0] as const),
  },
  {
    name: 'tributary_projection_lag_seconds',
    help: 'Age of the newest moment up to which the projection is complete.',
    type: 'gauge',
    values: (status) =>
      status.projections.map((one) => [{ projection: one.name }, one.lagMs === null ? null : one.lagMs / MILLI] as const),
  },
  {
    name: 'tributary_projection_applied_total',
    help: 'Row changes applied since the actor started.',
    type: 'counter',
    values: (status) => status.projections.map((one) => [{ projection: one.name }, one.applied] as const),
  },
  {
    name: 'tributary_actor_restarts_total',
    help: 'Starts after a fault since the last minute of undisturbed work.',
    type: 'gauge',
    values: (status) => [
      ...status.sources.map((one) => [{ actor: `source/${one.name}` }, one.restarts] as const),
      ...status.projections.map((one) => [{ actor: one.name }, one.restarts] as const),
    ],
  },
  {
    name: 'tributary_worker_alive_state',
    help: '1 while the worker tells of itself.',
    type: 'gauge',
    values: (status) => status.workers.map((one) => [{ worker: one.worker }, one.alive ? 1 : 0] as const),
  },
];

/** The status in Prometheus' text format. */
export function metricsText(status: StatusView): string {
  const lines: string[] = [];
  for (const metric of METRICS) {
    lines.push(`# HELP ${metric.name} ${metric.help}`, `# TYPE ${metric.name} ${metric.type}`);
    for (const [labels, value] of metric.values(status)) {
      if (value !== null) lines.push(`${metric.name}{${labelText(labels)}} ${value}`);
    }
  }
  return `${lines.join('\n')}\n`;
}

function labelText(labels: Labels): string {
  return Object.entries(labels)
    .map(([name, value]) => `${name}="${value.replace(/[\\"\n]/g, (c) => (c === '\n' ? '\\n' : `\\${c}`))}"`)
    .join(',');
}
