import { among, type Duck } from '@tributary/duckdb';
import type { Judgement, Violation } from './judge.ts';

/** What judging leaves; kept beside the events, and written with them. */
export const VERDICT_TABLES = [
  `CREATE TABLE IF NOT EXISTS followed ("case" VARCHAR NOT NULL, started_us BIGINT, done_us BIGINT, last_us BIGINT NOT NULL, events INTEGER NOT NULL,
     activity VARCHAR NOT NULL)`,
  `CREATE TABLE IF NOT EXISTS violation ("case" VARCHAR NOT NULL, rule VARCHAR NOT NULL, level VARCHAR NOT NULL, at_us BIGINT NOT NULL, tick BIGINT NOT NULL,
     source VARCHAR NOT NULL, lsn UBIGINT NOT NULL, ordinal BIGINT NOT NULL, object VARCHAR NOT NULL, key VARCHAR NOT NULL, activity VARCHAR NOT NULL,
     before VARCHAR, after VARCHAR)`,
  'CREATE TABLE IF NOT EXISTS owed ("case" VARCHAR NOT NULL, rule VARCHAR NOT NULL, since_us BIGINT NOT NULL, due_us BIGINT, awaits VARCHAR)',
  'CREATE TABLE IF NOT EXISTS judged (version VARCHAR NOT NULL)',
];

/** Of a file that an earlier version made. `awaits`: sources by name, with a space between two. */
export const VERDICT_UPGRADE = 'ALTER TABLE owed ADD COLUMN IF NOT EXISTS awaits VARCHAR';

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
const OWED = { case: 'VARCHAR', rule: 'VARCHAR', since_us: 'BIGINT', due_us: 'BIGINT', awaits: 'VARCHAR' } as const;

/** A violation with its case, as it is kept: one row of `violation`. */
export interface KeptViolation {
  readonly case: string;
  readonly rule: string;
  readonly level: Violation['level'];
  /** When it was broken: an event, or a deadline that passed; µs since 1970. */
  readonly atUs: number;
  /** The event that broke it, or of which something is missing: its place, and what it was. */
  readonly tick: number;
  readonly source: string;
  /** Decimal. */
  readonly lsn: string;
  readonly ordinal: number;
  readonly object: string;
  readonly key: string;
  readonly activity: string;
  readonly before: string | null;
  readonly after: string | null;
}

export function keptOf(own: string, { rule, level, atUs, event }: Violation): KeptViolation {
  const { tick, lsn, ordinal, key } = event;
  const { source, object, activity, before, after } = event.shape;
  return { case: own, rule, level, atUs, tick, source, lsn: String(lsn), ordinal, object, key, activity, before, after };
}

/** Removes what is kept of cases in a table. */
export async function removeKept(duck: Duck, table: 'followed' | 'owed', cases: readonly string[]): Promise<void> {
  if (cases.length === 0) return;
  const { each, value } = among(cases, 1);
  await duck.run(`DELETE FROM ${table} WHERE "case" IN (SELECT ${each})`, [value]);
}

/** Removes the violations of cases. @returns what they were */
export async function takeViolations(duck: Duck, cases: readonly string[]): Promise<KeptViolation[]> {
  if (cases.length === 0) return [];
  const { each, value } = among(cases, 1);
  return duck.rows<KeptViolation>(
    `DELETE FROM violation WHERE "case" IN (SELECT ${each}) RETURNING "case", rule, level, at_us AS "atUs", tick, source, lsn::VARCHAR AS lsn, ordinal,
       object, key, activity, before, after`,
    [value],
  );
}

export async function keepViolations(duck: Duck, violations: readonly KeptViolation[]): Promise<void> {
  await duck.append('violation', VIOLATION, {
    case: violations.map((one) => one.case),
    rule: violations.map(({ rule }) => rule),
    level: violations.map(({ level }) => level),
    at_us: violations.map(({ atUs }) => BigInt(atUs)),
    tick: violations.map(({ tick }) => BigInt(tick)),
    source: violations.map(({ source }) => source),
    lsn: violations.map(({ lsn }) => BigInt(lsn)),
    ordinal: violations.map(({ ordinal }) => BigInt(ordinal)),
    object: violations.map(({ object }) => object),
    key: violations.map(({ key }) => key),
    activity: violations.map(({ activity }) => activity),
    before: violations.map(({ before }) => before),
    after: violations.map(({ after }) => after),
  });
}

export async function keepFollowed(duck: Duck, judgements: readonly Judgement[]): Promise<void> {
  await duck.append('followed', FOLLOWED, {
    case: judgements.map((one) => one.case),
    started_us: judgements.map(({ startedUs }) => whole(startedUs)),
    done_us: judgements.map(({ doneUs }) => whole(doneUs)),
    last_us: judgements.map(({ lastUs }) => BigInt(lastUs)),
    events: judgements.map(({ events }) => events),
    activity: judgements.map(({ activity }) => activity),
  });
}

export async function keepOwed(duck: Duck, judgements: readonly Judgement[]): Promise<void> {
  const owed = judgements.flatMap((one) => one.owed.map((debt) => ({ case: one.case, ...debt })));
  await duck.append('owed', OWED, {
    case: owed.map((one) => one.case),
    rule: owed.map(({ rule }) => rule),
    since_us: owed.map(({ sinceUs }) => BigInt(sinceUs)),
    due_us: owed.map(({ dueUs }) => whole(dueUs)),
    awaits: owed.map(({ awaits }) => awaitsText(awaits)),
  });
}

/** As `owed` keeps it. */
export function awaitsText(sources: readonly string[]): string {
  return sources.join(' ');
}

function whole(us: number | null): bigint | null {
  return us === null ? null : BigInt(us);
}
