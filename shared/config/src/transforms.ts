import { z } from 'zod';

/** How a value is hidden. `key`: of a keyed hash. */
export type Mask = { readonly mask: 'hash'; readonly key?: string } | { readonly mask: 'last4' | 'redact' | 'null' };

/** Where in a JSON document a value is, and as what type it comes out. */
export interface JsonPath {
  readonly path: string;
  readonly type: string;
}

/** Columns taken from the row of another table. */
export interface Lookup {
  /** `SOURCE.SCHEMA.TABLE`. */
  readonly table: string;
  /** Its key columns, each with the expression that must be equal to it. */
  readonly on: Readonly<Record<string, string>>;
  /** New columns, by the column whose value they get. */
  readonly set: Readonly<Record<string, string>>;
}

/** One thing that happens to every row; expressions are SQL. */
export type TransformStep =
  | { readonly kind: 'filter'; readonly condition: string }
  | { readonly kind: 'set'; readonly columns: Readonly<Record<string, string>>; readonly when: string | null }
  | { readonly kind: 'rename'; readonly columns: Readonly<Record<string, string>> }
  | { readonly kind: 'drop'; readonly columns: readonly string[] }
  | { readonly kind: 'cast'; readonly columns: Readonly<Record<string, string>> }
  | { readonly kind: 'mask'; readonly columns: Readonly<Record<string, Mask>> }
  | { readonly kind: 'flatten'; readonly columns: Readonly<Record<string, Readonly<Record<string, JsonPath>>>> }
  | { readonly kind: 'lookup'; readonly lookup: Lookup }
  /** `module`: its path, as written; `code`: of it and all it imports, one ES module. */
  | { readonly kind: 'module'; readonly module: string; readonly code: string }
  | { readonly kind: 'route'; readonly tables: Readonly<Record<string, string>> }
  | { readonly kind: 'split'; readonly tables: Readonly<Record<string, readonly string[]>> };

export interface TransformConfig {
  /** Also of the changelog it writes. */
  readonly name: string;
  /** Patterns of `SOURCE.SCHEMA.TABLE`. */
  readonly from: readonly string[];
  /** `schema.table` of the rows; absent: each table keeps its name. */
  readonly to?: string;
  readonly steps: readonly TransformStep[];
  /** Key columns of the result; absent: those of the input. */
  readonly key?: readonly string[];
  /** Per step, where it is written: `file:line:column`. */
  readonly places: readonly string[];
}

const column = z.string().min(1);
const expression = z
  .union([z.string().min(1), z.number(), z.boolean()], { error: 'expected an SQL expression' })
  .transform(String);
const expressions = z.record(column, expression);
const table = z.string().regex(/^[^.*]+\.[^.*]+$/, 'expected schema.table');

const mask = z.union(
  [
    z.enum(['hash', 'last4', 'redact', 'null']),
    z.strictObject({ mask: z.literal('hash'), key: z.string().min(1).optional() }),
    z.strictObject({ mask: z.enum(['last4', 'redact', 'null']) }),
  ],
  { error: 'expected hash, last4, redact or null, or { mask: hash, key: … }' },
);

const jsonPath = z.union([
  z.string().min(1),
  z.strictObject({ path: z.string().min(1), type: z.string().min(1).default('text') }),
]);

const lookup = z.strictObject({
  table: z.string().regex(/^[a-z0-9_]+\.[^.*]+\.[^.*]+$/, 'expected SOURCE.SCHEMA.TABLE'),
  on: expressions,
  set: z.record(column, column),
});

const VERBS = ['filter', 'set', 'rename', 'drop', 'cast', 'mask', 'flatten', 'lookup', 'module', 'route', 'split'] as const;

const step = z
  .strictObject({
    filter: expression,
    set: expressions,
    when: expression,
    rename: z.record(column, column),
    drop: z.array(column).min(1),
    cast: z.record(column, z.string().min(1)),
    mask: z.record(column, mask),
    flatten: z.record(column, z.record(column, jsonPath)),
    lookup,
    module: z.string().regex(/\.[cm]?[jt]s$/, 'expected a path that ends in .js, .mjs, .cjs, .ts, .mts or .cts'),
    route: z.record(table, expression),
    split: z.record(table, z.array(column).min(1)),
  })
  .partial()
  .superRefine((value, context) => {
    const verbs = VERBS.filter((verb) => value[verb] !== undefined);
    if (verbs.length !== 1) context.addIssue({ code: 'custom', message: `expected one of ${VERBS.join(', ')} in a step` });
    if (value.when !== undefined && value.set === undefined)
      context.addIssue({ code: 'custom', message: '"when" belongs to "set"' });
  });

type StepDocument = z.output<typeof step>;

/** Keys of a Transform document beside kind and name. */
export const transformKeys = {
  from: z
    .array(z.string().regex(/^[a-z0-9_*]+(\.[^.]+){1,2}$/, 'expected SOURCE.* or SOURCE.SCHEMA.TABLE'))
    .min(1, 'expected at least one table'),
  to: table.optional(),
  steps: z.array(step).default([]),
  key: z.array(column).min(1).optional(),
};

/** Rows end in `route` or `split`: nothing can come after. */
export function checkTransform(
  value: { steps: readonly StepDocument[]; to?: string | undefined },
  context: z.RefinementCtx,
): void {
  value.steps.forEach((one, i) => {
    if (!one.route && !one.split) return;
    const path = ['steps', i];
    if (i < value.steps.length - 1)
      context.addIssue({ code: 'custom', path, message: '"route" and "split" must be the last step' });
    if (value.to !== undefined)
      context.addIssue({ code: 'custom', path, message: '"route" and "split" name the tables: leave out "to"' });
  });
}

/** @param codeOf the code of a module, by its path as written */
export function stepOf(one: StepDocument, codeOf: (module: string) => string): TransformStep {
  if (one.filter !== undefined) return { kind: 'filter', condition: one.filter };
  if (one.set) return { kind: 'set', columns: one.set, when: one.when ?? null };
  if (one.rename) return { kind: 'rename', columns: one.rename };
  if (one.drop) return { kind: 'drop', columns: one.drop };
  if (one.cast) return { kind: 'cast', columns: one.cast };
  if (one.mask) return { kind: 'mask', columns: mapValues(one.mask, maskOf) };
  if (one.flatten) return { kind: 'flatten', columns: mapValues(one.flatten, (paths) => mapValues(paths, jsonPathOf)) };
  if (one.lookup) return { kind: 'lookup', lookup: one.lookup };
  if (one.module !== undefined) return { kind: 'module', module: one.module, code: codeOf(one.module) };
  if (one.route) return { kind: 'route', tables: one.route };
  return { kind: 'split', tables: one.split ?? {} };
}

function maskOf(given: z.output<typeof mask>): Mask {
  if (typeof given === 'string') return { mask: given };
  if (given.mask !== 'hash') return { mask: given.mask };
  return given.key === undefined ? { mask: 'hash' } : { mask: 'hash', key: given.key };
}

function jsonPathOf(given: z.output<typeof jsonPath>): JsonPath {
  return typeof given === 'string' ? { path: given, type: 'text' } : given;
}

function mapValues<From, To>(record: Readonly<Record<string, From>>, to: (value: From) => To): Record<string, To> {
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [key, to(value)]));
}
