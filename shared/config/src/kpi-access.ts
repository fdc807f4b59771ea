import { z } from 'zod';
import type { Role } from './config.ts';
import { parseRowFilter, type RowFilter, RowFilterError } from './row-filter.ts';

/** Who may read a KPI, and which of its rows. */
export interface KpiAccess {
  /** Names of tokens, and roles: whoever has that role or one above it. Null: every token. */
  readonly read: readonly string[] | null;
  readonly rowFilter: RowFilter | null;
}

/** Who asks: the command line on this cluster's own bus, or a token of the console. */
export type KpiReader =
  | 'local'
  | {
      readonly name: string;
      readonly role: Role;
      /** Values of a claim, as text. */
      readonly claims: Readonly<Record<string, readonly string[]>>;
    };

export const access = z
  .strictObject({
    read: z.array(z.string().min(1)).min(1, 'expected names of tokens or roles; nobody could read it').optional(),
    row_filter: z.string().trim().min(1, 'expected a condition such as country IN (:claims.countries)').max(2_000).optional(),
  })
  .refine(({ read, row_filter }) => read !== undefined || row_filter !== undefined, 'expected read, row_filter, or both');

export function accessOf({ read, row_filter }: z.output<typeof access>, dimensions: readonly string[]): KpiAccess {
  return { read: read ?? null, rowFilter: row_filter === undefined ? null : parseRowFilter(row_filter, dimensions) };
}

/** @param dimensions null: a KPI of one SELECT, which has none */
export function checkAccess(
  { row_filter }: z.output<typeof access>,
  dimensions: readonly string[] | null,
  complain: (message: string, ...path: string[]) => void,
): void {
  if (row_filter === undefined) return;
  if (dimensions === null) return complain('names dimensions, which a Kpi of one SELECT does not have', 'access', 'row_filter');
  try {
    parseRowFilter(row_filter, dimensions);
  } catch (error) {
    if (!(error instanceof RowFilterError)) throw error;
    complain(error.message, 'access', 'row_filter');
  }
}
