import type {
  AllowedTransitions,
  CaseCondition,
  Constraint,
  CycleTarget,
  EventOf,
  ProcessConfig,
  ProcessRule,
  StageTarget,
} from '@tributary/config';
import { unreachable } from '@tributary/core';
import type { CaseEvent, Owed, Violation } from './judge.ts';

/** One case, as checks look at it. */
export interface Context {
  readonly events: readonly CaseEvent[];
  readonly start: CaseEvent | null;
  readonly done: CaseEvent | null;
  readonly skewUs: number;
  /** Events of a name, in order. */
  readonly of: (name: number) => readonly CaseEvent[];
  /** Nothing of these sources can come any more that was committed up to then. */
  readonly settled: (sources: readonly string[], untilUs: number) => boolean;
  readonly truth: (condition: CaseCondition) => readonly boolean[];
}

interface Found {
  readonly violations: readonly (Pick<Violation, 'atUs' | 'event'> & Partial<Pick<Violation, 'level'>>)[];
  readonly owed: readonly Omit<Owed, 'rule'>[];
}

/** One rule, compiled. */
export interface Check {
  readonly rule: string;
  /** Only of cases whose start was seen, and of types all of whose objects were seen to come to be. */
  readonly followed: boolean;
  readonly objects: readonly string[];
  /** Sources that it may wait for. */
  readonly awaited: readonly string[];
  readonly run: (context: Context) => Found;
}

interface Names {
  readonly named: (event: EventOf) => number;
  readonly sources: (event: EventOf) => readonly string[];
  readonly process: ProcessConfig;
}

/** That `one` came before `other`, as far as can be known: between two sources times within the skew say nothing. */
function mayPrecede(one: CaseEvent, other: CaseEvent, skewUs: number): boolean {
  return one.source === other.source ? one.tick < other.tick : one.atUs <= other.atUs + skewUs;
}

function precedes(one: CaseEvent, other: CaseEvent, skewUs: number): boolean {
  return one.source === other.source ? one.tick < other.tick : one.atUs + skewUs < other.atUs;
}

const MS = 1_000;
const NOTHING: Found = { violations: [], owed: [] };

/** Something is missing that counts up to `untilUs`: it is so once the sources have passed that, and owed until then. */
function missing(
  { settled }: Context,
  event: CaseEvent,
  { sources, untilUs }: { sources: readonly string[]; untilUs: number },
): Found {
  if (untilUs === Infinity) return { violations: [], owed: [{ sinceUs: event.atUs, dueUs: null }] };
  return settled(sources, untilUs)
    ? { violations: [{ atUs: untilUs, event }], owed: [] }
    : { violations: [], owed: [{ sinceUs: event.atUs, dueUs: untilUs }] };
}

/** Something that should have been before an event of another source is not there: it may still be told. */
function unpreceded({ settled, skewUs }: Context, event: CaseEvent, sources: readonly string[]): Found {
  const others = sources.filter((source) => source !== event.source);
  const untilUs = event.atUs + skewUs;
  return others.length === 0 || settled(others, untilUs)
    ? { violations: [{ atUs: event.atUs, event }], owed: [] }
    : { violations: [], owed: [{ sinceUs: event.atUs, dueUs: untilUs }] };
}

function together(found: readonly Found[]): Found {
  return { violations: found.flatMap(({ violations }) => violations), owed: found.flatMap(({ owed }) => owed) };
}

export function transitionCheck({ object, transitions, fromUs = -Infinity }: AllowedTransitions): Check {
  const allowed = new Set(transitions.map(([before, after]) => `${before ?? ''}>${after}`));
  const begins = transitions.some(([before]) => before === null);
  const run = ({ events }: Context): Found => {
    const broken = events.filter((event) => {
      if (event.object !== object || event.after === null || event.atUs < fromUs) return false;
      if (event.kind === 'created') return begins && !allowed.has(`>${event.after}`);
      return (
        event.kind === 'state' && ![null, event.after].includes(event.before) && !allowed.has(`${event.before}>${event.after}`)
      );
    });
    return { violations: broken.map((event) => ({ atUs: event.atUs, event })), owed: [] };
  };
  // What a row was before its change is told with it, whatever is known of the case.
  return { rule: `allowed.${object}`, followed: false, objects: [object], awaited: [], run };
}

