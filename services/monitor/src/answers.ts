import { parseDuration, type ProcessConfig } from '@tributary/config';
import { Fault, unreachable } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { processBottlenecks } from './analysis/bottlenecks.ts';
import { caseOrderOf } from './analysis/concurrent.ts';
import { type CasesAsked, processCases } from './analysis/cases.ts';
import { processDrift } from './analysis/drift.ts';
import { processMap } from './analysis/map.ts';
import { processObjectMap } from './analysis/object-map.ts';
import { processSpectrum } from './analysis/spectrum.ts';
import { KeptSteps } from './analysis/kept-steps.ts';
import type { Scope } from './analysis/scope.ts';
import { objectTimeline } from './analysis/timeline.ts';
import { processVariants } from './analysis/variants.ts';
import { judgedCases } from './conformance/cases.ts';
import { Judge } from './conformance/judge.ts';
import { processWip } from './analysis/wip.ts';
import { foundCases } from './watch/finding.ts';
import { findingsOf } from './watch/look.ts';
import { processProblems } from './watch/problems.ts';
import type { Usual } from './watch/usual.ts';
import { exportProcess } from './exchange/export.ts';
import { mapDot } from './pictures/map-dot.ts';
import { mapSvg } from './pictures/map-svg.ts';
import { spectrumSvg, wipSvg } from './pictures/time-svg.ts';

/** What can be asked of a process. Times are ISO 8601, spans such as `12h` or `7d`. */
export interface ProcessQuestion {
  readonly what: 'map' | 'variants' | 'cases' | 'problems' | 'timeline' | 'spectrum' | 'wip' | 'bottlenecks' | 'drift' | 'export';
  readonly from?: string;
  readonly to?: string;
  /** Type of object whose life is the case; default: the root. `map` alone: `*` for all types, side by side. Of `timeline`: of the object. */
  readonly object?: string;
  /** `timeline`: of the object. */
  readonly key?: string;
  /** `map`: leaves out edges of a smaller share of all steps. */
  readonly minShare?: number;
  /** `variants`, `cases`, `timeline`, `spectrum`: at most so many; `problems`: cases that are named of each. */
  readonly limit?: number;
  /** `export`: `ocel2-json`, `xes` or `csv`; `map`: `json` (default), `svg` or `dot`; `spectrum`, `wip`: `json` or `svg`. */
  readonly format?: string;
  /** `cases`: open, done, met or violated; stuck, missing or silent: with what is not usual in them. */
  readonly state?: string;
  /** `cases`: of which this rule is violated. */
  readonly rule?: string;
  /** `cases`: this one alone, with its verdicts. */
  readonly case?: string;
  /** `cases`: only those that ended, or that go on. */
  readonly ended?: boolean;
  readonly sort?: CasesAsked['sort'];
  /** `spectrum`: two activities that follow each other, as `a>b`. */
  readonly segment?: string;
  /** `wip`: stretches of time. */
  readonly buckets?: number;
  /** `drift`: the newest span (default 7d), compared with one before it (28d). */
  readonly window?: string;
  readonly against?: string;
  /** `drift`: how probable a false alarm may be. */
  readonly alpha?: number;
}

/** Whose question it is. */
export interface Answering {
  /** On the same connection; without them they are made for this question alone. */
  readonly steps?: KeptSteps;
  /** Of the process, as pictures tell it. */
  readonly name: string;
  /** Type of the root object. */
  readonly root: string;
  /** Of a declared process, which is judged; `nowUs` by the clock, `usual`: what its watch has seen. */
  readonly declared?: { readonly process: ProcessConfig; readonly nowUs: number; readonly usual: Usual | null };
}

/** For the type of object, of a map: all of them. */
const EVERY_TYPE = '*';
/** States of cases that are learned, so that they need no rules. */
const UNUSUAL = ['stuck', 'missing', 'silent'] as const;
const LIMIT_DEFAULT = 100;
const LIMIT_MAX = 100_000;
/** Of lists that go in one part of an answer. */
const PART_MAX = 2_000;
const NAMED_DEFAULT = 20;
const BUCKETS_DEFAULT = 120;
const BUCKETS_MAX = 500;

