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
import type { Line } from './line.ts';

/** One case, as checks look at it. */
export interface Context {
  readonly line: Line;
  readonly start: CaseEvent | null;
  readonly done: CaseEvent | null;
  readonly skewUs: number;
  /** Events of a name. */
  readonly of: (name: number) => Line;
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
  readonly run: (context: Context) => Found;
}

interface Names {
  readonly named: (event: EventOf) => number;
  readonly sources: (event: EventOf) => readonly string[];
  readonly process: ProcessConfig;
}

/** That `one` came before `other`, as far as can be known: between two sources times within the skew say nothing. */
function mayPrecede(one: CaseEvent, other: CaseEvent, skewUs: number): boolean {
  return one.shape.source === other.shape.source ? one.tick < other.tick : one.atUs <= other.atUs + skewUs;
}

function precedes(one: CaseEvent, other: CaseEvent, skewUs: number): boolean {
  return one.shape.source === other.shape.source ? one.tick < other.tick : one.atUs + skewUs < other.atUs;
}

const MS = 1_000;
const NOTHING: Found = { violations: [], owed: [] };

/** Something is missing that counts up to `untilUs`: it is so once the sources have passed that, and owed until then. */
function missing(
  { settled }: Context,
  event: CaseEvent,
  { sources, untilUs }: { sources: readonly string[]; untilUs: number },
): Found {
  if (untilUs === Infinity) return { violations: [], owed: [{ sinceUs: event.atUs, dueUs: null, awaits: [] }] };
  return settled(sources, untilUs)
    ? { violations: [{ atUs: untilUs, event }], owed: [] }
    : { violations: [], owed: [{ sinceUs: event.atUs, dueUs: untilUs, awaits: sources }] };
}

/** Something that should have been before an event of another source is not there: it may still be told. */
function unpreceded({ settled, skewUs }: Context, event: CaseEvent, sources: readonly string[]): Found {
  const others = sources.filter((source) => source !== event.shape.source);
  const untilUs = event.atUs + skewUs;
  return others.length === 0 || settled(others, untilUs)
    ? { violations: [{ atUs: event.atUs, event }], owed: [] }
    : { violations: [], owed: [{ sinceUs: event.atUs, dueUs: untilUs, awaits: others }] };
}

function together(found: readonly Found[]): Found {
  const some = found.filter((one) => one !== NOTHING);
  if (some.length < 2) return some[0] ?? NOTHING;
  return { violations: some.flatMap(({ violations }) => violations), owed: some.flatMap(({ owed }) => owed) };
}

export function transitionCheck({ object, transitions, fromUs = -Infinity }: AllowedTransitions): Check {
  const allowed = new Set(transitions.map(([before, after]) => `${before ?? ''}>${after}`));
  const begins = transitions.some(([before]) => before === null);
  const run = ({ line }: Context): Found => {
    const broken = line.events.filter(({ atUs, shape: { object: own, kind, before, after } }) => {
      if (own !== object || after === null || atUs < fromUs) return false;
      if (kind === 'created') return begins && !allowed.has(`>${after}`);
      return kind === 'state' && ![null, after].includes(before) && !allowed.has(`${before}>${after}`);
    });
    return broken.length === 0 ? NOTHING : { violations: broken.map((event) => ({ atUs: event.atUs, event })), owed: [] };
  };
  // What a row was before its change is told with it, whatever is known of the case.
  return { rule: `allowed.${object}`, followed: false, objects: [object], run };
}

export function constraintCheck({ name: rule, constraint }: ProcessRule, { named, sources, process }: Names): Check {
  const objectsOf = (...events: readonly EventOf[]) => events.flatMap(({ object }) => (object === null ? [] : [object]));
  if (constraint.kind === 'condition') {
    const { condition, at } = constraint;
    const awaited = sourcesOfCondition(condition, process, sources);
    const moment = at && named(at);
    const objects = [...objectsIn(condition), ...(at ? objectsOf(at) : [])];
    return { rule, followed: true, objects, run: (context) => held(context, { condition, moment, awaited }) };
  }
  if ('event' in constraint) {
    const own = named(constraint.event);
    const awaited = sources(constraint.event);
    return {
      rule,
      followed: true,
      objects: objectsOf(constraint.event),
      run: (context) => unary(context, constraint, { own, awaited }),
    };
  }
  const [a, b] = constraint.events;
  const pair: Pair = { a: named(a), b: named(b), aSources: sources(a), bSources: sources(b) };
  return { rule, followed: true, objects: objectsOf(a, b), run: (context) => binary(context, constraint, pair) };
}