export function constraintCheck({ name: rule, constraint }: ProcessRule, { named, sources, process }: Names): Check {
  const objectsOf = (...events: readonly EventOf[]) => events.flatMap(({ object }) => (object === null ? [] : [object]));
  if (constraint.kind === 'condition') {
    const { condition, at } = constraint;
    const awaited = sourcesOfCondition(condition, process, sources);
    const moment = at && named(at);
    const objects = [...objectsIn(condition), ...(at ? objectsOf(at) : [])];
    return { rule, followed: true, objects, awaited, run: (context) => held(context, { condition, moment, awaited }) };
  }
  if ('event' in constraint) {
    const own = named(constraint.event);
    const awaited = sources(constraint.event);
    return {
      rule,
      followed: true,
      objects: objectsOf(constraint.event),
      awaited,
      run: (context) => unary(context, constraint, { own, awaited }),
    };
  }
  const [a, b] = constraint.events;
  const pair: Pair = { a: named(a), b: named(b), aSources: sources(a), bSources: sources(b) };
  const awaited = [...new Set([...pair.aSources, ...pair.bSources])];
  return { rule, followed: true, objects: objectsOf(a, b), awaited, run: (context) => binary(context, constraint, pair) };
}

function unary(
  context: Context,
  constraint: Extract<Constraint, { event: EventOf }>,
  { own, awaited }: { own: number; awaited: readonly string[] },
): Found {
  const { events, start, done, skewUs } = context;
  const there = context.of(own);
  const first = events[0];
  if (!start || !first) return NOTHING;
  switch (constraint.kind) {
    case 'absence':
      return { violations: there.map((event) => ({ atUs: event.atUs, event })), owed: [] };
    case 'init':
      return there.some((event) => event === first || mayPrecede(event, first, skewUs))
        ? NOTHING
        : unpreceded(context, first, awaited);
    case 'existence': {
      const ends = done ? done.atUs + skewUs : Infinity;
      const untilUs = constraint.withinMs === null ? ends : start.atUs + constraint.withinMs * MS;
      return there.some(({ atUs }) => atUs <= untilUs) ? NOTHING : missing(context, start, { sources: awaited, untilUs });
    }
    default:
      return unreachable(constraint);
  }
}

interface Pair {
  readonly a: number;
  readonly b: number;
  readonly aSources: readonly string[];
  readonly bSources: readonly string[];
}

function binary(context: Context, constraint: Extract<Constraint, { events: unknown }>, pair: Pair): Found {
  switch (constraint.kind) {
    case 'response':
      return response(context, pair, constraint.withinMs);
    case 'precedence':
      return precedence(context, pair, constraint.withinMs);
    case 'succession':
      return together([response(context, pair, constraint.withinMs), precedence(context, pair, constraint.withinMs)]);
    case 'chain_response':
      return chainResponse(context, pair, constraint.withinMs);
    case 'not_response':
      return notResponse(context, pair, constraint);
    case 'not_coexistence': {
      const [a, b] = [context.of(pair.a)[0], context.of(pair.b)[0]];
      if (!a || !b) return NOTHING;
      const event = context.events.indexOf(a) > context.events.indexOf(b) ? a : b;
      return { violations: [{ atUs: event.atUs, event }], owed: [] };
    }
    default:
      return unreachable(constraint);
  }
}

/** Up to when a response to an event counts: its time; without one, the end of the case. */
function responseEnds({ done, skewUs }: Context, a: CaseEvent, withinMs: number | null): (source: string) => number {
  if (withinMs === null) return () => (done && a.atUs <= done.atUs ? done.atUs + skewUs : Infinity);
  return (source) => a.atUs + withinMs * MS + (source === a.source ? 0 : skewUs);
}

function response(context: Context, { a: first, b: second, bSources }: Pair, withinMs: number | null): Found {
  const seconds = context.of(second);
  return together(
    context.of(first).map((a) => {
      const ends = responseEnds(context, a, withinMs);
      const timely = (b: CaseEvent) => withinMs === null || b.atUs <= ends(b.source);
      if (seconds.some((b) => b !== a && mayPrecede(a, b, context.skewUs) && timely(b))) return NOTHING;
      return missing(context, a, { sources: bSources, untilUs: Math.max(...bSources.map(ends)) });
    }),
  );
}

function precedence(context: Context, { a: first, b: second, aSources }: Pair, withinMs: number | null): Found {
  const { skewUs } = context;
  const firsts = context.of(first);
  return together(
    context.of(second).map((b) => {
      const recent = (a: CaseEvent) =>
        withinMs === null || b.atUs - a.atUs <= withinMs * MS + (a.source === b.source ? 0 : skewUs);
      return firsts.some((a) => a !== b && mayPrecede(a, b, skewUs) && recent(a)) ? NOTHING : unpreceded(context, b, aSources);
    }),
  );
}

function chainResponse(context: Context, { a: first, b: second, bSources }: Pair, withinMs: number | null): Found {
  const { events, skewUs } = context;
  const seconds = context.of(second);
  return together(
    context.of(first).map((a) => {
      const ends = responseEnds(context, a, withinMs);
      const b = seconds.find((one) => one !== a && mayPrecede(a, one, skewUs));
      const between = events.find(
        (x) => x !== a && !seconds.includes(x) && precedes(a, x, skewUs) && (!b || precedes(x, b, skewUs)),
      );
      if (between) return unpreceded(context, between, bSources);
      if (b && (withinMs === null || b.atUs <= ends(b.source))) return NOTHING;
      return missing(context, a, { sources: bSources, untilUs: Math.max(...bSources.map(ends)) });
    }),
  );
}

