import type { FindingKind, ProcessConfig, Severity } from '@tributary/config';
import { isoMicros } from '@tributary/core';
import { type Duck, listValue } from '@tributary/duckdb';
import { isoSql, type ProcessCase } from '../analysis/cases.ts';
import { ruleWords } from './words.ts';

/** The event that something is about. */
export interface FindingEvent {
  readonly object: string;
  readonly key: string;
  readonly activity: string;
  readonly before: string | null;
  readonly after: string | null;
  readonly source: string;
  readonly lsn: string;
  readonly ordinal: number;
}

/** Something in a process that somebody may want to know of. Times in µs since 1970. */
export interface Finding {
  readonly kind: FindingKind;
  /** Of `stuck` also the state (`stuck.order.paid`), and so on: what findings are grouped by. */
  readonly rule: string;
  readonly severity: Severity;
  /** Null: it is about the process as a whole. */
  readonly case: string | null;
  /** The same however often the state is made anew. */
  readonly id: string;
  /** When it became so: an event, or a deadline that passed. */
  readonly atUs: number;
  readonly reason: string;
  readonly event: FindingEvent | null;
}

/** What a look into a process found, and (`unknown`) what would be found by the clock, if a source that could still tell otherwise did not lag. */
export interface Found {
  readonly findings: readonly Finding[];
  readonly unknown: readonly Finding[];
}

/** @param told each with why it is not known yet, or null */
export function foundOf(told: readonly (readonly [Finding, string | null])[]): Found {
  return {
    findings: told.flatMap(([one, lag]) => (lag === null ? [one] : [])),
    unknown: told.flatMap(([one, lag]) => (lag === null ? [] : [{ ...one, reason: lag }])),
  };
}

/** The mildest first. */
export const SEVERITIES: readonly Severity[] = ['info', 'warning', 'critical'];

/** Rows of one look; more are not told at once. */
export const FINDINGS_MAX = 20_000;

/** Columns of an event `e`, as {@link FindingEvent} has them, and what names it: (source, tick). */
export const eventColumns = (e: string): string =>
  ['object', 'key', 'activity', 'before', 'after', 'source', 'ordinal', 'tick'].map((one) => `${e}.${one}`).join(', ') +
  `, ${e}.lsn::VARCHAR AS lsn, ${e}."case" AS c, ${e}.at_us AS "atUs"`;

export interface EventRow extends FindingEvent {
  readonly tick: number;
  readonly c: string;
  readonly atUs: number;
}

export function eventOfRow({ object, key, activity, before, after, source, lsn, ordinal }: EventRow): FindingEvent {
  return { object, key, activity, before, after, source, lsn, ordinal };
}

/**
 * Rules and deadlines that are broken for good. A deadline that passed is no longer told of once its case is done; what is broken stays
 * broken.
 */
export async function brokenRules(duck: Duck, process: ProcessConfig): Promise<Finding[]> {
  const severities = new Map(process.conformance.rules.map(({ name, severity }) => [name, severity]));
  const rows = await duck.rows<EventRow & { rule: string }>(
    `SELECT v.rule, ${eventColumns('v')} FROM violation v JOIN followed f ON f."case" = v."case"
      WHERE v.level = 'violation' AND (f.done_us IS NULL OR NOT starts_with(v.rule, 'sla.'))
      ORDER BY v.at_us DESC, v.source, v.tick, v.rule LIMIT ${FINDINGS_MAX}`,
  );
  return rows.map((row) => ({
    kind: row.rule.startsWith('sla.') ? 'sla' : 'rule',
    rule: row.rule,
    severity: severities.get(row.rule) ?? 'warning',
    case: row.c,
    id: `${row.rule} ${row.source} ${row.tick}`,
    atUs: row.atUs,
    reason: row.rule.startsWith('allowed.') ? movedWords(row) : ruleWords(process, row.rule),
    event: eventOfRow(row),
  }));
}

function movedWords({ object, key, before, after }: FindingEvent): string {
  return `${object} ${key} ${before === null ? 'began as' : `went from ${before} to`} ${after ?? 'nothing'}, which is not allowed`;
}

/** A case as lists of findings tell of it. */
export interface FoundCase extends Pick<ProcessCase, 'case' | 'events' | 'first' | 'last' | 'durationMs' | 'activity'> {
  readonly findings: readonly ToldFinding[];
}

interface ToldFinding {
  readonly kind: FindingKind;
  readonly rule: string;
  readonly severity: Severity;
  /** `unknown`: by the clock it is so, but a source that could still tell otherwise lags. */
  readonly verdict: 'found' | 'unknown';
  /** ISO 8601. */
  readonly at: string;
  readonly reason: string;
  readonly event: FindingEvent | null;
}

/** The cases that findings are about, those with the newest first. */
export async function foundCases(
  duck: Duck,
  { findings, unknown }: Found,
  { rule, case: key, limit }: { rule?: string | undefined; case?: string | undefined; limit: number },
): Promise<FoundCase[]> {
  const told = [...findings.map((one) => toldOf(one, 'found')), ...unknown.map((one) => toldOf(one, 'unknown'))]
    .filter((one) => one.case !== null && (rule === undefined || one.rule === rule) && (key === undefined || one.case === key))
    .toSorted((a, b) => (a.at < b.at ? 1 : a.at > b.at ? -1 : 0));
  const byCase = new Map<string, ToldFinding[]>();
  for (const { case: its, ...one } of told) {
    const own = byCase.get(its as string);
    if (own) own.push(one);
    else if (byCase.size < limit) byCase.set(its as string, [one]);
  }
  if (byCase.size === 0) return [];
  const rows = await duck.rows<Omit<FoundCase, 'findings'>>(
    `SELECT "case", count(*) AS events, ${isoSql('min(at_us)')} AS first, ${isoSql('max(at_us)')} AS last,
            (max(at_us) - min(at_us)) / 1000.0 AS "durationMs", arg_max(activity, (tick, source)) AS activity
       FROM event WHERE "case" IN (SELECT unnest($1::VARCHAR[])) GROUP BY "case"`,
    [listValue([...byCase.keys()])],
  );
  const cases = new Map(rows.map((row) => [row.case, row]));
  return [...byCase].flatMap(([key, own]) => {
    const row = cases.get(key);
    return row ? [{ ...row, findings: own }] : [];
  });
}

function toldOf(one: Finding, verdict: 'found' | 'unknown'): ToldFinding & { readonly case: string | null } {
  const { kind, rule, severity, reason, event, atUs } = one;
  return { case: one.case, kind, rule, severity, verdict, at: isoMicros(atUs), reason, event };
}
