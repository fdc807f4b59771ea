import type { FaultFacts, FaultKind } from '@tributary/core';

/** A line between a question's worker and the process that answers it. */
export type SandboxAsk =
  /** Which tables does it read? */
  | { readonly question: unknown }
  /** They are in this file; `given` is what whoever made it has to say. */
  | { readonly path: string; readonly spillDir: string; readonly ms: number; readonly given: unknown };

export type SandboxTold =
  | { readonly tables: readonly { readonly schema: string; readonly name: string; readonly columns: readonly string[] | null }[] }
  | { readonly columns: readonly { readonly name: string; readonly type: string }[] }
  | { readonly rows: readonly Readonly<Record<string, unknown>>[] }
  | { readonly done: true }
  | { readonly refused: string; readonly kind: FaultKind; readonly facts: FaultFacts };

/** What a query may use, and its process beside what DuckDB counts: a single value can be larger than DuckDB's own limit. */
export const SANDBOX_BYTES = { duck: 256 * 2 ** 20, process: 640 * 2 ** 20, spill: 2 ** 30 } as const;

export const TOO_MUCH_MEMORY = 'the query needs more memory than one may have: read less at once';

export const TOO_LATE = 'the query takes longer than one may: read less at once';

/** Errors of DuckDB whose words are of names alone. */
const OF_NAMES = /^(Binder|Catalog|Parser) Error: /;
/** What else goes wrong with a query, without the value that it went wrong with. */
const OF_VALUES: readonly (readonly [RegExp, (match: RegExpExecArray) => string])[] = [
  [/out of memory|bad.alloc|allocat|max_temp_directory_size|max string size/i, () => TOO_MUCH_MEMORY],
  [/^Interrupt Error/i, () => TOO_LATE],
  [/^Conversion Error.* to (?:type )?'?([A-Z][A-Z0-9_]*)\b/, (match) => `a value cannot be converted to ${match[1]}`],
  [/^Conversion Error/i, () => 'a value cannot be converted to the type that is asked for'],
  [/^Out of Range Error/i, () => 'a number is out of range'],
  [/^(Permission|IO) Error/i, () => 'a query may read captured tables and nothing else'],
  [/^Invalid Input Error/i, () => 'a function was given a value that it does not take'],
];
/** Quoted text of a message, unless it is one word or a signature, as names of things are. */
const QUOTED = /'(?![\w ]{1,64}(\([^']*\))?')[^']*'/g;
const PATH = /(?<![\w<])\/[^\s'",;]*/g;

/** What may be told of an error of DuckDB's: no values, no paths. */
export function toldOf(text: string): string {
  const known = OF_VALUES.find(([pattern]) => pattern.test(text));
  if (known) return known[1](known[0].exec(text) as RegExpExecArray);
  if (!OF_NAMES.test(text)) return 'the query cannot be computed';
  return text.replaceAll(QUOTED, "'…'").replaceAll(PATH, '…').slice(0, 1_000);
}
