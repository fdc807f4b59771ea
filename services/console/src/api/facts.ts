import type { ActorStatus } from '@tributary/cluster';
import { projectionOf } from '@tributary/core';
import type {
  ActorStateView,
  AlertView,
  FaultView,
  LeaseView,
  ProjectionView,
  SlotView,
  SnapshotView,
  SourceView,
} from '../wire.ts';

type Facts = Readonly<Record<string, unknown>>;

/**
 * Reads what actors tell of themselves. Facts come over the bus from workers of any version, so nothing is
 * taken for granted: a fact that is missing or of another type is null ("not told"), never an error.
 */
export function sourceView(name: string, worker: string, actor: ActorStatus): SourceView {
  const facts = actor.facts;
  return {
    name,
    state: actor.state,
    worker,
    restarts: actor.restarts,
    fault: faultView(actor),
    faults: counts(actor.faults),
    lsn: text(facts['lsn']) ?? text(inside(facts, 'position')['lsn']),
    confirmedLsn: text(facts['confirmedLsn']),
    lagMs: number(facts['lagMs']),
    pendingBytes: number(facts['pendingBytes']),
    heldMs: number(facts['heldMs']),
    changes: number(facts['changes']),
    changesPerSecond: null,
    tables: Array.isArray(facts['tables']) ? facts['tables'].length : number(facts['tables']),
    slot: slotView(facts),
    snapshot: snapshotView(facts['snapshot']),
  };
}

export function projectionView(worker: string, actor: ActorStatus): ProjectionView {
  const facts = actor.facts;
  const position = inside(facts, 'position');
  const seq = number(position['seq']);
  const watermark = number(facts['watermark']);
  return {
    name: actor.name,
    kind: actor.kind,
    changelog: text(facts['changelog']) ?? projectionOf(actor.name.slice(actor.name.indexOf('/') + 1)),
    state: actor.state,
    worker,
    restarts: actor.restarts,
    fault: faultView(actor),
    faults: counts(actor.faults),
    position: seq === null ? null : { seq, lsn: text(position['lsn']) ?? '0/0' },
    lagMs: number(facts['lagMs']),
    lagMessages: null,
    lagBytes: null,
    watermark: watermark ? watermark / 1_000 : null,
    heldMs: number(facts['heldMs']),
    applied: number(facts['applied']),
    quarantinedTables: texts(inside(facts, 'quarantine')['tables']),
    quarantinedBatches: number(inside(facts, 'quarantine')['batches']),
    appliedPerSecond: null,
  };
}

/** The worst first: what a projection says of itself when its parts do not say the same. */
const STATES: readonly ActorStateView[] = ['failed', 'waiting', 'unassigned', 'stopped', 'draining', 'starting', 'running'];

/** One view of a split projection from those of its parts. It is as far as the part that is furthest behind. */
export function joinParts(name: string, parts: readonly ProjectionView[]): ProjectionView {
  const [first] = parts as readonly [ProjectionView, ...ProjectionView[]];
  const states = new Set<ActorStateView>(parts.map((part) => part.state));
  const positions = parts.flatMap(({ position }) => (position ? [position] : []));
  const known = (read: (part: ProjectionView) => number | null) => parts.flatMap((part) => read(part) ?? []);
  const watermarks = known((part) => part.watermark);
  const most = (values: readonly number[]) => (values.length > 0 ? Math.max(...values) : null);
  const sum = (values: readonly number[]) => (values.length > 0 ? values.reduce((total, value) => total + value, 0) : null);
  return {
    name,
    kind: first.kind,
    changelog: first.changelog,
    state: STATES.find((state) => states.has(state)) ?? 'unassigned',
    worker: [...new Set(parts.flatMap((part) => part.worker ?? []))].sort().join(', ') || null,
    restarts: sum(known((part) => part.restarts)) ?? 0,
    fault: parts.find((part) => part.fault)?.fault ?? null,
    faults: sumCounts(parts.map((part) => part.faults)),
    position:
      positions.length < parts.length
        ? null
        : positions.reduce((least, position) => (position.seq < least.seq ? position : least)),
    lagMs: most(known((part) => part.lagMs)),
    lagMessages: most(known((part) => part.lagMessages)),
    lagBytes: most(known((part) => part.lagBytes)),
    watermark: watermarks.length < parts.length ? null : Math.min(...watermarks),
    heldMs: sum(known((part) => part.heldMs)),
    applied: sum(known((part) => part.applied)),
    quarantinedTables: parts.flatMap((part) => part.quarantinedTables),
    quarantinedBatches: sum(known((part) => part.quarantinedBatches)),
    appliedPerSecond: sum(known((part) => part.appliedPerSecond)),
    parts: [...parts].sort((a, b) => (a.name < b.name ? -1 : 1)),
  };
}

export function unassignedSource(name: string): SourceView {
  return {
    name,
    state: 'unassigned',
    worker: null,
    restarts: 0,
    fault: null,
    faults: {},
    lsn: null,
    confirmedLsn: null,
    lagMs: null,
    pendingBytes: null,
    heldMs: null,
    changes: null,
    changesPerSecond: null,
    tables: null,
    slot: null,
    snapshot: null,
  };
}

export function unassignedProjection(name: string, kind: string): ProjectionView {
  const actor: ActorStatus = { name, kind, state: 'stopped', restarts: 0, faults: {}, fault: null, facts: {} };
  return { ...projectionView('', actor), state: 'unassigned', worker: null };
}

