export type { ClusterConfig, Config, LakeSinkConfig, OdsSinkConfig, SinkConfig, SourceConfig } from './config.ts';
export { matchesTable, sourcesOf, targetSchema, wantsTable } from './config.ts';
export type { ConnectionConfig } from './connection.ts';
export type { Condition, EventOp, EventsSinkConfig, NatsTarget, WebhookTarget } from './events.ts';
export { configJsonSchema } from './json-schema.ts';
export { compareDocuments, type DocumentChange, holdsSecret } from './documents.ts';
export { type ConfigFile, configOf, loadConfig, readFiles } from './load.ts';
