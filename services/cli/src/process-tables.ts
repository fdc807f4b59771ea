import {
  type Bottleneck,
  type Drift,
  type FoundCase,
  durationText,
  type JudgedCase,
  type ObjectMap,
  type Problem,
  type ProcessCase,
  type ProcessMap,
  type ProcessQuestion,
  type Spectrum,
  type Timeline,
  type Variant,
  type WhatIf,
  type WorkInProgress,
} from '@tributary/monitor';
import { type Output, table } from './output.ts';

/** Prints an answer about a process for people. */
export function showProcess(what: ProcessQuestion['what'], answer: unknown, output: Output): void {
  if (what === 'map' && 'objects' in (answer as object)) showObjectMap(answer as ObjectMap, output);
  else if (what === 'map') showMap(answer as ProcessMap, output);
  else if (what === 'variants') showVariants((answer as { variants: readonly Variant[] }).variants, output);
  else if (what === 'cases') showCases((answer as { cases: readonly (ProcessCase | JudgedCase | FoundCase)[] }).cases, output);
  else if (what === 'problems') showProblems((answer as { problems: readonly Problem[] }).problems, output);
  else if (what === 'bottlenecks') showBottlenecks((answer as { activities: readonly Bottleneck[] }).activities, output);
  else if (what === 'wip') showWip(answer as WorkInProgress, output);
  else if (what === 'spectrum') showSpectrum(answer as Spectrum, output);
  else if (what === 'drift') showDrift(answer as Drift, output);
  else if (what === 'timeline') showTimeline(answer as Timeline, output);
}

function showProblems(problems: readonly Problem[], output: Output): void {
  const rows = problems.map(({ rule, severity, words, cases, newest }) => [
    rule,
    cases === 0 ? 'kept by all' : severity,
    words,
    cases,
    newest.flatMap((one) => one.case ?? []).join(', '),
  ]);
  output.line(table(['rule', '', 'what went wrong, or is kept', 'cases', 'newest'], rows));
}

function showVariants(variants: readonly Variant[], output: Output): void {
  const rows = variants.map((one) => [one.cases, percent(one.share), durationText(one.medianMs), one.activities.join(' → ')]);
  output.line(table(['cases', 'share', 'median', 'variant'], rows));
}

function showCases(cases: readonly (ProcessCase | JudgedCase | FoundCase)[], output: Output): void {
  const found = cases.filter((one): one is FoundCase => 'findings' in one);
  if (found.length > 0) return showFound(found, output);
  const judged = cases.filter((one): one is JudgedCase => 'state' in one);
  if (judged.length > 0) return showJudged(judged, output);
  const rows = (cases as readonly ProcessCase[]).map((one) => [
    one.case,
    one.events,
    one.activity,
    one.first,
    one.last,
    durationText(one.durationMs),
    one.waitingMs === null ? '' : durationText(one.waitingMs),
  ]);
  output.line(table(['case', 'events', 'last activity', 'first', 'last', 'took', 'waits'], rows));
}

function showFound(cases: readonly FoundCase[], output: Output): void {
  const rows = cases.map(({ case: own, activity, last, findings }) => [
    own,
    activity,
    last,
    findings.map(({ verdict, at, reason }) => `${verdict === 'unknown' ? 'unknown: ' : ''}${reason} (${at})`).join('; '),
  ]);
  output.line(table(['case', 'last activity', 'last', 'what is unusual'], rows));
}

export function showReplay({ cases, fired, against, rules, violations }: WhatIf, output: Output): void {
  const [would, other] = against.definition === 'running' ? ['fired', 'now'] : ['would have fired', 'the other'];
  output.line(
    `It would have fired ${fired} times in ${cases} cases; ${other === 'now' ? 'the running definition' : other} ${would} ${against.fired} times.\n`,
  );
  const counts = rules.map((one) => [one.rule, one.fired, one.cases, one.against.fired, one.against.cases, one.more, one.fewer]);
  output.line(table(['rule', 'fired', 'cases', `fired, ${other}`, `cases, ${other}`, 'more', 'fewer'], counts));
  const told = violations.map(({ change, rule, case: own, at, event }) => [change, rule, own, at, event.activity]);
  output.line(`\n${table(['', 'rule', 'case', 'at', 'event'], told)}`);
}

function showJudged(cases: readonly JudgedCase[], output: Output): void {
  const rows = cases.map(({ case: own, state, activity, last, durationMs, violations, owed }) => [
    own,
    violations.some(({ level }) => level === 'violation') ? `${state}, violated` : state,
    activity,
    last,
    durationText(durationMs),
    [
      ...violations.map(({ rule, level, at }) => `${rule} ${level === 'warning' ? 'warned' : 'violated'} at ${at}`),
      ...owed.map(
        ({ rule, due, reason }) =>
          `${rule} owed${due === null ? '' : ` by ${due}`}${reason === null ? '' : `, unknown: ${reason}`}`,
      ),
    ].join('; '),
  ]);
  output.line(table(['case', 'state', 'last activity', 'last', 'took', 'rules'], rows));
}