function unary(
  context: Context,
  constraint: Extract<Constraint, { event: EventOf }>,
  { own, awaited }: { own: number; awaited: readonly string[] },
): Found {
  const { line, start, done, skewUs } = context;
  const there = context.of(own).events;
  const first = line.events[0];
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
      const [a, b] = [context.of(pair.a).events[0], context.of(pair.b).events[0]];
      if (!a || !b) return NOTHING;
      const event = context.line.indexOf(a) > context.line.indexOf(b) ? a : b;
      return { violations: [{ atUs: event.atUs, event }], owed: [] };
    }
    default:
      return unreachable(constraint);
  }
}

/** Up to when a response to an event counts: its time; without one, the end of the case. */
function responseEnds({ done, skewUs }: Context, a: CaseEvent, withinMs: number | null): (source: string) => number {
  if (withinMs === null) return () => (done && a.atUs <= done.atUs ? done.atUs + skewUs : Infinity);
  return (source) => a.atUs + withinMs * MS + (source === a.shape.source ? 0 : skewUs);
}

function response(context: Context, { a: first, b: second, bSources }: Pair, withinMs: number | null): Found {
  const { skewUs } = context;
  const seconds = context.of(second);
  return together(
    context.of(first).events.map((a) => {
      const ends = responseEnds(context, a, withinMs);
      const timely = (b: CaseEvent) => withinMs === null || b.atUs <= ends(b.shape.source);
      const from = Math.min(seconds.after(a.tick), seconds.from(a.atUs - skewUs));
      const to = seconds.to(withinMs === null ? Infinity : a.atUs + withinMs * MS + skewUs);
      if (seconds.some((b) => b !== a && mayPrecede(a, b, skewUs) && timely(b), { from, to })) return NOTHING;
      return missing(context, a, { sources: bSources, untilUs: Math.max(...bSources.map(ends)) });
    }),
  );
}

function precedence(context: Context, { a: first, b: second, aSources }: Pair, withinMs: number | null): Found {
  const { skewUs } = context;
  const firsts = context.of(first);
  return together(
    context.of(second).events.map((b) => {
      const recent = (a: CaseEvent) =>
        withinMs === null || b.atUs - a.atUs <= withinMs * MS + (a.shape.source === b.shape.source ? 0 : skewUs);
      const from = firsts.from(withinMs === null ? -Infinity : b.atUs - withinMs * MS - skewUs);
      const to = Math.max(firsts.before(b.tick), firsts.to(b.atUs + skewUs));
      // The latest of them is the one that is recent.
      const found = firsts.findLast((a) => a !== b && mayPrecede(a, b, skewUs) && recent(a), { from, to });
      return found ? NOTHING : unpreceded(context, b, aSources);
    }),
  );
}