/**
 * Answers one question about one process, in parts: lists in one `{variants}`, `{cases}` or `{activities}`, a picture in one `{text}`, `export` in
 * pieces `{text}`, everything else in one.
 * @throws Fault `config_invalid` for a question that is none, `not_found` for a type or an object that is not there
 */
export async function* answerProcess(duck: Duck, question: ProcessQuestion, answering: Answering): AsyncGenerator<unknown> {
  const { name, root, declared } = answering;
  const { steps = new KeptSteps(duck, declared ? caseOrderOf(declared.process) : null) } = answering;
  const scope = await scopeOf(duck, question, root);
  const { what, minShare = 0 } = question;
  const picture = pictures(question);
  if (what === 'map' && question.object === EVERY_TYPE)
    yield picture(await processObjectMap(steps, scope, { root, minShare }), {});
  else if (what === 'map')
    yield picture(await processMap(steps, scope, minShare), {
      svg: (map) => mapSvg(name, map),
      dot: (map) => mapDot(name, map),
    });
  else if (what === 'variants') yield { variants: await processVariants(steps, scope, limitOf(question)) };
  else if (what === 'cases') yield { cases: await casesOf(steps, question, { scope, answering }) };
  else if (what === 'problems') yield await problemsOf(duck, question, answering);
  else if (what === 'timeline')
    yield await objectTimeline(duck, { ...objectOf(question), root, limit: limitOf(question, PART_MAX) });
  else if (what === 'spectrum')
    yield picture(await processSpectrum(steps, scope, await segmentOf(duck, question)), { svg: (one) => spectrumSvg(name, one) });
  else if (what === 'wip')
    yield picture(
      await processWip(
        steps,
        scope,
        whole(question.buckets ?? BUCKETS_DEFAULT, { what: 'the number of buckets', max: BUCKETS_MAX }),
      ),
      { svg: (one) => wipSvg(name, one) },
    );
  else if (what === 'bottlenecks') yield { activities: await processBottlenecks(steps, scope) };
  else if (what === 'drift') yield await processDrift(steps, scope, driftOf(question));
  else if (what === 'export') for await (const text of exportProcess(duck, question.format ?? '', root)) yield { text };
  else unreachable(what);
}

/** Answers as they are, or as text in the format that is asked for. */
function pictures({ what, format = 'json' }: ProcessQuestion) {
  return <Answer extends object>(
    answer: Answer,
    formats: Readonly<Record<string, (answer: Answer) => string>>,
  ): Answer | { text: string } => {
    if (format === 'json') return answer;
    const draw = Object.hasOwn(formats, format) ? formats[format] : undefined;
    if (draw) return { text: draw(answer) };
    throw new Fault(
      'config_invalid',
      `"${what}" has no format "${format.slice(0, 32)}". Formats: ${['json', ...Object.keys(formats)].join(', ')}`,
    );
  };
}

/** Is it answered from steps, and not from what is stored alone? */
export function ofSteps(question: ProcessQuestion, answering: Answering): boolean {
  const { what } = question;
  if (what === 'cases') return !withVerdicts(question, answering);
  return what !== 'problems' && what !== 'timeline' && what !== 'export';
}

function withVerdicts(question: ProcessQuestion, { declared, root }: Pick<Answering, 'declared' | 'root'>): boolean {
  const { asked, parts, plain } = kindsOfCases(question, root);
  return declared !== undefined && (asked || (!parts && !plain && Judge.judges(declared.process)));
}

/** What of cases is asked for: states and rules, other lives than the root's or a period, or how they go on. */
function kindsOfCases({ state, rule, case: key, from, to, object, ended, sort }: ProcessQuestion, root: string) {
  return {
    asked: state !== undefined || rule !== undefined || key !== undefined,
    parts: from !== undefined || to !== undefined || (object !== undefined && object !== root),
    plain: ended !== undefined || sort !== undefined,
  };
}

