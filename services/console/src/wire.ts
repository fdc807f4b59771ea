/**
 * What the console says over HTTP: the shapes of `/v1/status` and of the stream behind the page.
 * Types alone, compiled into the server and into the page, so that the two cannot drift apart.
 * Times are milliseconds since 1970, LSNs are PostgreSQL's text form; null means "not told (yet)".
 */

export interface FaultView {
  readonly kind: string;
  readonly message: string;
  readonly advice: string;
}

/** `unassigned`: configured, but no worker leads it. */
export type ActorStateView = 'starting' | 'running' | 'draining' | 'stopped' | 'failed' | 'waiting' | 'unassigned';

export interface SlotView {
  readonly name: string | null;
  readonly active: boolean | null;
  /** WAL the database keeps for this slot. */
  readonly retainedBytes: number | null;
  /** `reserved`, `extended`, `unreserved`, `lost`. */
  readonly walStatus: string | null;
  /** WAL that may still be written before the slot is in danger; null = no limit is set. */
  readonly safeBytes: number | null;
  /** Time since the confirmed position last moved. */
  readonly confirmAgeMs: number | null;
}

export interface SnapshotView {
  readonly table: string | null;
  readonly tablesDone: number | null;
  readonly tablesTotal: number | null;
  readonly rows: number | null;
  /** 0 … 1. */
  readonly fraction: number | null;
}

export interface SourceView {
  readonly name: string;
  readonly state: ActorStateView;
  readonly worker: string | null;
  readonly restarts: number;
  readonly fault: FaultView | null;
  /** Faults by kind since the worker took it. */
  readonly faults: Readonly<Record<string, number>>;
  /** Commit position up to which the changelog is complete. */
  readonly lsn: string | null;
  readonly confirmedLsn: string | null;
  readonly lagMs: number | null;
  /** Sent to the broker and not yet stored. */
  readonly pendingBytes: number | null;
  /** How long reading stood still, in all, because the broker was behind. */
  readonly heldMs: number | null;
  /** Row changes captured since the actor started. */
  readonly changes: number | null;
  readonly changesPerSecond: number | null;
  readonly tables: number | null;
  readonly slot: SlotView | null;
  readonly snapshot: SnapshotView | null;
}

export interface ChangelogView {
  readonly name: string;
  readonly firstSeq: number;
  readonly lastSeq: number;
  readonly messages: number;
  readonly bytes: number;
}

export interface ProjectionView {
  /** `<sink>/<source>`. */
  readonly name: string;
  readonly kind: string;
  readonly changelog: string;
  readonly state: ActorStateView;
  readonly worker: string | null;
  readonly restarts: number;
  readonly fault: FaultView | null;
  /** Faults by kind since the worker took it. */
  readonly faults: Readonly<Record<string, number>>;
  readonly position: { readonly seq: number; readonly lsn: string } | null;
  /** Age of the oldest change it does not hold yet; how late the newest one came when it holds all. */
  readonly lagMs: number | null;
  /** Changelog messages not yet applied. */
  readonly lagMessages: number | null;
  /** The same in bytes: messages × the mean size of a message of that changelog, so an estimate. */
  readonly lagBytes: number | null;
  /** Commit time up to which it is complete. */
  readonly watermark: number | null;
  /** How long reading stood still, in all, because the target was behind. */
  readonly heldMs: number | null;
  /** Row changes applied since the actor started. */
  readonly applied: number | null;
  /** Tables that are put aside because a change could not be applied, and how many batches wait. */
  readonly quarantinedTables: readonly string[];
  readonly quarantinedBatches: number | null;
  readonly appliedPerSecond: number | null;
  /** Of a projection that is split by table: its parts, `<sink>/<source>#<index>`. The figures above are then those of the part furthest behind, or sums. */
  readonly parts?: readonly Omit<ProjectionView, 'parts'>[];
}

export interface WorkerView {
  readonly worker: string;
  readonly services: readonly string[];
  /** Null: it runs whatever labels ask for. */
  readonly labels: Readonly<Record<string, string>> | null;
  /** Its share of the work, beside the other workers' capacities. */
  readonly capacity: number | null;
  /** Leases taken from workers that had gone silent, since it started. */
  readonly takeovers: number;
  readonly actors: number;
  readonly failed: number;
  readonly heardAt: number;
  /** Spoke within the last seconds. */
  readonly alive: boolean;
}

/** Who leads what: the right of one worker to run what moves together. */
export interface LeaseView {
  /** `source/<source>`, `<sink>/<source>`, or a sink whose projections move together. */
  readonly assignment: string;
  readonly worker: string;
  /** Rises with every taking. */
  readonly epoch: number;
  readonly heldMs: number;
  /** Since the last renewal; near the lifetime of a lease, somebody else takes it. */
  readonly renewedMs: number;
}

/** Something that somebody must know of, once raised until it is resolved. */
export type AlertView = ContractAlertView | KpiAlertView | ProcessAlertView;

interface RaisedView {
  readonly problem: string;
  /** Who answers for it. */
  readonly owner: string;
  readonly raisedAt: number;
  /** Null while it lasts. */
  readonly resolvedAt: number | null;
}

/** A table does not keep what was promised of it. */
export interface ContractAlertView extends RaisedView {
  readonly kind: 'contract';
  readonly source: string;
  /** `schema.table`. */
  readonly table: string;
  readonly column: string | null;
}

/** A condition on the values of a KPI holds. */
export interface KpiAlertView extends RaisedView {
  readonly kind: 'kpi';
  readonly kpi: string;
  readonly alert: string;
  /** `pending`: not for long enough; `keep_firing`: not over for long enough. */
  readonly state: 'pending' | 'firing' | 'keep_firing' | 'resolved';
  /** `condition`, `no_data` or `stale`. */
  readonly cause: string | null;
  /** For whoever takes note of it. */
  readonly id: string;
  readonly acknowledged: { readonly by: string; readonly at: number } | null;
}

/** Something is wrong in cases of a process: a rule or a deadline is broken, or it goes otherwise than usual. */
export interface ProcessAlertView extends RaisedView {
  readonly kind: 'process';
  readonly process: string;
  readonly alert: string;
  /** `rule`, `sla`, `stuck`, `missing`, `silent`, `drift`. */
  readonly on: readonly string[];
  readonly severity: string;
  readonly state: 'pending' | 'firing' | 'keep_firing' | 'resolved';
  readonly id: string;
  readonly acknowledged: { readonly by: string; readonly at: number } | null;
}

export interface StatusView {
  readonly at: number;
  /** Those that last. */
  readonly alerts: readonly AlertView[];
  readonly sources: readonly SourceView[];
  readonly changelogs: readonly ChangelogView[];
  readonly projections: readonly ProjectionView[];
  readonly workers: readonly WorkerView[];
  readonly leases: readonly LeaseView[];
}

/** Changes per second over time: one column of `at`, one column of rates per source. A gap is null. */
export interface RateHistory {
  readonly at: readonly number[];
  readonly series: Readonly<Record<string, readonly (number | null)[]>>;
}

/** One tick of the stream behind the page: event `status`. Event `history` carries a {@link RateHistory} first. */
export interface StatusTick {
  readonly status: StatusView;
  readonly rates: Readonly<Record<string, number | null>>;
}
