export type {
  BatchDraft,
  ChangelogOptions,
  Changelogs,
  ChangelogStatus,
  ChangelogWriter,
  LastBatch,
  Placed,
  ReadOptions,
  Sought,
} from './changelog.ts';
export { type Change, changesOf } from './change.ts';
export type { EventMessage, EventStreamOptions, EventStreams, EventStreamWriter } from './event-stream.ts';
export { MemoryEventStreams } from './memory/event-streams.ts';
export { ArrayColumn, CsvRows, JoinedColumn } from './column.ts';
export type { DeadLetter, DeadLetters, LetterEvent } from './dead-letters.ts';
export type { ColumnDraft } from './column-draft.ts';
export { CsvCutter } from './csv-cutter.ts';
export { batchAfter, decodeBatch, encodeBatch, FORMAT_VERSION, schemaVersion } from './codec.ts';
export { describeBroker } from './nats/connection.ts';
export { type Broker, connectNats, memoryBroker } from './connect.ts';
export { type MadeSection, SectionDraft } from './draft.ts';
export { type ReplayPlace, replayPlace } from './replay-place.ts';
export { MemoryStore } from './memory/store.ts';
export { memoryBus } from './memory/bus.ts';
export { MemoryKv } from './memory/kv.ts';
export { StoredChangelogs } from './changelogs.ts';
export type { Place, Store, Stored } from './store.ts';
export { type Start, startOf } from './start.ts';
export type { NatsOptions } from './nats/connection.ts';
