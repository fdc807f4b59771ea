export { typedColumn, type TypedColumn } from './column-type.ts';
export { type DuckDBValue, listValue } from '@duckdb/node-api';
export { type Answer, Database, type DatabaseOptions, Duck, type Prepared } from './database.ts';
export { gate, type ReadTable, TELLING_FUNCTIONS } from './gate.ts';
export { Sandbox, type SandboxQuery } from './sandbox.ts';
export { hasMarks, isUnchanged, load, type Loaded, loadCells, Loader, plain } from './marks.ts';
export { duckIdent, duckLiteral } from './identifier.ts';
export { Shared } from './shared.ts';
