import type { ProcessConfig, Severity } from '@tributary/config';
import { Fault } from '@tributary/core';
import { among, type Duck, duckLiteral } from '@tributary/duckdb';
import { isoSql, type ProcessCase } from '../analysis/cases.ts';
import { readPlaces } from '../live/place.ts';
import type { FindingEvent } from '../watch/finding.ts';
import { byCase } from './by-case.ts';
import { Judge } from './judge.ts';

/** `open`: begun, and not done. `met`: its beginning was not seen, so only its state changes are judged. */
const CASE_STATES = ['open', 'done', 'met', 'violated', 'stuck', 'missing', 'silent'] as const;

export interface JudgedCase extends ProcessCase {
  readonly state: 'open' | 'done' | 'met';
  /** ISO 8601. */
  readonly doneAt: string | null;
  /** Permanently violated. */
  readonly violations: readonly RuleBroken[];
  /** Temporarily violated: every other rule is satisfied so far. */
  readonly owed: readonly RuleOwed[];
}

interface RuleBroken {
  readonly rule: string;
  readonly severity: Severity;
  /** `warning`: it soon will be broken. */
  readonly level: 'violation' | 'warning';
  /** When it was broken: the event's own time, or the deadline. */
  readonly at: string;
  /** What broke it, or of which something is missing. */
  readonly event: FindingEvent;
}

interface RuleOwed {
  readonly rule: string;
  /** `unknown`: its time is over, but a source that could still tell of it lags. */
  readonly verdict: 'temporarily_violated' | 'unknown';
  readonly since: string;
  readonly due: string | null;
  readonly reason: string | null;
}

export interface CasesAsked {
  readonly state?: string;
  readonly rule?: string;
  /** This one alone. */
  readonly case?: string;
  readonly limit: number;
  /** The time by the clock, µs since 1970. */
  readonly nowUs: number;
}

/**
 * The cases of a process that is judged, the last that something happened in first.
 * @throws Fault `config_invalid` for a state or rule that is none, and where the process has no rules
 */
export async function judgedCases(
  duck: Duck,
  process: ProcessConfig,
  { state, rule, case: key, limit, nowUs }: CasesAsked,
): Promise<JudgedCase[]> {
  if (!Judge.judges(process))
    throw new Fault('config_invalid', `process ${process.name} has no rules: add done, allowed, rules or sla to its definition`);
  const { rules } = new Judge(process);
  if (rule !== undefined && !rules.includes(rule))
    throw new Fault('config_invalid', `there is no rule ${rule}. Rules: ${rules.join(', ') || 'none'}`);
  const conditions = [conditionOf(state)];
  if (key !== undefined) conditions.push(`f."case" = ${duckLiteral(key)}`);
  const broken = `FROM violation v WHERE v."case" = f."case"${rule === undefined ? '' : ` AND rule = ${duckLiteral(rule)}`}`;
  if (state === 'violated') conditions.push(`EXISTS (${broken} AND level = 'violation')`);
  else if (rule !== undefined)
    conditions.push(`(EXISTS (${broken}) OR EXISTS (FROM owed o WHERE o."case" = f."case" AND rule = ${duckLiteral(rule)}))`);
  const cases = await duck.rows<Omit<JudgedCase, 'violations' | 'owed'>>(
    `WITH f AS (SELECT * FROM followed f WHERE ${conditions.join(' AND ')} ORDER BY last_us DESC, "case" LIMIT ${limit})
     SELECT f."case", f.events, ${isoSql('min(e.at_us)')} AS first, ${isoSql('max(e.at_us)')} AS last,
            (max(e.at_us) - min(e.at_us)) / 1000.0 AS "durationMs", f.activity,
            CASE WHEN f.started_us IS NULL THEN 'met' WHEN f.done_us IS NULL THEN 'open' ELSE 'done' END AS state, ${isoSql('f.done_us')} AS "doneAt"
       FROM f JOIN event e ON e."case" = f."case" GROUP BY ALL ORDER BY max(e.at_us) DESC, f."case"`,
  );
  if (cases.length === 0) return [];
  const { each, value } = among(
    cases.map((one) => one.case),
    1,
  );
  const severities = new Map(process.conformance.rules.map(({ name, severity }) => [name, severity]));
  const violations = await duck.rows<StoredViolation>(
    `SELECT "case" AS c, rule, level, ${isoSql('at_us')} AS at, object, key, activity, before, after, source, lsn::VARCHAR AS lsn, ordinal
       FROM violation WHERE "case" IN (SELECT ${each}) ORDER BY at_us, tick, rule`,
    [value],
  );
  const owed = await duck.rows<StoredDebt>(
    `SELECT "case" AS c, rule, ${isoSql('since_us')} AS since, ${isoSql('due_us')} AS due, due_us AS "dueUs", awaits
       FROM owed WHERE "case" IN (SELECT ${each}) ORDER BY due_us, rule`,
    [value],
  );
  const marks = new Map([...(await readPlaces(duck))].map(([source, { watermark }]) => [source, watermark]));
  const [brokenOf, owedOf] = [byCase(violations), byCase(owed)];
  return cases.map((one) => ({
    ...one,
    violations: (brokenOf.get(one.case) ?? []).map(({ c: _c, rule: name, level, at, ...event }) => ({
      rule: name,
      severity: severities.get(name) ?? 'warning',
      level,
      at,
      event,
    })),
    // Of a rule that owes several things the one that is due first.
    owed: (owedOf.get(one.case) ?? [])
      .filter(({ rule: name }, i, all) => all.findIndex((debt) => debt.rule === name) === i)
      .map((debt) => verdictOf(debt, { marks, nowUs })),
  }));
}

interface StoredViolation extends Omit<RuleBroken, 'severity' | 'event'>, FindingEvent {
  readonly c: string;
}

interface StoredDebt {
  readonly c: string;
  readonly rule: string;
  readonly since: string;
  readonly due: string | null;
  readonly dueUs: number | null;
  readonly awaits: string;
}

function conditionOf(state: string | undefined): string {
  switch (state) {
    case undefined:
    case 'violated':
      return 'true';
    case 'open':
      return 'started_us IS NOT NULL AND done_us IS NULL';
    case 'done':
      return 'done_us IS NOT NULL';
    case 'met':
      return 'started_us IS NULL';
    default:
      throw new Fault('config_invalid', `there is no state ${state}. States: ${CASE_STATES.join(', ')}`);
  }
}

/** Nothing is said to be missing before every source that could tell of it has passed its time; by the clock alone it is not known. */
function verdictOf(
  { rule, since, due, dueUs, awaits }: StoredDebt,
  { marks, nowUs }: { marks: ReadonlyMap<string, number>; nowUs: number },
): RuleOwed {
  const over = dueUs !== null && dueUs < nowUs;
  const lagging = over ? awaits.split(' ').find((source) => (marks.get(source) ?? 0) <= dueUs) : undefined;
  if (lagging === undefined) return { rule, verdict: 'temporarily_violated', since, due, reason: null };
  const mark = marks.get(lagging);
  const reason = mark ? `source ${lagging} lags ${Math.round((nowUs - mark) / 1e6)} s` : `source ${lagging} was not read yet`;
  return { rule, verdict: 'unknown', since, due, reason };
}
