import { Fault, unreachable } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { processCases } from './analysis/cases.ts';
import { processMap } from './analysis/map.ts';
import type { Scope } from './analysis/steps.ts';
import { processVariants } from './analysis/variants.ts';
import { exportProcess } from './exchange/export.ts';

/** What can be asked of a process. Times are ISO 8601. */
export interface ProcessQuestion {
  readonly what: 'map' | 'variants' | 'cases' | 'export';
  readonly from?: string;
  readonly to?: string;
  /** Type of object whose life is the case; default: the root. */
  readonly object?: string;
  /** `map`: leaves out edges of a smaller share of all steps. */
  readonly minShare?: number;
  /** `variants`, `cases`: at most so many. */
  readonly limit?: number;
  readonly format?: string;
}

const LIMIT_DEFAULT = 100;
const LIMIT_MAX = 100_000;

/**
 * Answers one question about one process, in parts: `map` in one, lists in one `{variants}` or `{cases}`, `export` in pieces `{text}`.
 * @param root type of the root object
 * @throws Fault `config_invalid` for a question that is none, `not_found` for a type that is not there
 */
export async function* answerProcess(duck: Duck, question: ProcessQuestion, root: string): AsyncGenerator<unknown> {
  const scope = await scopeOf(duck, question, root);
  const limit = limitOf(question.limit);
  const { what } = question;
  if (what === 'map') yield await processMap(duck, scope, question.minShare ?? 0);
  else if (what === 'variants') yield { variants: await processVariants(duck, scope, limit) };
  else if (what === 'cases') yield { cases: await processCases(duck, scope, limit) };
  else if (what === 'export') for await (const text of exportProcess(duck, question.format ?? '', root)) yield { text };
  else unreachable(what);
}

async function scopeOf(duck: Duck, { from, to, object }: ProcessQuestion, root: string): Promise<Scope> {
  if (object !== undefined && object !== root) {
    const types = await duck.rows<{ object: string }>('SELECT object FROM event UNION SELECT object FROM relation ORDER BY 1');
    if (!types.some((one) => one.object === object)) {
      const known = types.map((one) => one.object).join(', ');
      throw new Fault('not_found', `there is no type of object ${object}. Types: ${known}`);
    }
  }
  return {
    ...(from === undefined ? {} : { fromUs: microseconds(from) }),
    ...(to === undefined ? {} : { toUs: microseconds(to) }),
    ...(object === undefined || object === root ? {} : { object }),
  };
}

function microseconds(text: string): number {
  const ms = Date.parse(text);
  if (Number.isNaN(ms)) throw new Fault('config_invalid', `"${text}" is no time: write 2026-01-31 or 2026-01-31T12:00:00Z`);
  return ms * 1_000;
}

function limitOf(limit: number | undefined): number {
  if (limit === undefined) return LIMIT_DEFAULT;
  if (Number.isInteger(limit) && limit > 0 && limit <= LIMIT_MAX) return limit;
  throw new Fault('config_invalid', `a limit is a whole number from 1 to ${LIMIT_MAX}`);
}
