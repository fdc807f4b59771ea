import type { ProcessConfig } from '@tributary/config';
import { type Duck, duckLiteral } from '@tributary/duckdb';
import { readPlaces } from '../live/place.ts';
import { Histories, inOrder, type Marks, marksOf } from './histories.ts';
import { type CaseEvent, type CaseHistory, Judge, type Judgement } from './judge.ts';
import {
  awaitsText,
  keepFollowed,
  keepOwed,
  keepViolations,
  type KeptViolation,
  keptOf,
  removeKept,
  takeViolations,
} from './kept.ts';
import { Shapes } from './shapes.ts';
import { knownCases, newEvents, type News, readHistories, recastNew } from './stored.ts';

/** Cases that are judged at once, if their events are no more than these. */
const CASES_AT_ONCE = 10_000;
const EVENTS_AT_ONCE = 50_000;
const NEWS_MAX = 100_000;

/**
 * Cases that are read as a whole at the end of this transaction, as more changed of them than that events were added: some that they had
 * before are of another case now, or an object changed that was met in the middle of its life.
 */
export const RECAST = 'CREATE TEMP TABLE _recast ("case" VARCHAR)';

/** What a transaction changed about one rule of one case. */
export interface VerdictChange extends KeptViolation {
  /** `resolved`: what was kept as broken is not any more, as events went or became another case's; or a warning is a violation now. */
  readonly change: 'raised' | 'resolved';
}

/** A case that is judged, and what was kept of it. */
interface Judged {
  readonly judgement: Judgement;
  readonly marks: Marks;
  /** Null: it is not known what is kept; undefined: nothing is. */
  readonly before: Marks | null | undefined;
}

/**
 * Keeps the verdicts on all cases of a process: those whose events or objects changed in a transaction are judged anew at its end, and those
 * that owe something whose time has come (C1: what is kept is what judging everything would give).
 *
 * Cases that something happened in lately are in memory ({@link Histories}), and only what is new of them is read; the others are read as a
 * whole. Only verdicts that changed are written.
 */
export class Verdicts {
  readonly #judge: Judge | null;
  readonly #shapes = new Shapes();
  readonly #histories: Histories;
  readonly #newsMax: number;
  /** What `owed` may await, as it keeps it, and before when nothing of that is due, µs since 1970; null = to be read. */
  #awaited: Map<string, number> | null = null;
  /** Watermarks by source, µs since 1970; null = to be read. */
  #marks: Map<string, number> | null = null;

  /**
   * @param heldBytes memory for the cases that something happened in last
   * @param newsMax a transaction of more events is judged from what is stored, some cases at a time
   */
  constructor(process: ProcessConfig, heldBytes: number, newsMax = NEWS_MAX) {
    this.#newsMax = newsMax;
    this.#judge = Judge.judges(process) ? new Judge(process) : null;
    this.#histories = new Histories(this.#shapes, heldBytes);
  }

  /** Judges every case. In a transaction of the caller's. */
  async judgeAll(duck: Duck): Promise<void> {
    this.forget();
    for (const table of ['followed', 'violation', 'owed']) await duck.run(`DELETE FROM ${table}`);
    await duck.run('INSERT INTO _recast SELECT DISTINCT "case" FROM event');
    await this.follow(duck, null);
  }

  /**
   * Judges the cases of `_recast`, those with new events, and those whose time has come; the places of all sources are written already.
   * @param news what the transaction added; null = nothing but `_recast` says what changed
   * @returns what was raised and resolved, case by case
   */
  async follow(duck: Duck, news: News | null): Promise<VerdictChange[]> {
    const changes = this.#judge ? await this.#follow(duck, this.#judge, news) : [];
    if (news?.recast !== false) await duck.run('DELETE FROM _recast');
    return changes;
  }

