import { isDeepStrictEqual } from 'node:util';
import type { ProcessConfig } from '@tributary/config';
import { Fault } from '@tributary/core';
import { type Duck, duckIdent } from '@tributary/duckdb';
import { isoSql } from '../analysis/cases.ts';
import { learnTransitions, withLearned } from '../conformance/learned.ts';
import { VERDICT_TABLES } from '../conformance/kept.ts';
import { RECAST, Verdicts } from '../conformance/verdicts.ts';
import { type EventRow, eventColumns, eventOfRow, type FindingEvent } from './finding.ts';

/** What a definition would say of the cases that are here, beside what the running one says, or a second one that is given. */
export interface WhatIf {
  /** Of those with an event. */
  readonly cases: number;
  /** How often its rules would have fired in all. */
  readonly fired: number;
  /** What it is compared with, and how often the rules of that one fired, or would have. */
  readonly against: { readonly definition: 'running' | 'given'; readonly fired: number };
  /** Of either. A rule is the same as another one of its name. */
  readonly rules: readonly {
    readonly rule: string;
    readonly fired: number;
    readonly cases: number;
    /** By the other definition. */
    readonly against: { readonly fired: number; readonly cases: number };
    /** Those that the other definition does not say, and those that it alone says. */
    readonly more: number;
    readonly fewer: number;
  }[];
  /** The newest first. */
  readonly violations: readonly {
    readonly rule: string;
    readonly case: string;
    /** ISO 8601. */
    readonly at: string;
    /** `more`: the other definition does not say so; `fewer`: it alone does. */
    readonly change: 'same' | 'more' | 'fewer';
    readonly event: FindingEvent;
  }[];
}

export interface WhatIfAsked {
  readonly definition: ProcessConfig;
  /** What it is compared with; null = with what the running one says. */
  readonly against: ProcessConfig | null;
  readonly limit: number;
}

/**
 * Judges all cases that are here by another definition, or by two, at one moment and without touching anything: their verdicts go to tables of
 * this connection alone, which stand before those of the file under the same names. Costs what judging all cases costs, for as long.
 * @throws Fault `config_invalid` when a definition makes other events: those that are here say nothing of it then
 */
export async function whatIf(duck: Duck, running: ProcessConfig, { definition, against, limit }: WhatIfAsked): Promise<WhatIf> {
  for (const one of against ? [definition, against] : [definition]) assertSameEvents(running, one);
  const [here] = await duck.rows<{ name: string }>('SELECT current_database() AS name');
  await duck.run(`CREATE TEMP VIEW _other AS FROM ${duckIdent(here?.name ?? '')}.main.violation WHERE level = 'violation'`);
  for (const table of VERDICT_TABLES) await duck.run(table.replace('CREATE TABLE IF NOT EXISTS', 'CREATE TEMP TABLE'));
  await duck.run(RECAST);
  if (against) {
    await judgeBy(duck, against);
    await duck.run('DROP VIEW _other');
    await duck.run(`CREATE TEMP TABLE _other AS FROM violation WHERE level = 'violation'`);
  }
  await judgeBy(duck, definition);
  await compare(duck);
  const rules = await duck.rows<Counts>(
    `SELECT rule, count(*) FILTER (change <> 'fewer') AS fired, count(DISTINCT "case") FILTER (change <> 'fewer') AS cases,
            count(*) FILTER (change <> 'more') AS "otherFired", count(DISTINCT "case") FILTER (change <> 'more') AS "otherCases",
            count(*) FILTER (change = 'more') AS more, count(*) FILTER (change = 'fewer') AS fewer
       FROM _compared GROUP BY rule ORDER BY rule`,
  );
  const told = await duck.rows<EventRow & { rule: string; at: string; change: 'same' | 'more' | 'fewer' }>(
    `SELECT rule, change, ${isoSql('at_us')} AS at, ${eventColumns('e')} FROM _compared e ORDER BY at_us DESC, source, tick, rule LIMIT ${limit}`,
  );
  const [judged] = await duck.rows<{ n: number }>('SELECT count(*) AS n FROM followed');
  const sum = (of: (one: Counts) => number) => rules.reduce((all, one) => all + of(one), 0);
  return {
    cases: judged?.n ?? 0,
    fired: sum(({ fired }) => fired),
    against: { definition: against ? 'given' : 'running', fired: sum(({ otherFired }) => otherFired) },
    rules: rules.map(({ otherFired, otherCases, ...one }) => ({ ...one, against: { fired: otherFired, cases: otherCases } })),
    violations: told.map((row) => ({ rule: row.rule, case: row.c, at: row.at, change: row.change, event: eventOfRow(row) })),
  };
}

interface Counts {
  readonly rule: string;
  readonly fired: number;
  readonly cases: number;
  readonly otherFired: number;
  readonly otherCases: number;
  readonly more: number;
  readonly fewer: number;
}

function assertSameEvents(running: ProcessConfig, definition: ProcessConfig): void {
  for (const part of ['name', 'root', 'objects', 'activities'] as const)
    if (!isDeepStrictEqual(JSON.parse(JSON.stringify(running[part])), JSON.parse(JSON.stringify(definition[part]))))
      throw new Fault(
        'config_invalid',
        `the definition differs from process ${running.name} in "${part === 'activities' ? 'events' : part}": a replay judges the events that are here by other rules`,
      );
}

async function judgeBy(duck: Duck, definition: ProcessConfig): Promise<void> {
  const learned = await learnTransitions(duck, definition);
  await new Verdicts(learned ? withLearned(definition, learned) : definition, 0).judgeAll(duck);
}

async function compare(duck: Duck): Promise<void> {
  const same = (a: string, b: string) =>
    `${a}.rule = ${b}.rule AND ${a}."case" = ${b}."case" AND ${a}.at_us = ${b}.at_us AND ${a}.source = ${b}.source AND ${a}.tick = ${b}.tick`;
  await duck.run(
    `CREATE TEMP TABLE _compared AS
       SELECT v.*, CASE WHEN EXISTS (FROM _other k WHERE ${same('k', 'v')}) THEN 'same' ELSE 'more' END AS change
         FROM violation v WHERE v.level = 'violation'
       UNION ALL
       SELECT k.*, 'fewer' FROM _other k WHERE NOT EXISTS (FROM violation v WHERE ${same('v', 'k')} AND v.level = 'violation')`,
  );
}
