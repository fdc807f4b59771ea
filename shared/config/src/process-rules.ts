import { z } from 'zod';
import {
  type CaseCondition,
  CaseConditionError,
  type CaseNames,
  eventOf,
  type EventOf,
  parseCaseCondition,
} from './case-condition.ts';
import { duration, optionalDuration } from './units.ts';

/** How far clocks may differ where the document does not say: no false alarm for that. */
const SKEW_MS = 250;

/** What a process should look like. */
export interface ConformanceConfig {
  /** A case is followed from the first of these on. */
  readonly start: EventOf;
  /** A case is done when this holds for the first time; null = never. */
  readonly done: CaseCondition | null;
  /** Commits of two databases closer than this are concurrent: no rule is broken by their order. */
  readonly skewMs: number;
  /** And maps and variants tell them in one fixed order. 0 = by their times, as the document says nothing of skew. */
  readonly concurrentMs: number;
  readonly allowed: readonly AllowedTransitions[];
  /** Of types that `allowed` does not name: what was usual until then is allowed afterwards. */
  readonly learned: LearnedTransitions | null;
  readonly rules: readonly ProcessRule[];
  readonly cycle: CycleTarget | null;
  readonly stages: readonly StageTarget[];
}

/** State changes that objects of one type may make; [null, state]: it may come to be in it. */
export interface AllowedTransitions {
  readonly object: string;
  readonly transitions: readonly (readonly [string | null, string])[];
  /** Changes before then are not judged, µs since 1970. Absent: all are. */
  readonly fromUs?: number;
}

export interface LearnedTransitions {
  /** Milliseconds since 1970. */
  readonly untilMs: number;
  /** Of the changes that leave the same state; what is rarer is not usual. */
  readonly minShare: number;
}

export type Severity = 'info' | 'warning' | 'critical';

/** A constraint with the name it has in DECLARE, over the events of a case. */
export interface ProcessRule {
  readonly name: string;
  readonly severity: Severity;
  readonly constraint: Constraint;
}

export type Constraint =
  | { readonly kind: 'existence'; readonly event: EventOf; readonly withinMs: number | null }
  | { readonly kind: 'absence' | 'init'; readonly event: EventOf }
  | {
      readonly kind: 'response' | 'precedence' | 'succession' | 'chain_response';
      readonly events: readonly [EventOf, EventOf];
      readonly withinMs: number | null;
    }
  /** The second not later than `afterMs` after the first; where `withinMs` is given, not earlier than that. */
  | {
      readonly kind: 'not_response';
      readonly events: readonly [EventOf, EventOf];
      readonly afterMs: number;
      readonly withinMs: number | null;
    }
  | { readonly kind: 'not_coexistence'; readonly events: readonly [EventOf, EventOf] }
  /** Must hold when the event happens; null: when the case is done. */
  | { readonly kind: 'condition'; readonly condition: CaseCondition; readonly at: EventOf | null };

/** Null: the start of the case, and that it is done. */
export interface CycleTarget {
  readonly from: EventOf | null;
  readonly to: EventOf | null;
  readonly targetMs: number;
  /** Of the target: a case is warned of then. */
  readonly warnAt: number | null;
}

/** An object may be in this state for so long. */
export interface StageTarget {
  readonly object: string;
  readonly state: string;
  readonly limitMs: number;
}

const UNARY = ['existence', 'absence', 'init'] as const;
const TIMED = ['existence', 'response', 'precedence', 'succession', 'chain_response', 'not_response'] as const;
const BINARY = ['response', 'precedence', 'succession', 'chain_response', 'not_response', 'not_coexistence'] as const;
const CONSTRAINTS = [...UNARY, ...BINARY, 'condition'] as const;

const text = z.string().min(1, 'expected OBJECT.EVENT, such as order.paid, or the name of an activity');
const pair = z.tuple([text, text], { error: 'expected two events: [order.paid, parcel.shipped]' });

