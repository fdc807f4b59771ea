import { createHash } from 'node:crypto';
import { admits, type KpiConfig, type KpiReader, type RowFilter } from '@tributary/config';
import { Fault } from '@tributary/core';

/** What one reader sees of a KPI: a condition on its dimensions, whose values are bound, never written into SQL. */
export interface Scope {
  /** SQL over the dimensions; null: every row. @param sqlOf SQL of a dimension */
  readonly condition: ((sqlOf: (dimension: string) => string) => string) | null;
  /** Of `$1`, `$2`, … in the condition: all of them are there, whatever the statement. */
  readonly values: readonly string[];
  /** Names what is seen: readers with the same see the same; null: everything. */
  readonly tag: string | null;
}

export const EVERYTHING: Scope = { condition: null, values: [], tag: null };
/** No row: what measures say of what is not there. */
export const NOTHING: Scope = { condition: () => 'false', values: [], tag: null };

/**
 * What a reader may see. Nothing is open by omission: a question that does not say who asks, and a claim that the reader does not have,
 * are refused.
 * @throws Fault `access_refused`
 */
export function scopeOf({ name: kpi, access }: Pick<KpiConfig, 'name' | 'access'>, reader: KpiReader | undefined): Scope {
  if (!access || reader === 'local') return EVERYTHING;
  const refused = (why: string) => new Fault('access_refused', `Kpi ${kpi}: ${why}`, { kpi });
  if (!reader) throw refused('the question does not say who asks');
  const { rowFilter } = access;
  if (!admits(access, reader)) throw refused(`the token ${reader.name} (${reader.role}) is not among those that may read it`);
  if (!rowFilter) return EVERYTHING;
  const values: string[] = [];
  const bound = (texts: readonly string[]) => texts.map((text) => `$${values.push(text)}`).join(', ');
  const claimed = (claim: string) => {
    const found = Object.hasOwn(reader.claims, claim) ? reader.claims[claim] : undefined;
    if (!found) throw refused(`the token ${reader.name} has no claim "${claim}", which decides the rows that it may see`);
    return found;
  };
  const compile = (filter: RowFilter): ((sqlOf: (dimension: string) => string) => string) => {
    if (filter.kind === 'not') {
      const of = compile(filter.of);
      return (sqlOf) => `(NOT ${of(sqlOf)})`;
    }
    if (filter.kind === 'missing') return (sqlOf) => `(${sqlOf(filter.dimension)} IS NULL)`;
    if (filter.kind === 'among') {
      const list = bound(filter.values.flatMap((one) => ('claim' in one ? claimed(one.claim) : [one.text])));
      return (sqlOf) => `(${sqlOf(filter.dimension)}::VARCHAR IN (${list}))`;
    }
    const parts = filter.of.map(compile);
    return (sqlOf) => `(${parts.map((part) => part(sqlOf)).join(filter.kind === 'all' ? ' AND ' : ' OR ')})`;
  };
  const condition = compile(rowFilter);
  const tag = createHash('sha256')
    .update(JSON.stringify([rowFilter, values]))
    .digest('hex')
    .slice(0, 12);
  return { condition, values, tag };
}
