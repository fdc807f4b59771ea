export type {
  BatchDraft,
  ChangelogOptions,
  Changelogs,
  ChangelogStatus,
  ChangelogWriter,
  LastBatch,
  ReadOptions,
} from './changelog.ts';
export { CsvRows } from './column.ts';
export { decodeBatch, encodeBatch, FORMAT_VERSION, schemaVersion } from './codec.ts';
export { type Broker, connectNats, memoryBroker } from './connect.ts';
export { SectionDraft } from './draft.ts';
export type { MemoryStore } from './memory/store.ts';
export type { NatsOptions } from './nats/connection.ts';
