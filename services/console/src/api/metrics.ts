import type { MetricName, Sample } from '@tributary/ops';
import type { AlertView, ProjectionView, SourceView, StatusView } from '../wire.ts';

const MILLI = 1_000;

/** What a status says, as metrics. A value that nobody tells is null, which leaves it out. */
export function samplesOf(status: StatusView, alerts: readonly AlertView[]): Sample[] {
  return [
    ...status.sources.flatMap(ofSource),
    ...ofAlerts(alerts),
    // A split projection by its parts: a part that starts anew counts from zero, which a sum would hide.
    ...status.projections.flatMap((one) => one.parts ?? [one]).flatMap(ofProjection),
    ...status.changelogs.flatMap((one) => [
      sample('tributary_changelog_messages', { changelog: one.name }, one.messages),
      sample('tributary_changelog_bytes', { changelog: one.name }, one.bytes),
    ]),
    ...status.workers.flatMap((one) => [
      sample('tributary_worker_alive_state', { worker: one.worker }, Number(one.alive)),
      sample('tributary_worker_actors', { worker: one.worker }, one.actors),
      sample('tributary_worker_capacity_actors', { worker: one.worker }, one.capacity),
      sample('tributary_worker_takeovers_total', { worker: one.worker }, one.takeovers),
    ]),
    ...status.leases.flatMap(({ assignment, worker, epoch, renewedMs }) => [
      sample('tributary_lease_epoch', { assignment, worker }, epoch),
      sample('tributary_lease_age_seconds', { assignment, worker }, seconds(renewedMs)),
    ]),
  ];
}

function ofSource(source: SourceView): Sample[] {
  const labels = { source: source.name };
  const { slot } = source;
  return [
    ...ofActor(`source/${source.name}`, 'source', source),
    sample('tributary_source_changes_total', labels, source.changes),
    sample('tributary_source_lag_seconds', labels, seconds(source.lagMs)),
    sample('tributary_source_pending_bytes', labels, source.pendingBytes),
    sample('tributary_source_held_seconds_total', labels, seconds(source.heldMs)),
    sample('tributary_slot_retained_bytes', labels, slot?.retainedBytes ?? null),
    sample('tributary_slot_safe_bytes', labels, slot?.safeBytes ?? null),
    sample('tributary_slot_lost_state', labels, slot?.walStatus ? Number(/^(lost|unreserved)$/.test(slot.walStatus)) : null),
    sample('tributary_slot_confirm_age_seconds', labels, seconds(slot?.confirmAgeMs ?? null)),
  ];
}

/** A table whose alerts are all over is told as 0, as long as its worker remembers them. */
function ofAlerts(alerts: readonly AlertView[]): Sample[] {
  const counts = new Map<string, { labels: Sample['labels']; count: number }>();
  for (const alert of alerts) {
    if (alert.kind !== 'contract') continue;
    const { source, table, owner, resolvedAt } = alert;
    const labels = { source, table, owner };
    const { count = 0 } = counts.get(JSON.stringify(labels)) ?? {};
    counts.set(JSON.stringify(labels), { labels, count: count + Number(resolvedAt === null) });
  }
  const firing = new Map<string, Sample>();
  // The newest counts; an alert that is over is told as 0, as long as its worker remembers it.
  for (const alert of alerts.toSorted((a, b) => a.raisedAt - b.raisedAt)) {
    if (alert.kind === 'contract') continue;
    const fires = alert.state === 'firing' || alert.state === 'keep_firing';
    if (alert.kind === 'process') {
      // Alerts are many where each case is one: what is told is whether some fires, of a severity.
      const { process, severity } = alert;
      const id = JSON.stringify([process, severity]);
      const count = (firing.get(id)?.value ?? 0) + Number(fires);
      firing.set(id, sample('tributary_process_alerts_firing', { process, severity }, count));
      continue;
    }
    const { kpi, alert: name, owner } = alert;
    firing.set(
      JSON.stringify([kpi, name]),
      sample('tributary_kpi_alert_firing_state', { kpi, alert: name, owner }, Number(fires)),
    );
  }
  return [
    ...[...counts.values()].map(({ labels, count }) => sample('tributary_contract_breaches', labels, count)),
    ...firing.values(),
  ];
}

function ofProjection(projection: ProjectionView): Sample[] {
  const labels = { projection: projection.name };
  return [
    ...ofActor(projection.name, projection.kind, projection),
    sample('tributary_projection_lag_seconds', labels, seconds(projection.lagMs)),
    sample('tributary_projection_lag_messages', labels, projection.lagMessages),
    sample('tributary_projection_lag_bytes', labels, projection.lagBytes),
    sample('tributary_projection_watermark_seconds', labels, seconds(projection.watermark)),
    sample('tributary_projection_applied_rows_total', labels, projection.applied),
    sample('tributary_quarantined_batches', labels, projection.quarantinedBatches),
    sample('tributary_projection_held_seconds_total', labels, seconds(projection.heldMs)),
  ];
}

function ofActor(actor: string, kind: string, { state, faults }: SourceView | ProjectionView): Sample[] {
  const counted = Object.entries(faults);
  return [
    sample('tributary_actor_led_state', { actor, kind }, Number(state !== 'unassigned')),
    sample('tributary_actor_running_state', { actor, kind }, Number(state === 'running')),
    sample('tributary_actor_failed_state', { actor, kind }, Number(state === 'failed')),
    sample(
      'tributary_actor_restarts_total',
      { actor },
      counted.reduce((sum, [, count]) => sum + count, 0),
    ),
    ...counted.map(([fault, count]) => sample('tributary_actor_faults_total', { actor, fault }, count)),
  ];
}

function sample(name: MetricName, labels: Sample['labels'], value: number | null): Sample {
  return { name, labels, value };
}

function seconds(ms: number | null): number | null {
  return ms === null ? null : ms / MILLI;
}
