import type * as arrow from './api/arrow.ts';

export type { Token } from './api/access.ts';
export type { TypedColumn } from './api/arrow.ts';
export type { ProcessDiscovery } from './api/process-discovery.ts';
export type { DefinedKind, Definition, DefinitionChanged, DefinitionName, Definitions } from './api/definitions.ts';
export type { ImportedLogs, SentLog } from './api/imported-logs.ts';
export { Observer } from './api/observer.ts';
export { startHealth } from './health.ts';
export { type ConsoleOptions, type RunningConsole, startConsole } from './main.ts';
export type {
  ActorStateView,
  AlertView,
  ChangelogView,
  FaultView,
  LeaseView,
  ProjectionView,
  RateHistory,
  SlotView,
  SnapshotView,
  SourceView,
  StatusTick,
  StatusView,
  WorkerView,
} from './wire.ts';

/** Writes Arrow. Loaded when asked for, as few ask. */
export function arrowWriting(): Promise<typeof arrow> {
  return import('./api/arrow.ts');
}