const rule = z.strictObject({
  name: z.string().regex(/^[a-z][a-z0-9_]{0,59}$/, 'expected lower-case letters, digits and _ (at most 60, a letter first)'),
  severity: z.enum(['info', 'warning', 'critical'], 'expected info, warning or critical').default('warning'),
  existence: text.optional(),
  absence: text.optional(),
  init: text.optional(),
  response: pair.optional(),
  precedence: pair.optional(),
  succession: pair.optional(),
  chain_response: pair.optional(),
  not_response: pair.optional(),
  not_coexistence: pair.optional(),
  condition: z.string().min(1).optional(),
  at: text.optional(),
  within: optionalDuration(),
  after: optionalDuration(),
});

type RuleDocument = z.output<typeof rule>;

const TRANSITIONS =
  'expected transitions, such as "new>paid|cancelled; paid>shipped", or under "learned" { until: DATE, min_share: 0.002 }';
const written = z.string().min(1, TRANSITIONS);
const learned = z.strictObject({
  until: z
    .string()
    .refine((text) => !Number.isNaN(Date.parse(text)), 'expected a date, such as 2026-01-31 or 2026-01-31T12:00:00Z')
    .transform((text) => Date.parse(text)),
  min_share: z.number().min(0).lt(1).default(0.002),
});

/** Keys of a Process document that say what it should look like. */
export const conformanceKeys = {
  start: text.optional(),
  done: z.string().min(1).optional(),
  skew: optionalDuration(),
  allowed: z.record(z.string(), z.union([written, learned], { error: TRANSITIONS })).default({}),
  rules: z.array(rule).max(100).default([]),
  sla: z
    .strictObject({
      cycle: z
        .strictObject({
          from: text.default('start'),
          to: text.default('done'),
          target: duration('').refine((ms) => ms > 0, 'expected a duration above 0'),
          warn_at: z.number().gt(0).lt(1).optional(),
        })
        .optional(),
      stage: z.record(z.string(), duration('')).default({}),
    })
    .default({ stage: {} }),
};

interface ConformanceDocument {
  readonly start?: string | undefined;
  readonly done?: string | undefined;
  readonly skew?: number | undefined;
  readonly allowed: Readonly<Record<string, string | z.output<typeof learned>>>;
  readonly rules: readonly RuleDocument[];
  readonly sla: {
    readonly cycle?: { from: string; to: string; target: number; warn_at?: number | undefined } | undefined;
    readonly stage: Readonly<Record<string, number>>;
  };
}

type Complain = (message: string, ...path: (string | number)[]) => void;

/**
 * What a document says that a process should look like; complains of what cannot be meant.
 * @param activities names that transactions give to events
 */
export function conformanceOf(
  { start, done, skew, allowed, rules, sla }: ConformanceDocument,
  { names, activities }: { names: CaseNames; activities: readonly string[] },
  complain: Complain,
): ConformanceConfig {
  const event = (written: string, ...path: (string | number)[]): EventOf => {
    const found = eventOf(written, names);
    if (found.object === null && !activities.includes(written))
      complain(`there is no event ${written}: write OBJECT.EVENT, such as ${names.root}.created, or a name of "events"`, ...path);
    return found;
  };
  const condition = (written: string, ...path: (string | number)[]): CaseCondition => {
    try {
      return parseCaseCondition(written, names);
    } catch (error) {
      if (!(error instanceof CaseConditionError)) throw error;
      complain(error.message, ...path);
      return { kind: 'and', of: [] };
    }
  };
  const seen = new Set<string>();
  const { cycle } = sla;
  if (cycle?.to === 'done' && done === undefined)
    complain('say when a case is done ("done"), or name an event ("to")', 'sla', 'cycle');
  return {
    start: start === undefined ? { object: names.root, what: 'created' } : event(start, 'start'),
    done: done === undefined ? null : condition(done, 'done'),
    skewMs: skew ?? SKEW_MS,
    concurrentMs: skew ?? 0,
    allowed: Object.entries(allowed).flatMap(([object, given]) => {
      const complains: Complain = (message) => complain(message, 'allowed', object);
      if (typeof given !== 'string') {
        if (object !== 'learned') complains(TRANSITIONS);
        return [];
      }
      if (typeof names.states[object] !== 'string') complains(`there is no object ${object} with a state`);
      return [{ object, transitions: transitionsOf(given, complains) }];
    }),
    learned: learnedOf(allowed),
    rules: rules.map((one, i) => {
      if (seen.has(one.name)) complain(`there are two rules ${one.name}`, 'rules', i, 'name');
      seen.add(one.name);
      return { name: one.name, severity: one.severity, constraint: constraintOf(one, i, { event, condition, complain, done }) };
    }),
    cycle: cycle
      ? {
          from: cycle.from === 'start' ? null : event(cycle.from, 'sla', 'cycle', 'from'),
          to: cycle.to === 'done' ? null : event(cycle.to, 'sla', 'cycle', 'to'),
          targetMs: cycle.target,
          warnAt: cycle.warn_at ?? null,
        }
      : null,
    stages: Object.entries(sla.stage).map(([stage, limitMs]) => {
      const { object, what } = event(stage, 'sla', 'stage', stage);
      if (object === null || typeof names.states[object] !== 'string')
        complain(`${stage} is no state of an object`, 'sla', 'stage', stage);
      return { object: object ?? '', state: what, limitMs };
    }),
  };
}