function notResponse(
  { of, skewUs }: Context,
  { a: first, b: second }: Pair,
  { afterMs, withinMs }: { readonly afterMs: number; readonly withinMs: number | null },
): Found {
  const firsts = of(first);
  const broken = of(second).filter((b) =>
    firsts.some((a) => {
      if (a === b || !precedes(a, b, skewUs)) return false;
      const [passed, tolerance] = [b.atUs - a.atUs, a.source === b.source ? 0 : skewUs];
      return withinMs === null ? passed > afterMs * MS + (afterMs === 0 ? 0 : tolerance) : passed <= withinMs * MS - tolerance;
    }),
  );
  return { violations: broken.map((event) => ({ atUs: event.atUs, event })), owed: [] };
}

/** A condition holds at an event when it does at any time that may have been the same. */
function held(
  context: Context,
  { condition, moment, awaited }: { condition: CaseCondition; moment: number | null; awaited: readonly string[] },
): Found {
  const { events, skewUs, done } = context;
  const moments = moment === null ? (done ? [done] : []) : context.of(moment);
  if (moments.length === 0) return NOTHING;
  const truth = context.truth(condition);
  return together(
    moments.map((event) => {
      const own = events.indexOf(event);
      // It may have happened before or after whatever another source tells within the skew.
      const concurrent = events.map((other) => other.source !== event.source && Math.abs(other.atUs - event.atUs) <= skewUs);
      const holds = truth.some(
        (one, i) => one && (i === own || concurrent[i] === true || (i < own && concurrent[i + 1] === true)),
      );
      return holds ? NOTHING : unpreceded(context, event, awaited);
    }),
  );
}

export function cycleCheck(
  { from, to, targetMs, warnAt }: CycleTarget,
  { named, toSources }: { named: (event: EventOf) => number; toSources: readonly string[] },
): Check {
  const [begin, end] = [from && named(from), to && named(to)];
  const run = (context: Context): Found => {
    const first = begin === null ? context.start : context.of(begin)[0];
    if (!first) return NOTHING;
    const ended = end === null ? context.done : context.of(end).find((event) => mayPrecede(first, event, context.skewUs));
    const dueUs = first.atUs + targetMs * MS;
    if (ended && ended.atUs <= dueUs) return NOTHING;
    const found = missing(context, first, { sources: toSources, untilUs: dueUs });
    const warnUs = first.atUs + Math.round(targetMs * MS * (warnAt ?? 1));
    if (warnAt === null || found.violations.length > 0) return found;
    return context.settled(toSources, warnUs)
      ? { violations: [{ atUs: warnUs, event: first, level: 'warning' }], owed: found.owed }
      : { violations: [], owed: [{ sinceUs: first.atUs, dueUs: warnUs }] };
  };
  const objects = [from, to].flatMap((event) => (typeof event?.object === 'string' ? [event.object] : []));
  return { rule: 'sla.cycle', followed: true, objects, awaited: toSources, run };
}

export function stageCheck({ object, state, limitMs }: StageTarget, { objects }: ProcessConfig): Check {
  const sources = objects.filter(({ name }) => name === object).map(({ source }) => source);
  const run = (context: Context): Found => {
    const own = context.events.filter((event) => event.object === object);
    return together(
      own.map((event, i) => {
        if (event.after !== state || event.kind === 'found') return NOTHING;
        const left = own
          .slice(i + 1)
          .find(({ key, after, kind }) => key === event.key && kind !== 'milestone' && after !== state);
        const untilUs = event.atUs + limitMs * MS;
        return left && left.atUs <= untilUs ? NOTHING : missing(context, event, { sources, untilUs });
      }),
    );
  };
  return { rule: `sla.${object}.${state}`, followed: false, objects: [object], awaited: sources, run };
}

function objectsIn(condition: CaseCondition): string[] {
  switch (condition.kind) {
    case 'and':
    case 'or':
      return condition.of.flatMap(objectsIn);
    case 'not':
      return objectsIn(condition.of);
    case 'event':
      return condition.event.object === null ? [] : [condition.event.object];
    default:
      return [condition.objects.object];
  }
}

/** Sources that can make it hold. */
export function sourcesOfCondition(
  condition: CaseCondition,
  { objects }: ProcessConfig,
  sources: (event: EventOf) => readonly string[],
): string[] {
  const of = (one: CaseCondition): readonly string[] => {
    switch (one.kind) {
      case 'and':
      case 'or':
        return one.of.flatMap(of);
      case 'not':
        return of(one.of);
      case 'event':
        return sources(one.event);
      default:
        return objects.filter(({ name }) => name === one.objects.object).map(({ source }) => source);
    }
  };
  return [...new Set(of(condition))];
}
