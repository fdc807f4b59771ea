export { checkSource, type Finding } from './check.ts';
export type { Replication, ReplicateOptions, Rows, SourceDatabase, SourceSession } from './database.ts';
export { startSources } from './main.ts';
export { PostgresDatabase } from './postgres-database.ts';
export { SourceActor, type SourceOptions } from './source-actor.ts';
export { Vitals } from './vitals.ts';