/** Cases of a process that has rules are told with their verdicts, unless other lives than those of the root are asked for, or a period. */
function casesOf(
  steps: KeptSteps,
  question: ProcessQuestion,
  { scope, answering: { declared, root } }: { scope: Scope; answering: Answering },
): Promise<object[]> {
  const { state, rule, case: key, ended, sort } = question;
  const { duck } = steps;
  if (sort !== undefined && !['newest', 'longest', 'waiting'].includes(sort))
    throw new Fault('config_invalid', 'cases are sorted by newest, longest or waiting');
  const limit = limitOf(question);
  const unusual = UNUSUAL.find((kind) => kind === state);
  const { asked, parts, plain } = kindsOfCases(question, root);
  if (asked && !declared) throw new Fault('config_invalid', 'an imported log has no rules: its cases have no states');
  if (asked && parts) throw new Fault('config_invalid', 'ask for states and rules of all cases: without from, to and object');
  if (asked && plain) throw new Fault('config_invalid', 'ask either for state and rule, or for ended and sort');
  if (declared && unusual)
    return findingsOf(duck, declared.process, { kinds: [unusual], nowUs: declared.nowUs }).then((found) =>
      foundCases(duck, found, { rule, case: key, limit }),
    );
  if (!declared || !withVerdicts(question, { declared, root }))
    return processCases(steps, scope, {
      limit,
      ...(ended === undefined ? {} : { ended }),
      ...(sort === undefined ? {} : { sort }),
    });
  const options = {
    limit,
    nowUs: declared.nowUs,
    ...(state === undefined ? {} : { state }),
    ...(rule === undefined ? {} : { rule }),
    ...(key === undefined ? {} : { case: key }),
  };
  return judgedCases(duck, declared.process, options);
}

function problemsOf(duck: Duck, question: ProcessQuestion, { declared }: Answering): ReturnType<typeof processProblems> {
  if (!declared) throw new Fault('config_invalid', 'an imported log has no rules: nothing is known to be wrong with it');
  const { from, to, object } = question;
  if (from !== undefined || to !== undefined || object !== undefined)
    throw new Fault('config_invalid', 'problems are of all cases, as they are now: ask without from, to and object');
  return processProblems(duck, declared.process, {
    limit: limitOf({ limit: question.limit ?? NAMED_DEFAULT }, PART_MAX),
    nowUs: declared.nowUs,
    usual: declared.usual,
  });
}

function objectOf({ object, key }: ProcessQuestion): { object: string; key: string } {
  if (object === undefined || key === undefined)
    throw new Fault('config_invalid', 'a timeline is of an object: say its type and its key');
  return { object, key };
}

/** Names may hold a ">" themselves: what counts is where both sides are activities. */
async function segmentOf(
  duck: Duck,
  { segment = '', limit }: ProcessQuestion,
): Promise<{ from: string; to: string; limit: number }> {
  const activities = new Set(
    (await duck.rows<{ activity: string }>('SELECT DISTINCT activity FROM event')).map((row) => row.activity),
  );
  for (let cut = segment.indexOf('>'); cut !== -1; cut = segment.indexOf('>', cut + 1)) {
    const [from, to] = [segment.slice(0, cut).trim(), segment.slice(cut + 1).trim()];
    if (activities.has(from) && activities.has(to)) return { from, to, limit: limitOf({ limit: limit ?? 1_000 }, PART_MAX) };
  }
  const known = [...activities].toSorted().slice(0, 40).join(', ');
  throw new Fault('config_invalid', `a segment is two activities with ">" between them. Activities: ${known}`);
}

function driftOf({ window = '7d', against = '28d', alpha = 0.001 }: ProcessQuestion) {
  if (!(alpha > 0 && alpha < 1)) throw new Fault('config_invalid', 'alpha is a number between 0 and 1');
  return { windowMs: spanOf(window), againstMs: spanOf(against), alpha };
}

function spanOf(written: string): number {
  const ms = parseDuration(written);
  if (ms === null || ms <= 0) throw new Fault('config_invalid', `"${written.slice(0, 32)}" is no span: write 12h or 7d`);
  return ms;
}

async function scopeOf(duck: Duck, { what, from, to, object: asked }: ProcessQuestion, root: string): Promise<Scope> {
  const object = what === 'map' && asked === EVERY_TYPE ? undefined : asked;
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

function limitOf({ limit }: { readonly limit?: number | undefined }, max = LIMIT_MAX): number {
  return limit === undefined ? LIMIT_DEFAULT : whole(limit, { what: 'a limit', max });
}

function whole(n: number, { what, max }: { readonly what: string; readonly max: number }): number {
  if (Number.isInteger(n) && n > 0 && n <= max) return n;
  throw new Fault('config_invalid', `${what} is a whole number from 1 to ${max}`);
}