/** What an actor says of alerts: a source of its contract, a KPI and a process of their own. */
export function alertViews({ name, kind, facts }: ActorStatus): AlertView[] {
  if (kind === 'source') return contractAlerts(name.slice(name.indexOf('/') + 1), facts);
  const [kpi, process] = [text(facts['kpi']), text(facts['process'])];
  if (kpi !== null) return kpiAlerts(kpi, facts);
  return process === null ? [] : processAlerts(process, facts);
}

const ALERT_STATES = ['pending', 'firing', 'keep_firing', 'resolved'] as const;

function kpiAlerts(kpi: string, facts: Facts): AlertView[] {
  return told(facts).flatMap((one) => {
    const [alert, problem, raisedAt] = [text(one['alert']), text(one['problem']), number(one['raisedAt'])];
    const state = ALERT_STATES.find((known) => known === one['state']);
    if (alert === null || problem === null || raisedAt === null || !state) return [];
    const [cause, owner, resolvedAt] = [text(one['cause']), text(one['owner']) ?? '', number(one['resolvedAt'])];
    const id = `kpi.${kpi}.${alert}`;
    return [
      { kind: 'kpi', id, kpi, alert, state, cause, problem, owner, raisedAt, resolvedAt, acknowledged: acknowledgedOf(one) },
    ];
  });
}

function processAlerts(process: string, facts: Facts): AlertView[] {
  return told(facts).flatMap((one) => {
    const [alert, problem, raisedAt] = [text(one['alert']), text(one['problem']), number(one['raisedAt'])];
    const state = ALERT_STATES.find((known) => known === one['state']);
    if (alert === null || raisedAt === null || !state) return [];
    const rest = {
      on: texts(one['on']),
      severity: text(one['severity']) ?? 'warning',
      owner: '',
      acknowledged: acknowledgedOf(one),
    };
    const id = `process.${process}.${alert}`;
    const resolvedAt = number(one['resolvedAt']);
    return [{ kind: 'process', id, process, alert, state, problem: problem ?? alert, raisedAt, resolvedAt, ...rest }];
  });
}

function acknowledgedOf(alert: Facts): { by: string; at: number } | null {
  const { by, at } = inside(alert, 'acknowledged');
  return typeof by === 'string' && typeof at === 'number' ? { by, at } : null;
}

function told(facts: Facts): Facts[] {
  const alerts = facts['alerts'];
  return Array.isArray(alerts) ? alerts.map((one: unknown) => (one ?? {}) as Facts) : [];
}

function contractAlerts(source: string, facts: Facts): AlertView[] {
  return told(facts).flatMap((alert) => {
    const [table, problem, raisedAt] = [text(alert['table']), text(alert['problem']), number(alert['raisedAt'])];
    if (table === null || problem === null || raisedAt === null) return [];
    const [column, owner, resolvedAt] = [text(alert['column']), text(alert['owner']) ?? '', number(alert['resolvedAt'])];
    return [{ kind: 'contract', source, table, column, problem, owner, raisedAt, resolvedAt }];
  });
}

/** @returns null for what is no lease */
export function leaseView(worker: string, told: unknown): LeaseView | null {
  const facts = (told ?? {}) as Facts;
  const assignment = text(facts['assignment']);
  const epoch = number(facts['epoch']);
  if (assignment === null || epoch === null) return null;
  return { assignment, worker, epoch, heldMs: number(facts['heldMs']) ?? 0, renewedMs: number(facts['renewedMs']) ?? 0 };
}

function faultView(actor: ActorStatus): FaultView | null {
  const { fault } = actor;
  return fault ? { kind: fault.kind, message: fault.message, advice: fault.advice } : null;
}

function slotView(facts: Facts): SlotView | null {
  const slot = inside(facts, 'slot');
  const view = {
    name: text(slot['name']) ?? text(facts['slot']),
    active: typeof slot['active'] === 'boolean' ? slot['active'] : null,
    retainedBytes: number(slot['retainedBytes']),
    walStatus: text(slot['walStatus']),
    safeBytes: number(slot['safeBytes']) ?? number(slot['safeWalSize']),
    confirmAgeMs: number(facts['confirmAgeMs']),
  };
  return Object.values(view).every((value) => value === null) ? null : view;
}

function snapshotView(value: unknown): SnapshotView | null {
  if (typeof value !== 'object' || value === null) return null;
  const facts = value as Facts;
  const tablesDone = number(facts['tablesDone']);
  const tablesTotal = number(facts['tablesTotal']);
  const fraction = number(facts['fraction']) ?? (tablesTotal ? (tablesDone ?? 0) / tablesTotal : null);
  return {
    table: text(facts['table']),
    tablesDone,
    tablesTotal,
    rows: number(facts['rows']),
    fraction: fraction === null ? null : Math.min(1, Math.max(0, fraction)),
  };
}

function sumCounts(all: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const sums: Record<string, number> = {};
  for (const [kind, count] of all.flatMap((one) => Object.entries(one))) sums[kind] = (sums[kind] ?? 0) + count;
  return sums;
}

/** Told by a worker of any version: absent = none. */
function counts(value: unknown): Readonly<Record<string, number>> {
  if (typeof value !== 'object' || value === null) return {};
  return Object.fromEntries(
    Object.entries(value as Facts).filter((entry): entry is [string, number] => number(entry[1]) !== null),
  );
}

function inside(facts: Facts, name: string): Facts {
  const value = facts[name];
  return typeof value === 'object' && value !== null ? (value as Facts) : {};
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((one): one is string => typeof one === 'string') : [];
}

function text(value: unknown): string | null {
  return typeof value === 'string' && value !== '' ? value : null;
}

function number(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}
