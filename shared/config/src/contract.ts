import { canonicalType } from '@tributary/core';
import { z } from 'zod';

/** What the owner of a source promises to everybody who reads it. */
export interface ContractConfig {
  /** Who answers for it: named by every alert. */
  readonly owner: string;
  /** By `schema.table`. */
  readonly tables: Readonly<Record<string, PromisedTable>>;
}

export interface PromisedTable {
  /** Types as `format_type` spells them, by column. */
  readonly columns: Readonly<Record<string, string>>;
  /** Key columns; empty: nothing is promised of the key. */
  readonly key: readonly string[];
}

const type = z.string().transform((text, context) => {
  const canonical = canonicalType(text);
  if (canonical !== null) return canonical;
  context.addIssue({ code: 'custom', message: `expected a type of PostgreSQL, such as bigint or numeric(12,2)` });
  return z.NEVER;
});

const promised = z
  .strictObject({
    key: z.array(z.string().min(1)).default([]),
    columns: z
      .record(z.string().min(1), type)
      .refine((columns) => Object.keys(columns).length > 0, 'expected at least one column with its type'),
  })
  .superRefine(({ key, columns }, context) => {
    const strange = key.find((column) => columns[column] === undefined);
    if (strange !== undefined)
      context.addIssue({ code: 'custom', path: ['key'], message: `column ${strange} is not among "columns"` });
  });

export const contract = z.strictObject({
  owner: z.string().min(1, 'expected who answers for the contract'),
  tables: z.record(z.string().regex(/^[^.*]+\.[^.*]+$/, 'expected schema.table'), promised),
});