  /** Has no case's time come, when a source that brings no events is known up to there? Then nothing is to be judged. */
  async idle(duck: Duck, source: string, watermark: number): Promise<boolean> {
    if (!this.#judge) return true;
    const marks = await this.#marksAt(duck, { source, watermark });
    return (await this.#come(duck, marks)).length === 0;
  }

  /** What is in memory may be ahead of what is stored: a transaction was rolled back. */
  forget(): void {
    this.#histories.clear();
    this.#shapes.clear();
    this.#awaited = null;
    this.#marks = null;
  }

  async #follow(duck: Duck, judge: Judge, news: News | null): Promise<VerdictChange[]> {
    if (this.#shapes.full) this.forget();
    const marks = await this.#marksAt(duck, news);
    const added = news && (await newEvents(duck, news, { shapes: this.#shapes, eventsMax: this.#newsMax }));
    const stored = news !== null && added === null;
    if (stored) await recastNew(duck, news);
    const touched = await this.#touched(duck, { marks, recast: stored || news?.recast !== false });
    for (const own of added?.keys() ?? []) if (!touched.has(own)) touched.set(own, false);
    const cases = [...touched].toSorted(([a], [b]) => (a < b ? -1 : 1));
    const atOnce = await casesAtOnce(duck, cases.length);
    const changes: VerdictChange[] = [];
    for (let from = 0; from < cases.length; from += atOnce) {
      const some = new Map(cases.slice(from, from + atOnce));
      const judged = await this.#judgeSome(duck, { judge, marks, some, added: added ?? new Map() });
      for (const change of await write(duck, judged)) changes.push(change);
    }
    return changes;
  }

  async #marksAt(duck: Duck, news: Pick<News, 'source' | 'watermark'> | null): Promise<ReadonlyMap<string, number>> {
    this.#marks ??= new Map([...(await readPlaces(duck))].map(([source, { watermark }]) => [source, watermark]));
    if (news) this.#marks.set(news.source, news.watermark);
    return this.#marks;
  }

  /** Of what `owed` may await: what something may be due of. */
  async #come(duck: Duck, marks: ReadonlyMap<string, number>): Promise<{ readonly awaits: string; readonly mark: number }[]> {
    this.#awaited ??= await dueFirst(duck);
    return [...this.#awaited].flatMap(([awaits, dueUs]) => {
      const mark = Math.min(...awaits.split(' ').map((source) => marks.get(source) ?? 0));
      return dueUs < mark ? [{ awaits, mark }] : [];
    });
  }

  /** Cases that are recast (true), and those whose time has come. */
  async #touched(
    duck: Duck,
    { marks, recast }: { readonly marks: ReadonlyMap<string, number>; readonly recast: boolean },
  ): Promise<Map<string, boolean>> {
    const touched = new Map<string, boolean>();
    const come = await this.#come(duck, marks);
    if (come.length > 0) {
      const due = come.map(({ awaits, mark }) => `awaits = ${duckLiteral(awaits)} AND due_us < ${mark}`).join(' OR ');
      const { c } = await duck.columns(`SELECT DISTINCT "case" AS c FROM owed WHERE ${due}`);
      for (const own of c as readonly string[]) touched.set(own, false);
      // They owe something else when they are judged; what was noted of others may be satisfied.
      this.#awaited = await dueFirst(duck, due);
    }
    if (!recast) return touched;
    const { c } = await duck.columns('SELECT DISTINCT "case" AS c FROM _recast WHERE "case" IS NOT NULL');
    for (const own of c as readonly string[]) touched.set(own, true);
    return touched;
  }

  #owes(awaits: string, dueUs: number | null): void {
    if (dueUs !== null && dueUs < (this.#awaited?.get(awaits) ?? Infinity)) this.#awaited?.set(awaits, dueUs);
  }

  async #judgeSome(
    duck: Duck,
    {
      judge,
      marks: places,
      some,
      added,
    }: {
      readonly judge: Judge;
      readonly marks: ReadonlyMap<string, number>;
      /** By case: is it recast? */
      readonly some: ReadonlyMap<string, boolean>;
      readonly added: ReadonlyMap<string, readonly CaseEvent[]>;
    },
  ): Promise<Judged[]> {
    // All at once: what is kept of one may push another out.
    const holds = new Map([...some].map(([own, recast]) => [own, recast ? null : this.#histories.get(own)]));
    const unheld = [...some.keys()].filter((own) => !holds.get(own));
    const known = await knownCases(duck, unheld);
    const withEvents = unheld.filter((own) => some.get(own) === true || known.has(own));
    const read =
      unheld.length === 0
        ? new Map<string, CaseHistory>()
        : await readHistories(duck, unheld, { withEvents, shapes: this.#shapes });
    const whole = new Set(withEvents);
    return [...some.keys()].map((own) => {
      const held = holds.get(own);
      const history = held?.history ?? read.get(own) ?? { case: own, events: [], objects: [] };
      const events = whole.has(own) ? history.events : merged(history.events, added.get(own) ?? []);
      const now = { case: own, events, objects: history.objects };
      const judgement = judge.judge(now, places);
      const marks = marksOf(judgement);
      for (const { awaits, dueUs } of judgement.owed) this.#owes(awaitsText(awaits), dueUs);
      if (events.length > 0) this.#histories.put(now, marks);
      else this.#histories.forget(own);
      return { judgement, marks, before: held ? held.marks : known.has(own) ? null : undefined };
    });
  }
}

/** By what it awaits: when the first of what is owed is due; without what is `left` out. */
async function dueFirst(duck: Duck, left = 'false'): Promise<Map<string, number>> {
  const found = await duck.rows<{ awaits: string; dueUs: number }>(
    `SELECT awaits, min(due_us) AS "dueUs" FROM owed WHERE due_us IS NOT NULL AND NOT (${left}) GROUP BY 1`,
  );
  return new Map(found.map(({ awaits, dueUs }) => [awaits, dueUs]));
}

/** As many as have {@link EVENTS_AT_ONCE} events, were they all as long as the mean of what is stored. */
async function casesAtOnce(duck: Duck, cases: number): Promise<number> {
  if (cases <= CASES_AT_ONCE / 10) return CASES_AT_ONCE;
  const [stored] = await duck.rows<{ events: number; cases: number }>(
    'SELECT (SELECT count(*) FROM event) AS events, (SELECT count(*) FROM followed) AS cases',
  );
  const mean = (stored?.events ?? 0) / Math.max(cases, stored?.cases ?? 0);
  return Math.max(CASES_AT_ONCE / 100, Math.min(CASES_AT_ONCE, Math.floor(EVENTS_AT_ONCE / mean)));
}

/** Both are in order; most often what is new is behind all that was. */
function merged(before: readonly CaseEvent[], added: readonly CaseEvent[]): readonly CaseEvent[] {
  const [last, first] = [before.at(-1), added[0]];
  if (!first) return before;
  if (!last) return added;
  const both = [...before, ...added];
  return inOrder(last, first) < 0 ? both : both.sort(inOrder);
}

async function write(duck: Duck, judged: readonly Judged[]): Promise<VerdictChange[]> {
  const keyOf = ({ judgement }: Judged) => judgement.case;
  const there = judged.filter(({ judgement }) => judgement.events > 0);
  await removeKept(duck, 'followed', judged.filter(({ before }) => before !== undefined).map(keyOf));
  await keepFollowed(
    duck,
    there.map(({ judgement }) => judgement),
  );
  const owing = judged.filter(({ before, marks }) => before === null || (before?.owed ?? '') !== marks.owed);
  await removeKept(duck, 'owed', owing.filter(({ before }) => before !== undefined && before?.owed !== '').map(keyOf));
  await keepOwed(
    duck,
    owing.map(({ judgement }) => judgement),
  );
  const breaking = judged.filter(({ before, marks }) => before === null || (before?.violations ?? '') !== marks.violations);
  const gone = await takeViolations(
    duck,
    breaking.filter(({ before }) => before !== undefined && before?.violations !== '').map(keyOf),
  );
  const now = breaking.flatMap(({ judgement }) => judgement.violations.map((one) => keptOf(judgement.case, one)));
  await keepViolations(duck, now);
  return differences(gone, now);
}

function differences(before: readonly KeptViolation[], after: readonly KeptViolation[]): VerdictChange[] {
  const nameOf = (one: KeptViolation) => `${one.case}\0${one.rule} ${one.level} ${one.atUs} ${one.tick} ${one.source}`;
  const [was, is] = [new Set(before.map(nameOf)), new Set(after.map(nameOf))];
  return [
    ...before.filter((one) => !is.has(nameOf(one))).map((one) => ({ change: 'resolved' as const, ...one })),
    ...after.filter((one) => !was.has(nameOf(one))).map((one) => ({ change: 'raised' as const, ...one })),
  ];
}
