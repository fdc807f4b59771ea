import type { FindingKind, ProcessConfig, Severity } from '@tributary/config';
import { isoMicros } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { Judge } from '../conformance/judge.ts';
import { type Finding, type FindingEvent, SEVERITIES } from './finding.ts';
import { findingsOf, LEARNED_KINDS } from './look.ts';
import type { Usual } from './usual.ts';
import { ruleWords } from './words.ts';

/** A rule that is broken, or something that is not as usual, and by which cases. */
export interface Problem {
  readonly kind: FindingKind;
  readonly rule: string;
  readonly severity: Severity;
  /** What went wrong, for people who do not know the definition; of a rule that all keep, what is always so. */
  readonly words: string;
  /** Other signs of the same: what else is late in these cases. */
  readonly also: readonly { readonly rule: string; readonly words: string; readonly cases: number }[];
  /** How many; 0: a rule that all keep. */
  readonly cases: number;
  /** ISO 8601: when the first of them became one. */
  readonly since: string | null;
  /** The newest of them. */
  readonly newest: readonly ProblemCase[];
}

interface ProblemCase {
  /** Null: it is about the process as a whole. */
  readonly case: string | null;
  readonly at: string;
  readonly reason: string;
  readonly event: FindingEvent | null;
}

/** Two lists of late cases of which so much of the shorter one is in the other are about the same. */
const SAME_SHARE = 0.8;

export interface ProblemsAsked {
  /** Cases that are named of each. */
  readonly limit: number;
  /** By the clock. */
  readonly nowUs: number;
  /** What the watch has found lately; null: nobody watches. */
  readonly usual: Usual | null;
}

/**
 * Everything that is wrong with a process at this moment, the worst first, and the rules that all cases keep. What a lagging source could still
 * deny is left out (`cases?state=` tells of it). What is learned from all events is as the watch saw it last, where one watches: that is what
 * alerts tell, too, and looking costs as much as a map.
 */
export async function processProblems(
  duck: Duck,
  process: ProcessConfig,
  { limit, nowUs, usual }: ProblemsAsked,
): Promise<{
  readonly problems: Problem[];
  /** ISO 8601: when it was looked for what is learned (stuck, missing, silent, drift), by the clock. */
  readonly learnedAt: string;
}> {
  const seen = usual?.lately() ?? null;
  const kinds = LEARNED_KINDS.filter((kind) => !seen?.kinds.includes(kind));
  const { findings } = await findingsOf(duck, process, { kinds: ['rule', 'sla', ...kinds], nowUs });
  return {
    problems: problemsOf(process, [...findings, ...(seen?.findings ?? [])], limit),
    learnedAt: isoMicros(seen ? seen.nowUs : nowUs),
  };
}

export function problemsOf(process: ProcessConfig, findings: readonly Finding[], limit: number): Problem[] {
  const found = new Map<string, Finding[]>(new Judge(process).rules.map((rule) => [rule, []]));
  for (const one of findings) {
    const own = found.get(one.rule);
    if (own) own.push(one);
    else found.set(one.rule, [one]);
  }
  return joined(process, [...found].map(gathered))
    .map((one): Problem => {
      const { rule, newest, also } = one;
      const named = [...newest.values()].toSorted((a, b) => b.atUs - a.atUs);
      return {
        kind: one.kind,
        rule,
        severity: named[0]?.severity ?? process.conformance.rules.find(({ name }) => name === rule)?.severity ?? 'warning',
        words: ruleWords(process, rule, newest.size === 0 ? 'kept' : 'broken'),
        also: also.map((other) => ({ rule: other.rule, words: ruleWords(process, other.rule), cases: other.newest.size })),
        cases: newest.size,
        since: Number.isFinite(one.sinceUs) ? isoMicros(one.sinceUs) : null,
        newest: named
          .slice(0, limit)
          .map(({ case: key, atUs, reason, event }) => ({ case: key, at: isoMicros(atUs), reason, event })),
      };
    })
    .toSorted((a, b) => rank(b) - rank(a) || b.cases - a.cases || (a.rule < b.rule ? -1 : 1));
}

interface Gathered {
  readonly rule: string;
  readonly kind: FindingKind;
  /** Of each case the newest. */
  readonly newest: Map<string | null, Finding>;
  readonly also: Gathered[];
  sinceUs: number;
}

function gathered([rule, findings]: readonly [string, readonly Finding[]]): Gathered {
  const newest = new Map<string | null, Finding>();
  for (const one of findings) if (one.atUs >= (newest.get(one.case)?.atUs ?? -Infinity)) newest.set(one.case, one);
  const sinceUs = findings.reduce((least, { atUs }) => Math.min(least, atUs), Infinity);
  return { rule, kind: findings[0]?.kind ?? (rule.startsWith('sla.') ? 'sla' : 'rule'), newest, also: [], sinceUs };
}

/** An order that is stuck has a parcel that is stuck, and lacks its next event: that is one problem, called after the root where it shows there. */
function joined({ root }: ProcessConfig, all: readonly Gathered[]): Gathered[] {
  const order = ({ kind, rule, newest }: Gathered) =>
    (rule.startsWith(`stuck.${root}.`) ? 0 : kind === 'stuck' ? 1 : 2) - newest.size / (newest.size + 1);
  const late = all.filter(({ kind }) => kind === 'stuck' || kind === 'missing').toSorted((a, b) => order(a) - order(b));
  const kept: Gathered[] = [];
  for (const one of late) {
    const same = kept.find(({ newest }) => {
      const [few, many] = newest.size < one.newest.size ? [newest, one.newest] : [one.newest, newest];
      return [...few.keys()].filter((key) => many.has(key)).length >= SAME_SHARE * few.size;
    });
    if (!same) kept.push(one);
    else {
      same.also.push(one);
      same.sinceUs = Math.min(same.sinceUs, one.sinceUs);
      for (const [key, finding] of one.newest) if (!same.newest.has(key)) same.newest.set(key, finding);
    }
  }
  return [...all.filter((one) => !late.includes(one)), ...kept];
}

/** What is kept comes last, whatever it would weigh. */
function rank({ cases, severity }: Problem): number {
  return cases === 0 ? -1 : SEVERITIES.indexOf(severity);
}
