import { readdir, readFile, stat } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Fault } from '@tributary/core';
import { visit } from 'yaml';
import { assemble, checkKpis, checkProcesses } from './assemble.ts';
import { check, type Checked, type Complaint, parse, type Parsed, placeText } from './checked.ts';
import type { Config } from './config.ts';
import { type KpiConfig, kpiOf } from './kpi.ts';
import { type KpiTest, testOf } from './kpi-tests.ts';
import { bundleModules } from './modules.ts';
import { type ProcessConfig, processOf } from './process.ts';

export interface LoadOptions {
  /** Values of `${env:NAME}`. */
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** One file of YAML documents, as written: references to secrets are not filled in. */
export interface ConfigFile {
  readonly name: string;
  readonly text: string;
  /** References to secrets in it stay as they are written: whoever sent it may not read secrets. */
  readonly verbatim?: true;
}

/**
 * Reads files and folders of YAML documents into one checked config.
 * @throws Fault `config_invalid` that lists every complaint as `file:line:column: what is wrong`
 */
export async function loadConfig(paths: readonly string[], options: LoadOptions): Promise<Config> {
  return configOf(await readFiles(paths), options);
}

/**
 * The YAML files, and behind them the modules that they name.
 * @throws Fault `config_invalid` when a file or folder is not there, or a module cannot be understood
 */
export async function readFiles(paths: readonly string[]): Promise<ConfigFile[]> {
  const names = await files(paths);
  const read = await Promise.all(names.map(async (name) => ({ name, text: await readFile(name, 'utf8') })));
  return [...read, ...(await bundleModules(read.flatMap(modulesIn)))];
}

/** Modules that the steps of a file name; what is wrong with it otherwise is found out later. */
function modulesIn({ name: file, text }: ConfigFile): { file: string; module: string }[] {
  return parse(file, text, []).flatMap(({ document }) => {
    const { kind, steps } = (document.toJS() ?? {}) as { kind?: unknown; steps?: unknown };
    if (kind !== 'Transform' || !Array.isArray(steps)) return [];
    return steps.flatMap((step) => {
      const module = (step as { module?: unknown } | null)?.module;
      return typeof module === 'string' ? [{ file, module }] : [];
    });
  });
}

/** The same from files that were read before. @throws Fault `config_invalid` */
export function configOf(given: readonly ConfigFile[], options: LoadOptions): Config {
  const complaints: Complaint[] = [];
  const documents: Checked[] = [];
  for (const { name, text, verbatim } of given) {
    for (const document of parse(name, text, complaints)) {
      if (!verbatim) substitute(document, options, complaints);
      const checked = check(document, complaints);
      if (checked) documents.push(checked);
    }
  }
  const config = assemble(documents, complaints);
  if (complaints.length > 0) refuse(complaints);
  return config;
}

/**
 * The config of some files, and of documents beside them whatever fits: one that does not must not keep the rest from running.
 * @returns also which did not fit, and why
 * @throws Fault `config_invalid` where the files are wrong by themselves
 */
export function configWith(
  files: readonly ConfigFile[],
  documents: readonly ConfigFile[],
  options: LoadOptions,
): { readonly config: Config; readonly unfit: readonly { readonly name: string; readonly reason: string }[] } {
  let config = configOf(files, options);
  const fitting = [...files];
  const unfit: { name: string; reason: string }[] = [];
  for (const document of documents) {
    try {
      config = configOf([...fitting, document], options);
      fitting.push(document);
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      unfit.push({ name: document.name, reason: error.message });
    }
  }
  return { config, unfit };
}

/**
 * Definitions of KPIs alone, as somebody sends them who may not read secrets: nothing is filled in.
 * @param changelogs sources and transforms that there are
 * @throws Fault `config_invalid` as {@link configOf}
 */
export function kpisOf(given: ConfigFile, changelogs: readonly string[]): KpiConfig[] {
  const complaints: Complaint[] = [];
  const checked = allOf('Kpi', parse(given.name, given.text, complaints), complaints);
  const named = changelogs.map((name) => ({ name }));
  checkKpis(checked, { sources: named, transforms: [], sinks: [], hooks: null, tokens: null }, complaints);
  if (complaints.length > 0) refuse(complaints);
  return checked.flatMap((one) => (one.kind === 'Kpi' ? [kpiOf(one.value, (path) => placeText(one.at(path)))] : []));
}

/**
 * The same of processes.
 * @param others what becomes of documents of other kinds: a file holds them beside, what somebody sends must not
 */
export function processesOf(
  given: ConfigFile,
  changelogs: readonly string[],
  others: 'refused' | 'passed over' = 'refused',
): ProcessConfig[] {
  const complaints: Complaint[] = [];
  const parsed = parse(given.name, given.text, complaints);
  const own = parsed.filter(({ document }) => (document.toJS() as { kind?: unknown } | null)?.kind === 'Process');
  const checked =
    others === 'refused' ? allOf('Process', parsed, complaints) : own.flatMap((document) => check(document, complaints) ?? []);
  const named = changelogs.map((name) => ({ name }));
  checkProcesses(checked, { sources: named, transforms: [], sinks: [], kpis: [], hooks: null }, complaints);
  if (complaints.length > 0) refuse(complaints);
  return checked.flatMap((one) => (one.kind === 'Process' ? [processOf(one.value)] : []));
}

/** Documents of one kind; of another one, and of none, is complained. */
function allOf(kind: 'Kpi' | 'Process', parsed: readonly Parsed[], complaints: Complaint[]): Checked[] {
  const checked = parsed.flatMap((document) => check(document, complaints) ?? []);
  for (const { kind: other, place } of checked)
    if (other !== kind) complaints.push({ ...place, message: `expected kind: ${kind}, not ${other}` });
  if (checked.length === 0 && complaints.length === 0)
    complaints.push({ file: parsed[0]?.file ?? 'body', message: `expected a document of kind: ${kind}` });
  return checked;
}

/** A definition, and what it is to say of its fixtures. */
export interface TestedKpi {
  readonly config: KpiConfig;
  /** Its file; fixtures are named beside it. */
  readonly file: string;
  readonly tests: readonly KpiTest[];
}

/**
 * The definitions of KPIs among some files, with their tests. Nothing is filled in, and whether there are such sources is not asked:
 * their tables are those of the fixtures.
 * @throws Fault `config_invalid` as {@link configOf}
 */
export async function testedKpis(paths: readonly string[]): Promise<TestedKpi[]> {
  const complaints: Complaint[] = [];
  const found: TestedKpi[] = [];
  for (const { name, text } of await readFiles(paths))
    for (const parsed of parse(name, text, complaints)) {
      if ((parsed.document.toJS() as { kind?: unknown } | null)?.kind !== 'Kpi') continue;
      const one = check(parsed, complaints);
      if (one?.kind !== 'Kpi') continue;
      const config = kpiOf(one.value, (path) => placeText(one.at(path)));
      found.push({ config, file: name, tests: one.value.tests.map(testOf) });
    }
  if (complaints.length > 0) refuse(complaints);
  return found;
}

function refuse(complaints: readonly Complaint[]): never {
  const lines = complaints.map((c) => `${c.file}${c.line === undefined ? '' : `:${c.line}:${c.column}`}: ${c.message}`);
  throw new Fault('config_invalid', lines.join('\n'), { complaints: lines.length });
}

async function files(paths: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const path of paths) {
    try {
      if (!(await stat(path)).isDirectory()) found.push(path);
      else {
        const names = (await readdir(path)).filter((name) => /\.ya?ml$/.test(name)).toSorted();
        if (names.length === 0) throw new Error('the folder holds no .yaml file');
        found.push(...names.map((name) => join(path, name)));
      }
    } catch (error) {
      const missing = (error as { code?: string }).code === 'ENOENT';
      throw new Fault(
        'config_invalid',
        `${path}: ${missing ? 'there is no such file or folder' : (error as Error).message}`,
        {},
        { cause: error },
      );
    }
  }
  return found;
}

/** Fills in `${env:NAME}` and `${file:PATH}`: secrets are named in config, never written into it. */
function substitute({ file, document, lines }: Parsed, options: LoadOptions, complaints: Complaint[]): void {
  visit(document, {
    Scalar(key, node) {
      if (key === 'key' || typeof node.value !== 'string') return;
      node.value = node.value.replaceAll(/\$\{(env|file):([^}]*)\}/g, (_whole, kind: string, name: string) => {
        const value = kind === 'env' ? options.env[name] : readSecret(name);
        if (value !== undefined) return value;
        const { line, col } = lines.linePos(node.range?.[0] ?? 0);
        const message = kind === 'env' ? `environment variable ${name} is not set` : `file ${name} cannot be read`;
        complaints.push({ file, line, column: col, message });
        return '';
      });
    },
  });
}

function readSecret(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trimEnd();
  } catch {
    return undefined;
  }
}
