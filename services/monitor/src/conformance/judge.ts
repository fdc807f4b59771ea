import { type CaseCondition, type EventOf, type ProcessConfig, sourcesOfProcess } from '@tributary/config';
import type { EventKind } from '../state.ts';
import { Replay } from './replay.ts';
import {
  type Check,
  type Context,
  constraintCheck,
  cycleCheck,
  sourcesOfCondition,
  stageCheck,
  transitionCheck,
} from './checks.ts';

/** An event of a case; times and ticks in µs. */
export interface CaseEvent {
  readonly atUs: number;
  readonly tick: number;
  readonly source: string;
  readonly lsn: string;
  readonly ordinal: number;
  readonly activity: string;
  readonly object: string;
  readonly key: string;
  readonly kind: EventKind;
  readonly before: string | null;
  readonly after: string | null;
}

/** An object of a case as it is now. */
export interface CaseObject {
  readonly object: string;
  readonly key: string;
  readonly state: string | null;
  /** It was seen to come to be; otherwise what happened before is not known. */
  readonly born: boolean;
  readonly alive: boolean;
}

export interface CaseHistory {
  readonly case: string;
  /** In the order of the case: (tick, source). */
  readonly events: readonly CaseEvent[];
  readonly objects: readonly CaseObject[];
}

/** What can never be made good. */
export interface Violation {
  readonly rule: string;
  /** `warning`: it is not broken yet, but soon will be. */
  readonly level: 'violation' | 'warning';
  /** When it was broken: an event, or a deadline that passed. */
  readonly atUs: number;
  /** What broke it, or of which something is missing. */
  readonly event: CaseEvent;
}

/** What is still owed: violated, as long as nothing more happens. */
export interface Owed {
  readonly rule: string;
  readonly sinceUs: number;
  /** It is decided when the watermarks of all awaited sources have passed this; null = only by events. */
  readonly dueUs: number | null;
}

export interface Judgement {
  readonly case: string;
  /** Null: its start was not seen, so only state changes are judged. */
  readonly startedUs: number | null;
  readonly doneUs: number | null;
  readonly lastUs: number;
  readonly events: number;
  readonly activity: string;
  readonly violations: readonly Violation[];
  readonly owed: readonly Owed[];
}

/** Longer cases are not judged: every event of a case costs a look at all of them. */
export const EVENTS_MAX = 2_000;

/**
 * Judges one case by the rules of its process: a pure function of its events, its objects and the watermarks, so that judging the cases
 * that changed is the same as judging all (C1).
 *
 * - C2 Nothing is missed before its time: that an event did not happen is said only when the watermark of every source that could still
 *   deliver it has passed the time up to which it counts.
 * - C3 Events of two sources within the skew are in whatever order suits the rule.
 * - C4 Of a type of which the case has an object that was met in the middle of its life no rule is judged: what was before is not known.
 */
export class Judge {
  readonly #process: ProcessConfig;
  readonly #checks: readonly Check[];
  /** Which events of {@link #named} an event is, by what it is. */
  readonly #kinds = new Map<string, readonly number[]>();
  readonly #named: EventOf[] = [];
  readonly #start: number;

