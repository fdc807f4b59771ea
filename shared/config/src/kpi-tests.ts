import { z } from 'zod';
import type { Grain } from './kpi-names.ts';

/** What a definition is to say of changes that were written down. */
export interface KpiTest {
  /** Lines as `tributary tail --types` prints them; a path beside the file of the definition. */
  readonly fixture: string;
  /** µs since 1970: changes committed later do not count, and time stands there; null: behind the last change. */
  readonly at: number | null;
  readonly grain: Grain | null;
  /** Rows there are, and no others: `bucket`, dimensions and measures that count. */
  readonly expect: readonly Readonly<Record<string, string | number | boolean | null>>[];
}

const instant = z
  .string()
  .refine((text) => Number.isFinite(Date.parse(text)), 'expected a time such as 2026-11-01T00:00:00Z')
  .transform((text) => Date.parse(text) * 1_000);

export const kpiTest = z.strictObject({
  fixture: z.string().min(1),
  at: instant.optional(),
  grain: z.string().optional(),
  expect: z.array(z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]))),
});

/** @param names columns of an answer, and grains; null: a KPI of one SELECT, whose columns nobody knows yet */
export function checkTests(
  tests: readonly z.output<typeof kpiTest>[],
  names: { readonly columns: readonly string[]; readonly grains: readonly string[] } | null,
  complain: (message: string, ...path: string[]) => void,
): void {
  tests.forEach(({ grain, expect }, t) => {
    if (grain !== undefined && !names?.grains.includes(grain))
      complain(`${grain} is not among time.grains`, 'tests', String(t), 'grain');
    expect.forEach((row, r) => {
      for (const column of names ? Object.keys(row) : []) {
        if (names?.columns.includes(column)) continue;
        const known = names?.columns.join(', ') ?? '';
        complain(
          `there is no measure or dimension ${column}. There are: ${known}`,
          'tests',
          String(t),
          'expect',
          String(r),
          column,
        );
      }
    });
  });
}

export function testOf({ fixture, at, grain, expect }: z.output<typeof kpiTest>): KpiTest {
  return { fixture, at: at ?? null, grain: (grain as Grain | undefined) ?? null, expect };
}
