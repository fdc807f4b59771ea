import { BIGINT, BOOLEAN, DOUBLE, INTEGER, UBIGINT, VARCHAR } from '@duckdb/node-api';

/** Types that rows can be appended with. BIGINT and UBIGINT take a JavaScript bigint. */
export const APPENDED = { BIGINT, BOOLEAN, DOUBLE, INTEGER, UBIGINT, VARCHAR } as const;

/** Name and type of every column of a table, in its order. */
export type AppendColumns = Readonly<Record<string, keyof typeof APPENDED>>;
