import type { ProcessConfig } from '@tributary/config';
import { type Duck, duckLiteral, listValue } from '@tributary/duckdb';
import { readPlaces } from '../live/place.ts';
import { byCase } from './by-case.ts';
import { type CaseEvent, type CaseObject, Judge, type Judgement } from './judge.ts';

/** Cases that are judged at once. */
const CASES_AT_ONCE = 10_000;

/** What judging leaves; kept beside the events, and written with them. */
export const VERDICT_TABLES = [
  `CREATE TABLE IF NOT EXISTS followed ("case" VARCHAR NOT NULL, started_us BIGINT, done_us BIGINT, last_us BIGINT NOT NULL, events INTEGER NOT NULL,
     activity VARCHAR NOT NULL)`,
  `CREATE TABLE IF NOT EXISTS violation ("case" VARCHAR NOT NULL, rule VARCHAR NOT NULL, level VARCHAR NOT NULL, at_us BIGINT NOT NULL, tick BIGINT NOT NULL,
     source VARCHAR NOT NULL, lsn UBIGINT NOT NULL, ordinal BIGINT NOT NULL, object VARCHAR NOT NULL, key VARCHAR NOT NULL, activity VARCHAR NOT NULL,
     before VARCHAR, after VARCHAR)`,
  'CREATE TABLE IF NOT EXISTS owed ("case" VARCHAR NOT NULL, rule VARCHAR NOT NULL, since_us BIGINT NOT NULL, due_us BIGINT)',
  'CREATE TABLE IF NOT EXISTS judged (version VARCHAR NOT NULL)',
];

/** Cases of which something changed in this transaction. */
export const TOUCHED = 'CREATE TEMP TABLE _touched ("case" VARCHAR)';

const FOLLOWED = {
  case: 'VARCHAR',
  started_us: 'BIGINT',
  done_us: 'BIGINT',
  last_us: 'BIGINT',
  events: 'INTEGER',
  activity: 'VARCHAR',
} as const;
const VIOLATION = {
  case: 'VARCHAR',
  rule: 'VARCHAR',
  level: 'VARCHAR',
  at_us: 'BIGINT',
  tick: 'BIGINT',
  source: 'VARCHAR',
  lsn: 'UBIGINT',
  ordinal: 'BIGINT',
  object: 'VARCHAR',
  key: 'VARCHAR',
  activity: 'VARCHAR',
  before: 'VARCHAR',
  after: 'VARCHAR',
} as const;
const OWED = { case: 'VARCHAR', rule: 'VARCHAR', since_us: 'BIGINT', due_us: 'BIGINT' } as const;

/**
 * Keeps the verdicts on all cases of a process: those whose events or objects changed in a transaction are judged anew at its end, and those
 * that owe something whose time has come (C1: what is kept is what judging everything would give).
 */
export class Verdicts {
  readonly #judge: Judge | null;
  /** Rules that may wait, by the sources that they wait for. */
  readonly #waiting = new Map<string, { sources: readonly string[]; rules: string[] }>();

  constructor(process: ProcessConfig) {
    this.#judge = Judge.judges(process) ? new Judge(process) : null;
    for (const [rule, sources] of this.#judge?.awaited ?? []) {
      if (sources.length === 0) continue;
      const id = sources.toSorted().join(' ');
      const group = this.#waiting.get(id) ?? { sources, rules: [] };
      group.rules.push(rule);
      this.#waiting.set(id, group);
    }
  }

  /** Judges every case. In a transaction of the caller's. */
  async judgeAll(duck: Duck): Promise<void> {
    for (const table of ['followed', 'violation', 'owed']) await duck.run(`DELETE FROM ${table}`);
    await duck.run('INSERT INTO _touched SELECT DISTINCT "case" FROM event');
    await this.follow(duck);
  }

