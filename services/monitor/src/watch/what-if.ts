import { isDeepStrictEqual } from 'node:util';
import type { ProcessConfig } from '@tributary/config';
import { Fault } from '@tributary/core';
import { type Duck, duckIdent } from '@tributary/duckdb';
import { isoSql } from '../analysis/cases.ts';
import { learnTransitions, withLearned } from '../conformance/learned.ts';
import { VERDICT_TABLES } from '../conformance/kept.ts';
import { RECAST, Verdicts } from '../conformance/verdicts.ts';
import { type EventRow, eventColumns, eventOfRow, type FindingEvent } from './finding.ts';

/** What another definition would say of the cases that are here, beside what the running one says. */
export interface WhatIf {
  /** Of those with an event. */
  readonly cases: number;
  /** How often its rules would have fired in all. */
  readonly fired: number;
  readonly rules: readonly {
    readonly rule: string;
    readonly fired: number;
    readonly cases: number;
    /** Those that the running definition does not say, and those that it alone says. */
    readonly more: number;
    readonly fewer: number;
  }[];
  /** The newest first. */
  readonly violations: readonly {
    readonly rule: string;
    readonly case: string;
    /** ISO 8601. */
    readonly at: string;
    /** `more`: the running definition does not say so; `fewer`: it alone does. */
    readonly change: 'same' | 'more' | 'fewer';
    readonly event: FindingEvent;
  }[];
}

/**
 * Judges all cases that are here by another definition, at one moment and without touching anything: its verdicts go to tables of this
 * connection alone, which stand before those of the file under the same names. Costs what judging all cases costs, for as long.
 * @throws Fault `config_invalid` when the definition makes other events: those that are here say nothing of it then
 */
export async function whatIf(
  duck: Duck,
  running: ProcessConfig,
  { definition, limit }: { definition: ProcessConfig; limit: number },
): Promise<WhatIf> {
  for (const part of ['name', 'root', 'objects', 'activities'] as const)
    if (!isDeepStrictEqual(JSON.parse(JSON.stringify(running[part])), JSON.parse(JSON.stringify(definition[part]))))
      throw new Fault(
        'config_invalid',
        `the definition differs from process ${running.name} in "${part === 'activities' ? 'events' : part}": a replay judges the events that are here by other rules`,
      );
  const [here] = await duck.rows<{ name: string }>('SELECT current_database() AS name');
  const kept = `${duckIdent(here?.name ?? '')}.main.violation`;
  for (const table of VERDICT_TABLES) await duck.run(table.replace('CREATE TABLE IF NOT EXISTS', 'CREATE TEMP TABLE'));
  await duck.run(RECAST);
  const learned = await learnTransitions(duck, definition);
  const verdicts = new Verdicts(learned ? withLearned(definition, learned) : definition, 0);
  await verdicts.judgeAll(duck);
  const same = (a: string, b: string) =>
    `${a}.rule = ${b}.rule AND ${a}."case" = ${b}."case" AND ${a}.at_us = ${b}.at_us AND ${a}.source = ${b}.source AND ${a}.tick = ${b}.tick`;
  await duck.run(
    `CREATE TEMP TABLE _compared AS
       SELECT v.*, CASE WHEN EXISTS (FROM ${kept} k WHERE ${same('k', 'v')} AND k.level = 'violation') THEN 'same' ELSE 'more' END AS change
         FROM violation v WHERE v.level = 'violation'
       UNION ALL
       SELECT k.*, 'fewer' FROM ${kept} k WHERE k.level = 'violation'
          AND NOT EXISTS (FROM violation v WHERE ${same('v', 'k')} AND v.level = 'violation')`,
  );
  const rules = await duck.rows<WhatIf['rules'][number]>(
    `SELECT rule, count(*) FILTER (change <> 'fewer') AS fired, count(DISTINCT "case") FILTER (change <> 'fewer') AS cases,
            count(*) FILTER (change = 'more') AS more, count(*) FILTER (change = 'fewer') AS fewer
       FROM _compared GROUP BY rule ORDER BY rule`,
  );
  const told = await duck.rows<EventRow & { rule: string; at: string; change: 'same' | 'more' | 'fewer' }>(
    `SELECT rule, change, ${isoSql('at_us')} AS at, ${eventColumns('e')} FROM _compared e ORDER BY at_us DESC, source, tick, rule LIMIT ${limit}`,
  );
  const [judged] = await duck.rows<{ n: number }>('SELECT count(*) AS n FROM followed');
  return {
    cases: judged?.n ?? 0,
    fired: rules.reduce((sum, { fired }) => sum + fired, 0),
    rules,
    violations: told.map((row) => ({ rule: row.rule, case: row.c, at: row.at, change: row.change, event: eventOfRow(row) })),
  };
}
