import { monitorEventLoopDelay } from 'node:perf_hooks';

interface Declaration {
  readonly type: 'gauge' | 'counter';
  readonly help: string;
  readonly labels: readonly string[];
}

/**
 * Every metric of the system, declared here and nowhere else: `tributary_<noun>_<unit>[_total]`, base units (seconds,
 * bytes). `_state` is 1 or 0. Dashboards and alert rules in deploy/dashboards may name only these (test/tidy).
 * A counter counts since the process that tells it started.
 */
export const METRICS = {
  tributary_source_changes_total: counter('Row changes captured since the actor started.', 'source'),
  tributary_source_lag_seconds: gauge('Age of the newest commit when the changelog had stored it.', 'source'),
  tributary_source_pending_bytes: gauge('Sent to the broker and not yet stored.', 'source'),
  tributary_source_held_seconds_total: counter('Time reading stood still because the broker was behind.', 'source'),
  tributary_slot_retained_bytes: gauge('Write-ahead log that the database keeps for the slot.', 'source'),
  tributary_slot_safe_bytes: gauge('Write-ahead log that may still be written before the slot is in danger.', 'source'),
  tributary_slot_lost_state: gauge('1 when the slot lost, or is about to lose, log that it needs.', 'source'),
  tributary_slot_confirm_age_seconds: gauge('Time since the confirmed position last moved.', 'source'),
  tributary_contract_breaches: gauge('Ways in which a table does not keep what its owner promised.', 'source', 'table', 'owner'),
  tributary_process_alerts_firing: gauge('Alerts of a process that fire.', 'process', 'severity'),
  tributary_kpi_alert_firing_state: gauge('1 while an alert of a KPI fires.', 'kpi', 'alert', 'owner'),
  tributary_kpi_value: gauge(
    'Value of a measure, over all dimensions, in the bucket of a grain that is not over yet.',
    'kpi',
    'measure',
    'grain',
  ),
  tributary_kpi_lag_seconds: gauge('Age of what the values of a KPI are complete to.', 'kpi'),
  tributary_kpi_freshness_target_seconds: gauge('How old the values of a KPI may be, as its definition promises.', 'kpi'),
  tributary_kpi_reaction_seconds: gauge('From the newest commit of the sources of a KPI until its values had it.', 'kpi'),
  tributary_kpi_queries_total: counter('Questions for values of a KPI that were answered.', 'kpi'),
  tributary_kpi_query_seconds_total: counter('Time that answering them took.', 'kpi'),
  tributary_kpi_differences_total: counter(
    'Rows of what is kept of a KPI that differed from its definition, at its daily check.',
    'kpi',
  ),
  tributary_changelog_messages: gauge('Messages held by the changelog.', 'changelog'),
  tributary_changelog_bytes: gauge('Size of the changelog.', 'changelog'),
  tributary_projection_lag_seconds: gauge('Age of the oldest change not yet applied; 0 when nothing is behind.', 'projection'),
  tributary_projection_lag_messages: gauge('Changelog messages not yet applied.', 'projection'),
  tributary_projection_lag_bytes: gauge('Changelog bytes not yet applied: messages × mean size of a message.', 'projection'),
  tributary_projection_watermark_seconds: gauge('Commit time, Unix, up to which the projection is complete.', 'projection'),
  tributary_projection_applied_rows_total: counter('Row changes applied since the actor started.', 'projection'),
  tributary_quarantined_batches: gauge('Batches put aside because they could not be applied, until a person acts.', 'projection'),
  tributary_projection_held_seconds_total: counter('Time reading stood still because the target was behind.', 'projection'),
  tributary_actor_led_state: gauge('1 while some worker leads the actor, whether it runs or not.', 'actor', 'kind'),
  tributary_actor_running_state: gauge('1 while the actor does its work.', 'actor', 'kind'),
  tributary_actor_failed_state: gauge('1 while the actor stands still until a person acts.', 'actor', 'kind'),
  tributary_actor_restarts_total: counter('Starts after a fault.', 'actor'),
  tributary_actor_faults_total: counter('Faults by kind.', 'actor', 'fault'),
  tributary_worker_alive_state: gauge('1 while the worker tells of itself.', 'worker'),
  tributary_worker_actors: gauge('Actors the worker runs.', 'worker'),
  tributary_worker_capacity_actors: gauge('Share of the work that the worker asks for, over its services.', 'worker'),
  tributary_worker_takeovers_total: counter('Leases taken from workers that had gone silent.', 'worker'),
  tributary_lease_epoch: gauge('Rises with every taking of the lease.', 'assignment', 'worker'),
  tributary_lease_age_seconds: gauge('Time since the lease was renewed; at 10 others may take it.', 'assignment', 'worker'),
  tributary_process_resident_bytes: gauge('Resident memory of this process.', 'worker'),
  tributary_process_cpu_seconds_total: counter('CPU time, user and system, of this process.', 'worker'),
  tributary_process_event_loop_lag_seconds: gauge('Delay of the event loop, 99th percentile since the last look.', 'worker'),
} as const satisfies Record<string, Declaration>;

export type MetricName = keyof typeof METRICS;

/** One value of one metric; null = not known, and then left out rather than shown as zero. */
export interface Sample {
  readonly name: MetricName;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number | null;
}

/** Content type of {@link exposition}: Prometheus' text format. */
export const EXPOSITION_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** Samples in Prometheus' text format; every declared metric is named, also one without a value. */
export async function exposition(samples: Iterable<Sample>): Promise<string> {
  // Loaded when it is asked for: every thread and command loads this file, and few are ever asked.
  const { Counter, Gauge, Registry } = await import('prom-client');
  const registry = new Registry();
  const set = new Map(
    Object.entries(METRICS).map(([name, { type, help, labels }]) => {
      const options = { name, help, labelNames: labels, registers: [registry] };
      if (type === 'gauge') {
        const metric = new Gauge(options);
        return [name, (sample: Sample, value: number) => metric.set(sample.labels, value)] as const;
      }
      const metric = new Counter(options);
      return [name, (sample: Sample, value: number) => metric.inc(sample.labels, value)] as const;
    }),
  );
  for (const sample of samples) if (sample.value !== null) set.get(sample.name)?.(sample, sample.value);
  return registry.metrics();
}

/** How often the event loop is looked at, ms: rarely enough to cost nothing. */
const LOOP_LOOK_MS = 50;

/** Watches this process; the event loop is that of the calling thread. @returns its samples, at each call since the last one */
export function watchProcess(worker: string): () => Sample[] {
  const delay = monitorEventLoopDelay({ resolution: LOOP_LOOK_MS });
  delay.enable();
  return () => {
    // The histogram holds the time between two looks; what exceeds the pause between them is lag.
    const lagMs = Math.max(0, delay.percentile(99) / 1e6 - LOOP_LOOK_MS);
    delay.reset();
    const { user, system } = process.cpuUsage();
    const labels = { worker };
    return [
      { name: 'tributary_process_resident_bytes', labels, value: process.memoryUsage.rss() },
      { name: 'tributary_process_cpu_seconds_total', labels, value: (user + system) / 1e6 },
      { name: 'tributary_process_event_loop_lag_seconds', labels, value: lagMs / 1e3 },
    ];
  };
}

function gauge(help: string, ...labels: string[]): Declaration {
  return { type: 'gauge', help, labels };
}

function counter(help: string, ...labels: string[]): Declaration {
  return { type: 'counter', help, labels };
}
