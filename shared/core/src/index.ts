export { AssertionFailed, assert, unreachable } from './assert.ts';
export type { Batch, BatchHeader, Cell, Column, OpCode, Section, SnapshotMark, StoredBatch, Transaction } from './batch.ts';
export { NULL_MARK, Op, SEPARATOR, UNCHANGED_MARK } from './batch.ts';
export type { AskOptions, Bus } from './bus.ts';
export { askOne } from './bus.ts';
export { askUntil, outlasting, outlastingLoss } from './outlasting.ts';
export type { Clock } from './clock.ts';
export { isoMicros, systemClock } from './clock.ts';
export { csvLine, shown } from './csv.ts';
export { epochOf, systemOf } from './epoch.ts';
export type { FaultFacts, FaultKind, Reaction } from './fault.ts';
export { describeError, FAULTS, Fault } from './fault.ts';
export type { Kv, KvEntry, KvEvent } from './kv.ts';
export { LIMITS } from './limits.ts';
export type { Lsn } from './lsn.ts';
export { formatLsn, maxLsn, parseLsn } from './lsn.ts';
export type { Position, SourcePosition } from './position.ts';
export {
  compareSourcePosition,
  formatSourcePosition,
  ORIGIN,
  parseSourcePosition,
  READ_ORDINAL_MIN,
} from './position.ts';
export type { Random } from './random.ts';
export { systemRandom } from './random.ts';
export type { ColumnSchema, PgType, TableSchema } from './schema.ts';
export { keyColumns, tableName } from './schema.ts';
export { canonicalType, holdsType, typmodOf } from './sql-type.ts';
export { firstWords } from './statement.ts';
export type { Part } from './part.ts';
export { partName, partsOf, projectionOf, WHOLE } from './part.ts';
