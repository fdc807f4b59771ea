import { createWriteStream } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { once } from 'node:events';
import { registeredActors } from '@tributary/cluster';
import { configReading } from '@tributary/config';
import { askOne, Fault } from '@tributary/core';
import {
  allowedByBpmn,
  allowedText,
  answerImported,
  importedNames,
  importLog,
  type ProcessQuestion,
  type WhatIf,
} from '@tributary/monitor';
import { connect, type Connected, readAddresses, type Where } from '../addresses.ts';
import { type Output, table } from '../output.ts';
import { showProcess, showReplay } from '../process-tables.ts';
import { proposedProcesses } from '../proposed.ts';
import { stopSignal } from '@tributary/ops';

export interface ProcessOptions extends Where {
  readonly name?: string;
  readonly case?: string;
  readonly activity?: string;
  readonly time?: string;
  readonly root?: string;
  readonly from?: string;
  readonly to?: string;
  readonly object?: string;
  readonly minShare?: string;
  readonly limit?: string;
  readonly format?: string;
  readonly write?: string;
  readonly state?: string;
  readonly rule?: string;
  readonly ended?: string;
  readonly sort?: string;
  readonly window?: string;
  readonly against?: string;
  readonly alpha?: string;
  readonly file: readonly string[];
}

/** A map over a long history takes its time. */
const ANSWER_IDLE_MS = 120_000;
const QUESTIONS = [
  'problems',
  'map',
  'variants',
  'cases',
  'bottlenecks',
  'wip',
  'spectrum',
  'drift',
  'timeline',
  'export',
] as const;
const ACTIONS = ['list', 'discover', ...QUESTIONS, 'replay', 'import', 'allowed'].join(', ');

/** `tributary process ACTION [NAME or FILE] [REST]`; REST: of `timeline` the type and key of an object, of `spectrum` a segment. */
export async function processCommand(
  action: string,
  [subject, ...rest]: readonly string[],
  { options, output }: { options: ProcessOptions; output: Output },
): Promise<void> {
  if (action === 'list') return list(options, output);
  if (action === 'discover') return propose(options, output);
  if (!['import', 'replay', 'allowed'].includes(action) && !QUESTIONS.includes(action as ProcessQuestion['what']))
    throw new Fault('config_invalid', `there is no action "${action}"; actions: ${ACTIONS}`);
  if (subject === undefined) {
    throw new Fault(
      'config_invalid',
      `tributary process ${action} needs ${action === 'import' || action === 'allowed' ? 'a FILE' : 'the NAME of a process'}`,
    );
  }
  if (action === 'import') return importFile(subject, options, output);
  if (action === 'allowed') return allowedBy(subject, options, output);
  if (action === 'replay') return replay(subject, options, output);
  const question = questionOf(action as ProcessQuestion['what'], rest, options);
  if (question.what === 'export' || (question.format ?? 'json') !== 'json')
    return exportTo(subject, question, { options, output });
  const answer = await whole(ask(subject, question, options));
  if (output.json) output.value(question.what === 'map' ? { process: subject, ...(answer as object) } : answer);
  else showProcess(question.what, answer, output);
  const { freshness, learnedAt } = answer as { freshness?: { completeTo: string | null }; learnedAt?: string };
  if (freshness && !output.json) process.stderr.write(`Complete to: ${freshness.completeTo ?? 'nothing yet'}\n`);
  if (learnedAt !== undefined && !output.json)
    process.stderr.write(`What is stuck, missing, silent or drifting: as seen at ${learnedAt}\n`);
}

/** Lists may come in several parts. */
async function whole(parts: AsyncIterable<unknown>): Promise<unknown> {
  let answer: Record<string, unknown> = {};
  for await (const part of parts) {
    for (const [name, value] of Object.entries(part as object)) {
      const before = answer[name];
      answer = { ...answer, [name]: Array.isArray(before) ? [...before, ...(value as unknown[])] : value };
    }
  }
  return answer;
}