  constructor(process: ProcessConfig) {
    this.#process = process;
    const { start, done, allowed, rules, cycle, stages } = process.conformance;
    const named = (event: EventOf) => this.#name(event);
    const sources = (event: EventOf) => sourcesOfEvent(process, event);
    const toDone = done === null ? sourcesOfProcess(process) : sourcesOfCondition(done, process, sources);
    this.#start = named(start);
    this.#checks = [
      ...allowed.map((one) => transitionCheck(one)),
      ...rules.map((rule) => constraintCheck(rule, { named, sources, process })),
      ...(cycle ? [cycleCheck(cycle, { named, toSources: cycle.to ? sources(cycle.to) : toDone })] : []),
      ...stages.map((stage) => stageCheck(stage, process)),
    ];
    for (const condition of conditionsOf(process)) for (const event of eventsIn(condition)) named(event);
  }

  /** Is there anything to be judged? */
  static judges({ conformance: { done, allowed, rules, cycle, stages } }: ProcessConfig): boolean {
    return done !== null || allowed.length + rules.length + stages.length > 0 || cycle !== null;
  }

  /** Sources that a rule may wait for, by rule. */
  get awaited(): ReadonlyMap<string, readonly string[]> {
    return new Map(this.#checks.map(({ rule, awaited }) => [rule, awaited]));
  }

  /** @param marks watermarks by source, µs since 1970; a source that is missing was not read yet */
  judge(history: CaseHistory, marks: ReadonlyMap<string, number>): Judgement {
    const { events } = history;
    const last = events.at(-1);
    const start = events.find((event) => this.#is(event).includes(this.#start));
    const done = start ? this.#doneAt(history, start) : null;
    const judgement = {
      case: history.case,
      startedUs: start?.atUs ?? null,
      doneUs: done?.atUs ?? null,
      lastUs: last?.atUs ?? 0,
      events: events.length,
      activity: last?.activity ?? '',
    };
    if (events.length > EVENTS_MAX) return { ...judgement, violations: [], owed: [] };
    const violations: Violation[] = [];
    const owed: Owed[] = [];
    const hidden = new Set(history.objects.filter(({ born }) => !born).map(({ object }) => object));
    const context = this.#context(history, { start, done, marks });
    for (const check of this.#checks) {
      if (check.followed && (!start || check.objects.some((object) => hidden.has(object)))) continue;
      const found = check.run(context);
      violations.push(...found.violations.map((one) => ({ rule: check.rule, level: 'violation' as const, ...one })));
      const first = found.owed.toSorted((a, b) => (a.dueUs ?? Infinity) - (b.dueUs ?? Infinity))[0];
      if (first) owed.push({ rule: check.rule, ...first });
    }
    return { ...judgement, violations, owed };
  }

  #context(
    history: CaseHistory,
    { start, done, marks }: { start: CaseEvent | undefined; done: CaseEvent | null; marks: ReadonlyMap<string, number> },
  ): Context {
    const { events } = history;
    const byName: CaseEvent[][] = this.#named.map(() => []);
    for (const event of events) for (const name of this.#is(event)) byName[name]?.push(event);
    return {
      events,
      start: start ?? null,
      done,
      skewUs: this.#process.conformance.skewMs * 1_000,
      of: (name) => byName[name] ?? [],
      settled: (sources, untilUs) => sources.every((source) => (marks.get(source) ?? 0) > untilUs),
      truth: (condition) => this.#truth(history, condition),
    };
  }

  /** The event with which it is done. Half a transaction is no state of a case. */
  #doneAt(history: CaseHistory, start: CaseEvent): CaseEvent | null {
    const { done } = this.#process.conformance;
    if (done === null) return null;
    const { events } = history;
    const truth = this.#truth(history, done);
    const from = events.indexOf(start);
    const whole = new Map(events.map(({ source, lsn }, i) => [`${source} ${lsn}`, i]));
    const at = events.findIndex((event, i) => i >= from && truth[i] === true && whole.get(`${event.source} ${event.lsn}`) === i);
    return events[at] ?? null;
  }

  /** Did the condition hold after each event? */
  #truth(history: CaseHistory, condition: CaseCondition): boolean[] {
    const replay = new Replay(history.objects, history.events);
    const happened = (event: EventOf) => replay.happened.has(this.#name(event));
    return history.events.map((event) => {
      replay.follow(event, this.#is(event));
      return replay.holds(condition, happened);
    });
  }

  #name(event: EventOf): number {
    const known = this.#named.findIndex(({ object, what }) => object === event.object && what === event.what);
    return known >= 0 ? known : this.#named.push(event) - 1;
  }

  #is(event: CaseEvent): readonly number[] {
    const { object, kind, activity, after } = event;
    const what = `${kind}\0${object}\0${activity}\0${after ?? '\0'}`;
    let names = this.#kinds.get(what);
    if (!names) {
      names = this.#named.flatMap((named, i) => (isEvent(event, named) ? [i] : []));
      if (this.#kinds.size >= KINDS_MAX) this.#kinds.clear();
      this.#kinds.set(what, names);
    }
    return names;
  }
}

/** A state column may turn out to hold anything. */
const KINDS_MAX = 10_000;

function isEvent({ object, kind, activity, after }: CaseEvent, named: EventOf): boolean {
  if (named.object === null) return activity === named.what;
  if (named.object !== object) return false;
  if (activity === `${object} ${named.what}`) return true;
  if (named.what === 'created') return kind === 'created';
  if (named.what === 'deleted') return kind === 'deleted';
  return after === named.what && kind !== 'milestone';
}

/** Of a name that transactions give: the source of the event that gets it. */
function sourcesOfEvent({ objects, activities }: ProcessConfig, { object, what }: EventOf): string[] {
  const types = object === null ? activities.filter(({ name }) => name === what).map(({ when }) => when.object) : [object];
  return [...new Set(objects.filter(({ name }) => types.includes(name)).map(({ source }) => source))];
}

function conditionsOf({ conformance: { done, rules } }: ProcessConfig): CaseCondition[] {
  const own = rules.flatMap(({ constraint }) => (constraint.kind === 'condition' ? [constraint.condition] : []));
  return done === null ? own : [done, ...own];
}

function eventsIn(condition: CaseCondition): EventOf[] {
  switch (condition.kind) {
    case 'and':
    case 'or':
      return condition.of.flatMap(eventsIn);
    case 'not':
      return eventsIn(condition.of);
    case 'event':
      return [condition.event];
    default:
      return [];
  }
}
