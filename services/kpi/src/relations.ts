import { type Duck, duckIdent } from '@tributary/duckdb';
import type { Compiled, Joined } from './definition.ts';
import { FROM, type ShownTable, TO } from './shown-table.ts';

/** A SELECT of a table at some moment; columns: as KPIs see them, unless others are named. */
export type View = (table: ShownTable, columns?: string) => string;

export const now: View = (table, columns = table.shown) => `SELECT ${columns} FROM ${table.current}`;

/** @param tickOf per source: the moment; rows stand there as they stood then (K3) */
export function asOf(tickOf: (source: string) => number): View {
  return (table, columns = table.shown) => {
    const x = tickOf(table.source);
    return `SELECT ${columns} FROM ${table.current} WHERE ${FROM} <= ${x}
      UNION ALL SELECT ${columns} FROM ${table.history} WHERE ${FROM} <= ${x} AND ${TO} > ${x}`;
  };
}

/** FROM clause of a KPI, each table seen as `view` says (the fact: index 0). */
export function fromClause({ from }: Pick<Compiled, 'from'>, view: (joined: Joined, index: number) => string): string {
  return from
    .map((joined, i) => {
      const one = `(${view(joined, i)}) AS ${duckIdent(joined.alias)}`;
      return i === 0 ? one : `${joined.outer ? 'LEFT JOIN' : 'JOIN'} ${one} ON (${joined.on}\n)`;
    })
    .join(' ');
}

/** What a group changed in the tables of one source. */
export interface Changed {
  readonly source: string;
  /** Tick of the source before the group. */
  readonly before: number;
  readonly tables: ReadonlySet<ShownTable>;
}

/** Joined rows of a KPI that a group took away and brought, as FROM clauses; null = none. */
export interface Moved {
  readonly gone: string;
  readonly come: string;
}

/**
 * Which joined rows a group took away and brought (SPEC.md, "One group"): those of facts that changed, and of facts that stayed but
 * join with a row that changed. Leaves the latter's row ids in the temporary table `_facts`.
 */
export async function movedRows(duck: Duck, compiled: Compiled, { source, before, tables }: Changed): Promise<Moved | null> {
  const [fact, ...others] = compiled.from as [Joined, ...Joined[]];
  // By name: what was compiled outlives the projection, which knows its tables anew whenever it starts.
  const names = new Set([...tables].map((table) => table.current));
  const isChanged = (table: ShownTable) => names.has(table.current);
  const touched = others.flatMap((joined, i) => (isChanged(joined.table) ? [i + 1] : []));
  if (touched.length === 0 && !isChanged(fact.table)) return null;
  const stayed = fact.table.source === source ? `${FROM} <= ${before}` : 'true';
  const earlier: View = (table) =>
    isChanged(table)
      ? `SELECT ${table.shown} FROM ${table.current} WHERE ${FROM} <= ${before} UNION ALL SELECT ${table.shown} FROM ${table.old}`
      : now(table);
  const shared = await sharedFacts(duck, compiled, { touched, stayed, earlier, before });
  const kept = shared
    ? ` UNION ALL SELECT ${fact.table.shown} FROM ${fact.table.current} WHERE rowid IN (SELECT row FROM _facts)`
    : '';
  const none = `SELECT ${fact.table.shown} FROM ${fact.table.current} LIMIT 0`;
  const changed = isChanged(fact.table);
  const goneFacts = changed ? `SELECT ${fact.table.shown} FROM ${fact.table.old}` : none;
  const comeFacts = changed ? `SELECT ${fact.table.shown} FROM ${fact.table.current} WHERE ${FROM} > ${before}` : none;
  return {
    gone: fromClause(compiled, ({ table }, i) => (i === 0 ? `(${goneFacts})${kept}` : earlier(table))),
    come: fromClause(compiled, ({ table }, i) => (i === 0 ? `(${comeFacts})${kept}` : now(table))),
  };
}

/** Facts that stayed and join with a changed row of another table, before the group or after it. @returns are there any? */
async function sharedFacts(
  duck: Duck,
  compiled: Compiled,
  { touched, stayed, earlier, before }: { touched: readonly number[]; stayed: string; earlier: View; before: number },
): Promise<boolean> {
  if (touched.length === 0) return false;
  const [fact] = compiled.from as [Joined, ...Joined[]];
  const facts = `SELECT rowid AS _row, ${fact.table.shown} FROM ${fact.table.current} WHERE ${stayed}`;
  const parts = touched.flatMap((index) => {
    const { table } = compiled.from[index] as Joined;
    const path = pathTo(compiled, index);
    const chain = (view: View, changed: string) =>
      fromClause(
        {
          from: path.map((i) => ({ ...(compiled.from[i] as Joined), outer: i !== index && (compiled.from[i] as Joined).outer })),
        },
        (joined, i) => (i === 0 ? facts : joined.alias === compiled.from[index]?.alias ? changed : view(joined.table)),
      );
    const row = `SELECT ${duckIdent(fact.alias)}._row AS row FROM`;
    return [
      `${row} ${chain(earlier, `SELECT ${table.shown} FROM ${table.old}`)}`,
      `${row} ${chain(now, `SELECT ${table.shown} FROM ${table.current} WHERE ${FROM} > ${before}`)}`,
    ];
  });
  await duck.run(`CREATE OR REPLACE TEMP TABLE _facts AS ${parts.join(' UNION ')}`);
  const [some] = await duck.rows<{ some: boolean }>('SELECT EXISTS (FROM _facts) AS some');
  return some?.some ?? false;
}

/** Indices of the tables that lead from the fact to one of them, in order. */
function pathTo({ from }: Compiled, index: number): number[] {
  const found = new Set([0, index]);
  const follow = (i: number) => {
    for (const need of from[i]?.needs ?? []) {
      if (found.has(need)) continue;
      found.add(need);
      follow(need);
    }
  };
  follow(index);
  return [...found].toSorted((a, b) => a - b);
}