function questionOf(what: ProcessQuestion['what'], rest: readonly string[], options: ProcessOptions): ProcessQuestion {
  const { from, to, object, state, rule, case: key } = options;
  const format = options.format ?? (what === 'export' ? 'ocel2-json' : undefined);
  if (what === 'timeline' && rest.length !== 2) throw new Fault('config_invalid', 'tributary process timeline NAME TYPE KEY');
  if (what === 'spectrum' && rest.length !== 1)
    throw new Fault('config_invalid', 'tributary process spectrum NAME "ACTIVITY>ACTIVITY"');
  const minShare = options.minShare === undefined ? undefined : Number(options.minShare);
  if (minShare !== undefined && !(minShare >= 0 && minShare <= 1))
    throw new Fault('config_invalid', '--min-share is a number from 0 to 1');
  return {
    what,
    ...(from === undefined ? {} : { from }),
    ...(to === undefined ? {} : { to }),
    ...(object === undefined ? {} : { object }),
    ...(state === undefined ? {} : { state }),
    ...(rule === undefined ? {} : { rule }),
    ...(key === undefined ? {} : { case: key }),
    ...(minShare === undefined ? {} : { minShare }),
    ...(options.limit === undefined ? {} : { limit: Number(options.limit) }),
    ...(format === undefined ? {} : { format }),
    ...(what === 'timeline' ? { object: rest[0] as string, key: rest[1] as string } : {}),
    ...(what === 'spectrum' ? { segment: rest[0] as string } : {}),
    ...(options.ended === undefined ? {} : { ended: options.ended === 'true' }),
    ...(options.sort === undefined ? {} : { sort: options.sort as 'newest' }),
    ...(options.window === undefined ? {} : { window: options.window }),
    ...(options.against === undefined ? {} : { against: options.against }),
    ...(options.alpha === undefined ? {} : { alpha: Number(options.alpha) }),
  };
}

/** An imported log is answered from its file, and needs nothing that runs; a declared process by the worker that runs it. */
async function* ask(name: string, question: ProcessQuestion, options: Where): AsyncGenerator<unknown> {
  const imported = answerImported(options.data, name, question);
  if (imported) return yield* imported;
  const connected = await running(options);
  try {
    const declared = connected ? await declaredNames(connected) : [];
    if (!connected || !declared.includes(name)) {
      const there = [...declared, ...(await importedNames(options.data))].join(', ') || 'none';
      throw new Fault('not_found', `there is no process ${name}. Processes: ${there}`);
    }
    const { bus } = connected.broker;
    for await (const part of bus.ask(`tributary.process.${name}.ask`, question, { idleMs: ANSWER_IDLE_MS })) yield part;
  } finally {
    await connected?.broker.close();
  }
}

/** What a changed definition would have said of the cases that are here. */
async function replay(name: string, options: ProcessOptions, output: Output): Promise<void> {
  if (options.file.length === 0) throw new Fault('config_invalid', 'tributary process replay NAME -f FILE');
  const { processesOf, readFiles } = await configReading();
  const connected = await connect(options);
  try {
    const { bus, changelogs } = connected.broker;
    const there = await changelogs.list();
    const definedIn = async (files: readonly string[]) => {
      const configs = (await readFiles(files)).flatMap((file) => processesOf(file, there, 'passed over'));
      const config = configs.find((one) => one.name === name);
      if (!config) throw new Fault('config_invalid', `the files hold no document of kind: Process with the name ${name}`);
      return config;
    };
    const config = await definedIn(options.file);
    const against = options.against === undefined ? {} : { against: await definedIn([options.against]) };
    const limit = options.limit === undefined ? {} : { limit: Number(options.limit) };
    const subject = `tributary.process.${name}.replay`;
    const told = await askOne<WhatIf>(bus, subject, { config, ...against, ...limit }, { idleMs: ANSWER_IDLE_MS });
    if (output.json) output.value({ process: name, ...told });
    else showReplay(told, output);
  } finally {
    await connected.broker.close();
  }
}