function chainResponse(context: Context, { a: first, b: second, bSources }: Pair, withinMs: number | null): Found {
  const { line, skewUs } = context;
  const seconds = context.of(second);
  const isSecond = new Set(seconds.events);
  return together(
    context.of(first).events.map((a) => {
      const ends = responseEnds(context, a, withinMs);
      const b = seconds.find((one) => one !== a && mayPrecede(a, one, skewUs), {
        from: Math.min(seconds.after(a.tick), seconds.from(a.atUs - skewUs)),
        to: Infinity,
      });
      const between = line.find((x) => x !== a && !isSecond.has(x) && precedes(a, x, skewUs) && (!b || precedes(x, b, skewUs)), {
        from: Math.min(line.after(a.tick), line.from(a.atUs + skewUs)),
        to: b ? Math.max(line.before(b.tick), line.to(b.atUs - skewUs)) : Infinity,
      });
      if (between) return unpreceded(context, between, bSources);
      if (b && (withinMs === null || b.atUs <= ends(b.shape.source))) return NOTHING;
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
  const broken = of(second).events.filter((b) => {
    const stretch =
      withinMs === null
        ? { from: 0, to: firsts.to(b.atUs - afterMs * MS) }
        : { from: firsts.from(b.atUs - withinMs * MS), to: Math.max(firsts.before(b.tick), firsts.to(b.atUs - skewUs)) };
    return firsts.some((a) => {
      if (a === b || !precedes(a, b, skewUs)) return false;
      const [passed, tolerance] = [b.atUs - a.atUs, a.shape.source === b.shape.source ? 0 : skewUs];
      return withinMs === null ? passed > afterMs * MS + (afterMs === 0 ? 0 : tolerance) : passed <= withinMs * MS - tolerance;
    }, stretch);
  });
  return { violations: broken.map((event) => ({ atUs: event.atUs, event })), owed: [] };
}

/** A condition holds at an event when it does at any time that may have been the same. */
function held(
  context: Context,
  { condition, moment, awaited }: { condition: CaseCondition; moment: number | null; awaited: readonly string[] },
): Found {
  const { line, skewUs, done } = context;
  const moments = moment === null ? (done ? [done] : []) : context.of(moment).events;
  if (moments.length === 0) return NOTHING;
  const truth = context.truth(condition);
  return together(
    moments.map((event) => {
      const own = line.indexOf(event);
      // It may have happened before or after whatever another source tells within the skew.
      const concurrent = (i: number) => {
        const other = line.events[i];
        return other && other.shape.source !== event.shape.source && Math.abs(other.atUs - event.atUs) <= skewUs;
      };
      let holds = truth[own] === true;
      const to = line.to(event.atUs + skewUs);
      for (let i = Math.max(0, line.from(event.atUs - skewUs) - 1); i < to && !holds; i++)
        holds = truth[i] === true && ((concurrent(i) || (i < own && concurrent(i + 1))) ?? false);
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
    const first = begin === null ? context.start : context.of(begin).events[0];
    if (!first) return NOTHING;
    const ended = end === null ? context.done : context.of(end).events.find((event) => mayPrecede(first, event, context.skewUs));
    const dueUs = first.atUs + targetMs * MS;
    if (ended && ended.atUs <= dueUs) return NOTHING;
    const found = missing(context, first, { sources: toSources, untilUs: dueUs });
    const warnUs = first.atUs + Math.round(targetMs * MS * (warnAt ?? 1));
    if (warnAt === null || found.violations.length > 0) return found;
    return context.settled(toSources, warnUs)
      ? { violations: [{ atUs: warnUs, event: first, level: 'warning' }], owed: found.owed }
      : { violations: [], owed: [{ sinceUs: first.atUs, dueUs: warnUs, awaits: toSources }] };
  };
  const objects = [from, to].flatMap((event) => (typeof event?.object === 'string' ? [event.object] : []));
  return { rule: 'sla.cycle', followed: true, objects, run };
}

export function stageCheck({ object, state, limitMs }: StageTarget, { objects }: ProcessConfig): Check {
  const sources = objects.filter(({ name }) => name === object).map(({ source }) => source);
  const run = (context: Context): Found => {
    const found: Found[] = [];
    /** By object: the next change to another state. */
    const left = new Map<string, CaseEvent>();
    for (const event of context.line.events.toReversed()) {
      const { kind, after } = event.shape;
      if (event.shape.object !== object) continue;
      if (after === state && kind !== 'found') {
        const next = left.get(event.key);
        const untilUs = event.atUs + limitMs * MS;
        if (!next || next.atUs > untilUs) found.push(missing(context, event, { sources, untilUs }));
      }
      if (kind !== 'milestone' && after !== state) left.set(event.key, event);
    }
    return together(found.toReversed());
  };
  return { rule: `sla.${object}.${state}`, followed: false, objects: [object], run };
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