function showMap(map: ProcessMap, output: Output): void {
  output.line(
    `${map.cases} cases, ${map.events} events, ${map.variants} variants, ${Object.keys(map.activities).length} activities\n`,
  );
  const rows = map.edges.map((edge) => [edge.from, edge.to, edge.count, durationText(edge.medianMs), durationText(edge.p95Ms)]);
  output.line(table(['from', 'to', 'count', 'median', 'p95'], rows));
  const counts = (record: Readonly<Record<string, number>>) =>
    Object.entries(record)
      .map(([name, n]) => `${name} (${n})`)
      .join(', ');
  output.line(`\nStart: ${counts(map.start)}\nEnd: ${counts(map.end)}`);
}

function showObjectMap({ objects, edges }: ObjectMap, output: Output): void {
  output.line(`Objects: ${objects.map(({ object, uniqueObjects }) => `${object} (${uniqueObjects})`).join(', ')}\n`);
  const rows = edges.map((one) => [
    one.object,
    one.from,
    one.to,
    one.couples,
    one.uniqueObjects,
    one.totalObjects,
    durationText(one.medianMs),
    durationText(one.p95Ms),
  ]);
  output.line(table(['object', 'from', 'to', 'couples', 'unique objects', 'total objects', 'median', 'p95'], rows));
}

function showBottlenecks(activities: readonly Bottleneck[], output: Output): void {
  const rows = activities.map(({ activity, share, after, waiting, rework }) => [
    activity,
    percent(share),
    after ? durationText(after.medianMs) : '',
    after ? durationText(after.p95Ms) : '',
    waiting.cases,
    waiting.longestMs === null ? '' : durationText(waiting.longestMs),
    rework.repeats,
  ]);
  output.line(table(['after', 'of all time', 'median', 'p95', 'wait now', 'longest', 'repeats'], rows));
}

function showWip({ times, activities }: WorkInProgress, output: Output): void {
  const rows = activities.map(({ activity, cases }) => [activity, cases[0] ?? 0, Math.max(...cases), cases.at(-1) ?? 0]);
  output.line(table(['after', `at ${times[0] ?? 'the beginning'}`, 'at most', `at ${times.at(-1) ?? 'the end'}`], rows));
}

function showSpectrum({ from, to, total, quartilesMs, steps }: Spectrum, output: Output): void {
  const [quarter, half, three] = quartilesMs.map(durationText);
  output.line(
    `${from} → ${to}: ${total} times${total > 0 ? `; a quarter within ${quarter}, half ${half}, three quarters ${three}` : ''}\n`,
  );
  const slowest = steps.toSorted((a, b) => b.ms - a.ms).slice(0, 10);
  output.line(
    table(
      ['slowest from', 'took'],
      slowest.map(({ at, ms }) => [at, durationText(ms)]),
    ),
  );
}

function showDrift({ since, split, until, edges, durations, changed }: Drift, output: Output): void {
  if (since === null) return output.line('Nothing has happened yet.');
  const verdict = (drifted: boolean) => (drifted ? 'DRIFTED' : 'as before');
  output.line(`${split} to ${until}, compared with ${since} to ${split}\n`);
  output.line(`Ways: ${verdict(edges.drifted)} (G = ${edges.g.toFixed(2)}, df = ${edges.df}, p = ${edges.p.toPrecision(3)})\n`);
  const ways = changed.map(({ from, to, before, now }) => [from, to, percent(before), percent(now)]);
  output.line(table(['from', 'to', 'share before', 'share now'], ways));
  const paces = durations.map(({ from, to, before, now, d, p, drifted }) => [
    from,
    to,
    durationText(before.medianMs),
    durationText(now.medianMs),
    d.toFixed(3),
    p.toPrecision(3),
    verdict(drifted),
  ]);
  output.line(`\n${table(['from', 'to', 'median before', 'now', 'D', 'p', 'pace'], paces)}`);
}

function showTimeline({ object, key, state, alive, events }: Timeline, output: Output): void {
  output.line(`${object} ${key}${state === null ? '' : `: ${state}`}${alive === false ? ', deleted' : ''}\n`);
  const rows = events.map((one) => [
    one.at,
    one.activity,
    `${one.object} ${one.key}`,
    one.before ?? '',
    one.after ?? '',
    one.source,
    `${one.lsn}+${one.ordinal}`,
  ]);
  output.line(table(['at', 'activity', 'object', 'before', 'after', 'source', 'position'], rows));
}

const percent = (share: number) => `${(share * 100).toFixed(1)} %`;