/** What a BPMN file allows, as a definition writes it. */
async function allowedBy(file: string, { object, write }: ProcessOptions, output: Output): Promise<void> {
  if (object === undefined)
    throw new Fault('config_invalid', 'tributary process allowed FILE --object TYPE: whose states are its tasks?');
  const transitions = allowedByBpmn(file, await readFile(file, 'utf8'), object);
  const allowed = allowedText(transitions);
  const yaml = `allowed:\n  ${object}: ${JSON.stringify(allowed)}\n`;
  if (write !== undefined) await writeFile(write, yaml);
  if (output.json) output.value({ object, allowed, transitions, ...(write === undefined ? {} : { file: write }) });
  else output.line(write === undefined ? yaml.trimEnd() : `Wrote ${write}: ${transitions.length} changes of state.`);
}

/** @returns null where nothing runs: imported logs are there all the same */
async function running(where: Where): Promise<Connected | null> {
  return where.nats === undefined && (await readAddresses(where.data)) === null ? null : connect(where);
}

async function declaredNames({ broker }: Connected): Promise<string[]> {
  const actors = await registeredActors(broker.kv);
  return actors
    .flatMap(({ name, kind }) => (kind === 'query' && name.startsWith('process.') ? [name.slice('process.'.length)] : []))
    .toSorted();
}

async function list(options: Where, output: Output): Promise<void> {
  const connected = await running(options);
  try {
    const declared = connected ? await declaredNames(connected) : [];
    const processes = [
      ...declared.map((name) => ({ name, kind: 'declared' })),
      ...(await importedNames(options.data)).map((name) => ({ name, kind: 'imported' })),
    ];
    if (output.json) output.value({ processes });
    else
      output.line(
        table(
          ['process', 'kind'],
          processes.map(({ name, kind }) => [name, kind]),
        ),
      );
  } finally {
    await connected?.broker.close();
  }
}

/** Proposes processes from what the changelogs hold: the best one as YAML, to stdout or with `--write` to a file. */
async function propose(options: ProcessOptions, output: Output): Promise<void> {
  const connected = await connect(options);
  try {
    const told = await proposedProcesses(connected, stopSignal());
    const [best, ...others] = told;
    if (!best)
      throw new Fault('not_found', 'the changelogs show no process: no table has a state that changes in at least five objects');
    if (options.write !== undefined) await writeFile(options.write, best.yaml);
    if (output.json) return output.value({ proposals: told, ...(options.write === undefined ? {} : { file: options.write }) });
    if (options.write === undefined) output.line(best.yaml.trimEnd());
    else output.line(`Wrote ${options.write}: ${best.name}, ${best.evidence}.`);
    for (const { name, score, evidence } of others)
      process.stderr.write(`Also possible: ${name} (${score.toFixed(2)}): ${evidence}\n`);
  } finally {
    await connected.broker.close();
  }
}

async function importFile(path: string, options: ProcessOptions, output: Output): Promise<void> {
  const columns = {
    ...(options.case === undefined ? {} : { case: options.case }),
    ...(options.activity === undefined ? {} : { activity: options.activity }),
    ...(options.time === undefined ? {} : { time: options.time }),
  };
  const name = await importLog(path, {
    dataDir: options.data,
    columns,
    ...(options.name === undefined ? {} : { name: options.name }),
    ...(options.root === undefined ? {} : { root: options.root }),
  });
  const map = await whole(ask(name, { what: 'map' }, options));
  if (output.json) return output.value({ process: name, ...(map as object) });
  output.line(`Imported as ${name}.`);
  showProcess('map', map, output);
}

/** Text: an export, or a picture. To stdout, or with `--write` to a file. */
async function exportTo(
  name: string,
  question: ProcessQuestion,
  { options, output }: { options: ProcessOptions; output: Output },
): Promise<void> {
  const target = options.write === undefined ? process.stdout : createWriteStream(options.write);
  for await (const part of ask(name, question, options)) {
    if (!target.write((part as { text: string }).text)) await once(target, 'drain');
  }
  if (options.write === undefined) return;
  target.end();
  await once(target, 'finish');
  if (output.json) output.value({ process: name, format: question.format, file: options.write });
  else output.line(`Wrote ${options.write}.`);
}
