import type * as reading from './files.ts';

export type { ClusterConfig, Config, LakeSinkConfig, OdsSinkConfig, Role, SinkConfig, SourceConfig } from './config.ts';
export type { AlertBaseline, AlertExpression, AlertValue } from './alert-condition.ts';
export type { HookConfig } from './hooks.ts';
export type { KpiReader } from './kpi-access.ts';
export type { Grain } from './kpi-names.ts';
export type { KpiFiles, KpiPublish } from './kpi-publish.ts';
export type { KpiTest } from './kpi-tests.ts';
export type { RowFilter } from './row-filter.ts';
export type {
  KpiAlert,
  KpiConfig,
  KpiDefinition,
  KpiMeasure,
  KpiQuery,
  KpiTable,
  KpiTarget,
  Span,
} from './kpi.ts';
export {
  admits,
  historySchema,
  inputsOf,
  lakeFolder,
  lookupsOf,
  matchesTable,
  mayShareTables,
  readsAll,
  readsTable,
  ROLES,
  sourcesOf,
  sourcesOfKpis,
  sourcesOfProcess,
  targetSchema,
  wantsTable,
} from './config.ts';
export { parseDuration } from './duration.ts';
export type { EventPattern, ObjectType, ProcessConfig, TransactionActivity } from './process.ts';
export type { CaseCondition, EventOf, ObjectsIn } from './case-condition.ts';
export { FINDING_KINDS, type DriftConfig, type FindingKind, type ProcessAlert, type WatchConfig } from './process-watch.ts';
export type { AllowedTransitions, Constraint, CycleTarget, ProcessRule, Severity, StageTarget } from './process-rules.ts';
export type { ConnectionConfig } from './connection.ts';
export type { ContractConfig, PromisedTable } from './contract.ts';
export type { DocumentChange } from './documents.ts';
export type { Condition, EventOp, EventsSinkConfig, NatsTarget, WebhookTarget } from './events.ts';
export type { JsonPath, Lookup, Mask, TransformConfig, TransformStep } from './transforms.ts';
export type { ConfigFile } from './load.ts';

/**
 * What reads config files and checks them. Loaded when asked for: the parser and the schemas take 7 MB of a heap, and every service
 * thread, which is given a config that was read, has a heap of its own.
 */
export function configReading(): Promise<typeof reading> {
  return import('./files.ts');
}