function learnedOf({ learned: given }: ConformanceDocument['allowed']): LearnedTransitions | null {
  return typeof given === 'object' ? { untilMs: given.until, minShare: given.min_share } : null;
}

/** `new>paid|cancelled; paid>shipped`; `>new`: objects may come to be as that. */
function transitionsOf(written: string, complain: Complain): [string | null, string][] {
  return written
    .split(';')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .flatMap((part): [string | null, string][] => {
      const [before, after, more] = part.split('>').map((side) => side.trim());
      const to = after?.split('|').map((state) => state.trim()) ?? [];
      if (before === undefined || to.length === 0 || to.includes('') || more !== undefined) {
        complain(`"${part}" is no transition: write BEFORE>AFTER|AFTER, such as new>paid|cancelled`);
        return [];
      }
      return before.split('|').flatMap((from) => to.map((state): [string | null, string] => [from.trim() || null, state]));
    });
}

interface Reading {
  readonly event: (written: string, ...path: (string | number)[]) => EventOf;
  readonly condition: (written: string, ...path: (string | number)[]) => CaseCondition;
  readonly complain: Complain;
  readonly done: string | undefined;
}

function constraintOf(one: RuleDocument, i: number, { event, condition, complain, done }: Reading): Constraint {
  const given = CONSTRAINTS.filter((kind) => one[kind] !== undefined);
  const kind = given[0];
  const none: Constraint = { kind: 'absence', event: { object: null, what: '' } };
  if (given.length !== 1 || kind === undefined) {
    complain(`a rule has exactly one of ${CONSTRAINTS.join(', ')}`, 'rules', i);
    return none;
  }
  const { within, after, at } = one;
  if (within !== undefined && !TIMED.some((timed) => timed === kind))
    complain(`"${kind}" takes no "within"`, 'rules', i, 'within');
  if (after !== undefined && kind !== 'not_response') complain(`"${kind}" takes no "after"`, 'rules', i, 'after');
  if (at !== undefined && kind !== 'condition') complain(`"${kind}" takes no "at"`, 'rules', i, 'at');
  const withinMs = within ?? null;
  if (kind === 'condition') {
    if (at === undefined && done === undefined)
      complain('say when it must hold: "at" an event, or when the case is "done"', 'rules', i);
    const holds = condition(one.condition ?? '', 'rules', i, 'condition');
    return { kind, condition: holds, at: at === undefined ? null : event(at, 'rules', i, 'at') };
  }
  if (kind === 'existence' || kind === 'absence' || kind === 'init') {
    const own = event(one[kind] ?? '', 'rules', i, kind);
    return kind === 'existence' ? { kind, event: own, withinMs } : { kind, event: own };
  }
  const [first = '', second = ''] = one[kind] ?? [];
  const events = [event(first, 'rules', i, kind), event(second, 'rules', i, kind)] as const;
  if (kind === 'not_response') {
    if (after !== undefined && within !== undefined) complain('"after" and "within" exclude each other', 'rules', i);
    return { kind, events, withinMs, afterMs: after ?? 0 };
  }
  return kind === 'not_coexistence' ? { kind, events } : { kind, events, withinMs };
}
