import type { ProcessConfig } from '@tributary/config';
import { Fault, unreachable } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { processCases } from './analysis/cases.ts';
import { processMap } from './analysis/map.ts';
import type { Scope } from './analysis/steps.ts';
import { processVariants } from './analysis/variants.ts';
import { judgedCases } from './conformance/cases.ts';
import { Judge } from './conformance/judge.ts';
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
  /** `cases`: open, done, met or violated. */
  readonly state?: string;
  /** `cases`: of which this rule is violated. */
  readonly rule?: string;
}

/** Whose question it is. */
export interface Answering {
  /** Type of the root object. */
  readonly root: string;
  /** Of a declared process, which is judged; `nowUs` by the clock. */
  readonly declared?: { readonly process: ProcessConfig; readonly nowUs: number };
}

const LIMIT_DEFAULT = 100;
const LIMIT_MAX = 100_000;

/**
 * Answers one question about one process, in parts: `map` in one, lists in one `{variants}` or `{cases}`, `export` in pieces `{text}`.
 * @throws Fault `config_invalid` for a question that is none, `not_found` for a type that is not there
 */
export async function* answerProcess(duck: Duck, question: ProcessQuestion, answering: Answering): AsyncGenerator<unknown> {
  const { root } = answering;
  const scope = await scopeOf(duck, question, root);
  const limit = limitOf(question.limit);
  const { what } = question;
  if (what === 'map') yield await processMap(duck, scope, question.minShare ?? 0);
  else if (what === 'variants') yield { variants: await processVariants(duck, scope, limit) };
  else if (what === 'cases') yield { cases: await casesOf(duck, question, { scope, limit, answering }) };
  else if (what === 'export') for await (const text of exportProcess(duck, question.format ?? '', root)) yield { text };
  else unreachable(what);
}

/** Cases of a process that has rules are told with their verdicts, unless other lives than those of the root are asked for, or a period. */
function casesOf(
  duck: Duck,
  { state, rule, from, to, object }: ProcessQuestion,
  { scope, limit, answering: { declared, root } }: { scope: Scope; limit: number; answering: Answering },
): Promise<object[]> {
  const asked = state !== undefined || rule !== undefined;
  const parts = from !== undefined || to !== undefined || (object !== undefined && object !== root);
  if (asked && !declared) throw new Fault('config_invalid', 'an imported log has no rules: its cases have no states');
  if (asked && parts) throw new Fault('config_invalid', 'ask for states and rules of all cases: without from, to and object');
  if (!declared || parts || !(asked || Judge.judges(declared.process))) return processCases(duck, scope, limit);
  const options = {
    limit,
    nowUs: declared.nowUs,
    ...(state === undefined ? {} : { state }),
    ...(rule === undefined ? {} : { rule }),
  };
  return judgedCases(duck, declared.process, options);
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
