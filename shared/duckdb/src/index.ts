export { type DuckDBValue, listValue } from '@duckdb/node-api';
export { type Answer, Database, type DatabaseOptions, Duck } from './database.ts';
export { gate } from './gate.ts';
export { duckIdent, duckLiteral } from './identifier.ts';