  /** Judges the cases of `_touched`, and those whose time has come; the places of all sources are written already. */
  async follow(duck: Duck): Promise<void> {
    if (this.#judge) await this.#follow(duck, this.#judge);
    await duck.run('DELETE FROM _touched');
  }

  async #follow(duck: Duck, judge: Judge): Promise<void> {
    const marks = new Map([...(await readPlaces(duck))].map(([source, { watermark }]) => [source, watermark]));
    const come = [...this.#waiting.values()].map(({ sources, rules }) => {
      const mark = Math.min(...sources.map((source) => marks.get(source) ?? 0));
      return `rule IN (${rules.map(duckLiteral).join(', ')}) AND due_us < ${mark}`;
    });
    const due = come.length === 0 ? '' : `UNION SELECT "case" FROM owed WHERE ${come.join(' OR ')}`;
    const found = await duck.rows<{ c: string }>(
      `SELECT "case" AS c FROM (SELECT "case" FROM _touched ${due}) WHERE "case" IS NOT NULL GROUP BY 1 ORDER BY 1`,
    );
    for (let from = 0; from < found.length; from += CASES_AT_ONCE) {
      const cases = found.slice(from, from + CASES_AT_ONCE).map(({ c }) => c);
      await this.#write(duck, { cases, judgements: await judgedCases(duck, { judge, marks, cases }) });
    }
  }

  async #write(duck: Duck, { cases, judgements }: { cases: readonly string[]; judgements: readonly Judgement[] }): Promise<void> {
    for (const table of ['followed', 'violation', 'owed'])
      await duck.run(`DELETE FROM ${table} WHERE "case" IN (SELECT unnest($1::VARCHAR[]))`, [listValue(cases)]);
    await duck.append('followed', FOLLOWED, {
      case: judgements.map((one) => one.case),
      started_us: judgements.map(({ startedUs }) => whole(startedUs)),
      done_us: judgements.map(({ doneUs }) => whole(doneUs)),
      last_us: judgements.map(({ lastUs }) => BigInt(lastUs)),
      events: judgements.map(({ events }) => events),
      activity: judgements.map(({ activity }) => activity),
    });
    const violations = judgements.flatMap((one) => one.violations.map((violation) => ({ case: one.case, ...violation })));
    await duck.append('violation', VIOLATION, {
      case: violations.map((one) => one.case),
      rule: violations.map(({ rule }) => rule),
      level: violations.map(({ level }) => level),
      at_us: violations.map(({ atUs }) => BigInt(atUs)),
      tick: violations.map(({ event }) => BigInt(event.tick)),
      source: violations.map(({ event }) => event.source),
      lsn: violations.map(({ event }) => BigInt(event.lsn)),
      ordinal: violations.map(({ event }) => BigInt(event.ordinal)),
      object: violations.map(({ event }) => event.object),
      key: violations.map(({ event }) => event.key),
      activity: violations.map(({ event }) => event.activity),
      before: violations.map(({ event }) => event.before),
      after: violations.map(({ event }) => event.after),
    });
    const owed = judgements.flatMap((one) => one.owed.map((debt) => ({ case: one.case, ...debt })));
    await duck.append('owed', OWED, {
      case: owed.map((one) => one.case),
      rule: owed.map(({ rule }) => rule),
      since_us: owed.map(({ sinceUs }) => BigInt(sinceUs)),
      due_us: owed.map(({ dueUs }) => whole(dueUs)),
    });
  }
}

async function judgedCases(
  duck: Duck,
  { judge, marks, cases }: { judge: Judge; marks: ReadonlyMap<string, number>; cases: readonly string[] },
): Promise<Judgement[]> {
  const events = await duck.rows<CaseEvent & { c: string }>(
    `SELECT "case" AS c, at_us AS "atUs", tick, source, lsn::VARCHAR AS lsn, ordinal, activity, object, key, kind, before, after
       FROM event WHERE "case" IN (SELECT unnest($1::VARCHAR[])) ORDER BY c, tick, source`,
    [listValue(cases)],
  );
  const objects = byCase(
    await duck.rows<CaseObject & { c: string }>(
      `SELECT "case" AS c, object, key, state, born, alive FROM object WHERE "case" IN (SELECT unnest($1::VARCHAR[]))`,
      [listValue(cases)],
    ),
  );
  const judgements: Judgement[] = [];
  for (let from = 0, to = 0; from < events.length; from = to) {
    const own = (events[from] as { c: string }).c;
    while (events[to]?.c === own) to++;
    judgements.push(judge.judge({ case: own, events: events.slice(from, to), objects: objects.get(own) ?? [] }, marks));
  }
  return judgements;
}

function whole(us: number | null): bigint | null {
  return us === null ? null : BigInt(us);
}
