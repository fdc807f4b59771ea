import { gate } from './gate.ts';
import { sandboxed } from './sandboxed.ts';

/** Queries of people: one SELECT over known tables. */
sandboxed<{ readonly sql: string; readonly known: readonly string[] }, null>({
  parse: (duck, { sql, known }) => gate(duck, sql, new Set(known)),
  compute: (duck, { sql }) => duck.parts(sql),
});
