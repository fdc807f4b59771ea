import { type CaseCondition, type EventOf, type ProcessConfig, sourcesOfProcess } from '@tributary/config';
import {
  type Check,
  type Context,
  constraintCheck,
  cycleCheck,
  sourcesOfCondition,
  stageCheck,
  transitionCheck,
} from './checks.ts';
import { Line } from './line.ts';
import { Replay } from './replay.ts';
import type { EventShape } from './shapes.ts';

/** An event of a case; times and ticks in µs. */
export interface CaseEvent {
  readonly atUs: number;
  readonly tick: number;
  /** A number where that is exact. */
  readonly lsn: number | bigint;
  readonly ordinal: number;
  readonly key: string;
  readonly shape: EventShape;
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
  /** It is decided when the watermarks of all sources of `awaits` have passed this; null = only by events. */
  readonly dueUs: number | null;
  readonly awaits: readonly string[];
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

/**
 * Judges one case by the rules of its process: a pure function of its events, its objects and the watermarks, so that judging the cases
 * that changed is the same as judging all (C1).
 *
 * A case of n events costs about n log n: rules look at the stretch of its events that can matter (`Line`).
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
  readonly #kinds = new Map<EventShape, readonly number[]>();
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

  get rules(): readonly string[] {
    return this.#checks.map(({ rule }) => rule);
  }

  /** @param marks watermarks by source, µs since 1970; a source that is missing was not read yet */
  judge(history: CaseHistory, marks: ReadonlyMap<string, number>): Judgement {
    const { events } = history;
    const names = events.map((event) => this.#is(event.shape));
    const told: Told = { case: history.case, events, objects: history.objects, names };
    const last = events.at(-1);
    const from = told.names.findIndex((names) => names.includes(this.#start));
    const start = events[from] ?? null;
    const done = start && this.#doneAt(told, from);
    const violations: Violation[] = [];
    const owed: Owed[] = [];
    const hidden = new Set(history.objects.filter(({ born }) => !born).map(({ object }) => object));
    const context = this.#context(told, { start, done, marks });
    for (const check of this.#checks) {
      if (check.followed && (!start || check.objects.some((object) => hidden.has(object)))) continue;
      const found = check.run(context);
      for (const one of found.violations) violations.push({ rule: check.rule, level: 'violation', ...one });
      for (const { sinceUs, dueUs, awaits } of earliest(found.owed)) {
        owed.push({ rule: check.rule, sinceUs, dueUs, awaits });
      }
    }
    return {
      case: history.case,
      startedUs: start?.atUs ?? null,
      doneUs: done?.atUs ?? null,
      lastUs: last?.atUs ?? 0,
      events: events.length,
      activity: last?.shape.activity ?? '',
      violations,
      owed,
    };
  }

  #context(
    told: Told,
    { start, done, marks }: { start: CaseEvent | null; done: CaseEvent | null; marks: ReadonlyMap<string, number> },
  ): Context {
    const { events } = told;
    const byName: CaseEvent[][] = [];
    events.forEach((event, i) => {
      for (const name of told.names[i] ?? []) (byName[name] ??= []).push(event);
    });
    const lines: Line[] = [];
    return {
      line: new Line(events),
      start,
      done,
      skewUs: this.#process.conformance.skewMs * 1_000,
      of: (name) => (lines[name] ??= new Line(byName[name] ?? [])),
      settled: (sources, untilUs) => sources.every((source) => (marks.get(source) ?? 0) > untilUs),
      truth: (condition) => this.#truth(told, condition),
    };
  }

  /** The event with which it is done. Half a transaction is no state of a case. */
  #doneAt(told: Told, from: number): CaseEvent | null {
    const { done } = this.#process.conformance;
    if (done === null) return null;
    const { events } = told;
    const truth = this.#truth(told, done);
    return events.find((_, i) => i >= from && truth[i] === true && isLastOfTransaction(events, i)) ?? null;
  }

  /** Did the condition hold after each event? */
  #truth({ objects, events, names }: Told, condition: CaseCondition): boolean[] {
    const replay = new Replay(objects, events);
    const happened = (event: EventOf) => replay.happened.has(this.#name(event));
    return events.map((event, i) => {
      replay.follow(event, names[i] ?? []);
      return replay.holds(condition, happened);
    });
  }

  #name(event: EventOf): number {
    const known = this.#named.findIndex(({ object, what }) => object === event.object && what === event.what);
    return known >= 0 ? known : this.#named.push(event) - 1;
  }

  #is(shape: EventShape): readonly number[] {
    let names = this.#kinds.get(shape);
    if (!names) {
      names = this.#named.flatMap((named, i) => (isEvent(shape, named) ? [i] : []));
      if (this.#kinds.size >= KINDS_MAX) this.#kinds.clear();
      this.#kinds.set(shape, names);
    }
    return names;
  }
}

/** A case with the names of its events. */
interface Told extends CaseHistory {
  readonly names: readonly (readonly number[])[];
}

/** The events of a transaction follow each other among those of their source. */
function isLastOfTransaction(events: readonly CaseEvent[], index: number): boolean {
  const { shape, lsn } = events[index] as CaseEvent;
  for (let i = index + 1; i < events.length; i++) {
    const event = events[i] as CaseEvent;
    if (event.shape.source === shape.source) return event.lsn !== lsn;
  }
  return true;
}

/** Of those that await the same sources the one that is due first: it is the next whose time comes. */
function earliest<Debt extends Pick<Owed, 'dueUs' | 'awaits'>>(owed: readonly Debt[]): readonly Debt[] {
  if (owed.length < 2) return owed;
  const found = new Map<string, Debt>();
  for (const one of owed) {
    const awaits = one.awaits.join(' ');
    const before = found.get(awaits);
    if (!before || (one.dueUs ?? Infinity) < (before.dueUs ?? Infinity)) found.set(awaits, one);
  }
  return [...found.values()];
}

/** A state column may turn out to hold anything. */
const KINDS_MAX = 10_000;

function isEvent({ object, kind, activity, after }: EventShape, named: EventOf): boolean {
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
