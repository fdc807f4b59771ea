import { readdir, readFile, stat } from 'node:fs/promises';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Fault } from '@tributary/core';
import { type Document, isScalar, LineCounter, parseAllDocuments, visit } from 'yaml';
import type { z } from 'zod';
import { type Config, inputsOf, lookupsOf, type SinkConfig, type SourceConfig } from './config.ts';
import { eventsSinkOf } from './events.ts';
import * as kinds from './kinds.ts';
import { bundleModules, moduleName } from './modules.ts';
import { stepOf, type TransformConfig } from './transforms.ts';
import { type HookConfig, type HookDocument, hook, hookOf } from './hooks.ts';
import { kpi, type KpiConfig, type KpiDocument, kpiOf } from './kpi.ts';
import { process, PROCESS_NOT_BUILT, type ProcessConfig, type ProcessDocument, processOf } from './process.ts';

export interface LoadOptions {
  /** Values of `${env:NAME}`. */
  readonly env: Readonly<Record<string, string | undefined>>;
}

interface Place {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

interface Complaint extends Partial<Place> {
  readonly file: string;
  readonly message: string;
}

/** One file of YAML documents, as written: references to secrets are not filled in. */
export interface ConfigFile {
  readonly name: string;
  readonly text: string;
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
  for (const { name, text } of given) {
    for (const document of parse(name, text, complaints)) {
      substitute(document, options, complaints);
      const checked = check(document, complaints);
      if (checked) documents.push(checked);
    }
  }
  const config = assemble(documents, complaints);
  if (complaints.length > 0) refuse(complaints);
  return config;
}

/**
 * Definitions of KPIs alone, as somebody sends them who may not read secrets: nothing is filled in.
 * @param changelogs sources and transforms that there are
 * @throws Fault `config_invalid` as {@link configOf}
 */
export function kpisOf(given: ConfigFile, changelogs: readonly string[]): KpiConfig[] {
  const complaints: Complaint[] = [];
  const checked = parse(given.name, given.text, complaints).flatMap((document) => check(document, complaints) ?? []);
  for (const { kind, place } of checked)
    if (kind !== 'Kpi') complaints.push({ ...place, message: `expected kind: Kpi, not ${kind}` });
  const named = changelogs.map((name) => ({ name }));
  checkKpis(checked, { sources: named, transforms: [], sinks: [], hooks: null }, complaints);
  if (checked.length === 0 && complaints.length === 0)
    complaints.push({ file: given.name, message: 'expected a document of kind: Kpi' });
  if (complaints.length > 0) refuse(complaints);
  return checked.flatMap((one) => (one.kind === 'Kpi' ? [kpiOf(one.value, (path) => placeText(one.at(path)))] : []));
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

interface Parsed {
  readonly file: string;
  readonly document: Document;
  readonly lines: LineCounter;
}

/** The documents of one text that are YAML; what is not is complained of. */
export function parse(file: string, text: string, complaints: Complaint[]): Parsed[] {
  const lines = new LineCounter();
  const parsed = parseAllDocuments(text, { lineCounter: lines, uniqueKeys: true });
  if (!Array.isArray(parsed)) return [];
  const documents: Parsed[] = [];
  for (const document of parsed) {
    for (const error of document.errors) {
      const { line, col } = lines.linePos(error.pos[0]);
      complaints.push({
        file,
        line,
        column: col,
        message: error.message.split('\n')[0]?.replace(/ at line .*$/, '') ?? 'bad YAML',
      });
    }
    if (document.errors.length === 0 && document.contents !== null) documents.push({ file, document, lines });
  }
  return documents;
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

type Checked = { readonly place: Place } & (
  | { readonly kind: 'Cluster'; readonly value: kinds.ClusterDocument }
  | { readonly kind: 'Source'; readonly value: kinds.SourceDocument }
  | { readonly kind: 'Ods'; readonly value: kinds.OdsDocument }
  | { readonly kind: 'Lake'; readonly value: kinds.LakeDocument }
  | { readonly kind: 'Events'; readonly value: kinds.EventsDocument }
  | { readonly kind: 'Transform'; readonly value: kinds.TransformDocument; readonly steps: readonly Place[] }
  | { readonly kind: 'Module'; readonly value: kinds.ModuleDocument }
  | { readonly kind: 'Hook'; readonly value: HookDocument }
  | { readonly kind: 'Kpi'; readonly value: KpiDocument; readonly at: (path: readonly string[]) => Place }
  | { readonly kind: 'Process'; readonly value: ProcessDocument; readonly at: (path: readonly string[]) => Place }
);

function check(parsed: Parsed, complaints: Complaint[]): Checked | null {
  const place = placeOf(parsed, []);
  const complain = (message: string, path: readonly PropertyKey[] = []) => {
    complaints.push({ ...placeOf(parsed, path), message });
    return null;
  };
  const value: unknown = parsed.document.toJS();
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return complain('expected a document with a key "kind"');
  const { kind, type } = value as { kind?: unknown; type?: unknown };
  const run = <Schema extends z.ZodType>(schema: Schema): z.output<Schema> | null => {
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    for (const issue of result.error.issues) explain(issue, complain);
    return null;
  };
  if (kind === 'Cluster') return wrap('Cluster', place, run(kinds.cluster));
  if (kind === 'Source') {
    const unbuilt = ['columns', 'rows', 'http'].filter((key) => key in value);
    if (unbuilt.length > 0) return complain(`"${unbuilt.join('", "')}" of a Source is not built yet`, [unbuilt[0] as string]);
    return wrap('Source', place, run(kinds.source));
  }
  if (kind === 'Transform') {
    const value = run(kinds.transform);
    const steps = value?.steps.map((step, i) => placeOf(parsed, ['steps', i, Object.keys(step)[0] as string])) ?? [];
    return value && { kind, place, value, steps };
  }
  if (kind === 'Sink') {
    if (type === 'ods') return wrap('Ods', place, run(kinds.odsSink));
    if (type === 'lake' && 'partitions' in value) return complain(kinds.LAKE_IS_WHOLE, ['partitions']);
    if (type === 'lake') return wrap('Lake', place, run(kinds.lakeSink));
    if (type === 'events') return wrap('Events', place, run(kinds.eventsSink));
    return complain('a Sink needs type: ods, lake or events', ['type']);
  }
  if (kind === 'Module') return wrap('Module', place, run(kinds.module));
  if (kind === 'Hook') return wrap('Hook', place, run(hook));
  if (kind === 'Kpi') {
    const document = run(kpi);
    return document && { kind: 'Kpi', place, value: document, at: (path) => placeOf(parsed, path) };
  }
  if (kind === 'Process') {
    const unbuilt = PROCESS_NOT_BUILT.filter((key) => key in value);
    if (unbuilt.length > 0) return complain(`"${unbuilt.join('", "')}" of a Process is not built yet`, [unbuilt[0] as string]);
    const document = run(process);
    return document && { kind: 'Process', place, value: document, at: (path) => placeOf(parsed, path) };
  }
  return complain('expected kind: Cluster, Source, Transform, Sink, Kpi, Process or Hook', ['kind']);
}

function wrap<Kind extends Exclude<Checked['kind'], 'Kpi' | 'Process'>>(
  kind: Kind,
  place: Place,
  value: unknown,
): Checked | null {
  return value === null ? null : ({ kind, place, value } as Checked);
}

function explain(issue: z.core.$ZodIssue, complain: (message: string, path: readonly PropertyKey[]) => null): void {
  const at = issue.path.join('.');
  if (issue.code === 'unrecognized_keys') {
    for (const key of issue.keys) complain(`unknown key "${at ? `${at}.` : ''}${key}"`, [...issue.path, key]);
  } else if (issue.code === 'invalid_type' && issue.input === undefined && /received undefined/.test(issue.message)) {
    complain(`"${at}" is missing`, issue.path);
  } else {
    const message = issue.code === 'invalid_key' ? (issue.issues[0]?.message ?? issue.message) : issue.message;
    complain(at ? `"${at}": ${message}` : message, issue.path);
  }
}

/** The nearest node to a path: the key itself where there is one, else what should contain it. */
function placeOf({ file, document, lines }: Parsed, path: readonly PropertyKey[]): Place {
  let offset = document.contents?.range?.[0] ?? 0;
  for (let depth = path.length; depth > 0; depth--) {
    const parent = document.getIn(path.slice(0, depth - 1), true) as { items?: { key?: unknown }[] } | undefined;
    const pair = parent?.items?.find((item) => isScalar(item.key) && item.key.value === path[depth - 1]);
    const node = pair?.key ?? (document.getIn(path.slice(0, depth), true) as unknown);
    const range = (node as { range?: number[] } | undefined)?.range;
    if (range) {
      offset = range[0] as number;
      break;
    }
  }
  const { line, col } = lines.linePos(offset);
  return { file, line, column: col };
}

function assemble(documents: readonly Checked[], complaints: Complaint[]): Config {
  const named = new Map<string, Place>();
  const sources: SourceConfig[] = [];
  const transforms: TransformConfig[] = [];
  const sinks: SinkConfig[] = [];
  const kpis: KpiConfig[] = [];
  const processes: ProcessConfig[] = [];
  const hooks: HookConfig[] = [];
  let cluster: kinds.ClusterDocument | null = null;
  const modules = new Map(documents.flatMap((one) => (one.kind === 'Module' ? [[one.value.name, one.value.code] as const] : [])));
  for (const document of documents) {
    if (document.kind === 'Cluster') {
      if (cluster) complaints.push({ ...document.place, message: 'there may be only one document of kind: Cluster' });
      cluster = document.value;
      continue;
    }
    if (document.kind === 'Module') continue;
    const id = `${idKind(document.kind)} ${document.value.name}`;
    const before = named.get(id);
    if (before) complaints.push({ ...document.place, message: `${id} is already defined at ${before.file}:${before.line}` });
    named.set(id, document.place);
    if (document.kind === 'Source') sources.push(sourceOf(document.value));
    else if (document.kind === 'Transform') transforms.push(transformOf(document, modules, complaints));
    else if (document.kind === 'Hook') hooks.push(hookOf(document.value));
    else if (document.kind === 'Kpi') kpis.push(kpiOf(document.value, (path) => placeText(document.at(path))));
    else if (document.kind === 'Process') processes.push(processOf(document.value));
    else sinks.push(sinkOf(document));
  }
  checkInputs({ sources, transforms }, named, complaints);
  if (sources.length === 0 && complaints.length === 0) {
    complaints.push({
      file: documents[0]?.place.file ?? 'config',
      message: 'no document of kind: Source; there is nothing to capture',
    });
  }
  if (sinks.length === 0) {
    sinks.push({
      type: 'lake',
      name: 'lake',
      from: ['*'],
      flush: { everyMs: 30_000, bytes: 128 * 2 ** 20 },
      compact: { everyMs: 300_000 },
    });
  }
  checkKpis(documents, { sources, transforms, sinks, hooks }, complaints);
  checkProcesses(documents, { sources, transforms, sinks, kpis }, complaints);
  return {
    cluster: clusterOf(cluster ?? kinds.cluster.parse({ kind: 'Cluster' })),
    sources,
    transforms,
    sinks,
    kpis,
    processes,
    hooks,
  };
}

/** Sources and transforms share their names: each is a changelog. */
function idKind(kind: Checked['kind']): string {
  if (kind === 'Source' || kind === 'Transform') return 'changelog';
  if (kind === 'Kpi' || kind === 'Process') return kind.toLowerCase();
  return kind === 'Hook' ? 'hook' : 'sink';
}

/** A transform must read something, and never, by whatever way, itself. */
function checkInputs(
  config: Pick<Config, 'sources' | 'transforms'>,
  named: ReadonlyMap<string, Place>,
  complaints: Complaint[],
): void {
  for (const transform of config.transforms) {
    const place = named.get(`changelog ${transform.name}`) as Place;
    for (const table of lookupsOf(transform)) {
      const [head] = table.split('.');
      if (config.transforms.some(({ name }) => name === head))
        complaints.push({ ...place, message: `transform ${transform.name} looks up in ${table}: ${head} is no source` });
    }
    for (const pattern of [...transform.from, ...lookupsOf(transform)]) {
      const found = inputsOf({ ...transform, from: [pattern], steps: [] }, config);
      if (found.length === 0)
        complaints.push({ ...place, message: `transform ${transform.name}: no source or transform is named as in ${pattern}` });
    }
    const seen = new Set<string>();
    const walk = (one: TransformConfig): boolean =>
      inputsOf(one, config).some((name) => {
        const next = config.transforms.find((other) => other.name === name);
        if (!next || seen.has(name)) return false;
        seen.add(name);
        return name === transform.name || walk(next);
      });
    if (walk(transform)) complaints.push({ ...place, message: `transform ${transform.name} reads what it writes` });
  }
}

function transformOf(
  { place, value, steps }: Extract<Checked, { kind: 'Transform' }>,
  modules: ReadonlyMap<string, string>,
  complaints: Complaint[],
): TransformConfig {
  const codeOf = (module: string) => {
    const code = modules.get(moduleName({ file: place.file, module }));
    if (code === undefined) complaints.push({ ...place, message: `transform ${value.name}: the module ${module} is not there` });
    return code ?? '';
  };
  const { name, from, to, key } = value;
  return {
    name,
    from,
    steps: value.steps.map((step) => stepOf(step, codeOf)),
    places: steps.map(({ file, line, column }) => `${file}:${line}:${column}`),
    ...(to === undefined ? {} : { to }),
    ...(key === undefined ? {} : { key }),
  };
}

type Names = readonly { readonly name: string }[];

/** What one Kpi document cannot know by itself: which sources and sinks there are. */
function checkKpis(
  documents: readonly Checked[],
  known: Readonly<Record<'sources' | 'transforms' | 'sinks', Names>> & { readonly hooks: Names | null },
  complaints: Complaint[],
): void {
  for (const document of documents) {
    if (document.kind !== 'Kpi') continue;
    const { engine, from = {} } = document.value;
    if (known.sinks.some((sink) => sink.name === engine))
      complaints.push({ ...document.at(['engine']), message: `"engine": a sink is called ${engine} already` });
    const tells = document.value.alerts.map(({ to }, i): [string[], readonly string[]] => [['alerts', String(i), 'to'], to]);
    for (const [path, to] of [...tells, [['publish', 'to'], document.value.publish?.to ?? []] as const]) {
      for (const name of to) {
        // A definition that is sent alone names hooks that only the cluster's own config knows.
        if (known.hooks?.some((hook) => hook.name === name) ?? true) continue;
        complaints.push({ ...document.at(path), message: `"${path.join('.')}": there is no Hook ${name}` });
      }
    }
    for (const [alias, one] of Object.entries(from)) {
      const { source } = 'on' in one ? one.table : one;
      if ([...known.sources, ...known.transforms].some(({ name }) => name === source)) continue;
      complaints.push({ ...document.at(['from', alias]), message: `"from.${alias}": there is no source ${source}` });
    }
  }
}

/** What one Process document cannot know by itself. Its projections are called as it is, as those of sinks and engines are. */
function checkProcesses(
  documents: readonly Checked[],
  known: Readonly<Record<'sources' | 'transforms' | 'sinks', Names>> & Pick<Config, 'kpis'>,
  complaints: Complaint[],
): void {
  for (const document of documents) {
    if (document.kind !== 'Process') continue;
    const { name, objects } = document.value;
    const owner = known.sinks.some((sink) => sink.name === name) ? 'sink' : 'engine of KPIs';
    if (owner === 'sink' || known.kpis.some(({ engine }) => engine === name))
      complaints.push({ ...document.at(['name']), message: `"name": a ${owner} is called ${name} already` });
    for (const [type, { table }] of Object.entries(objects)) {
      if ([...known.sources, ...known.transforms].some((one) => one.name === table.source)) continue;
      const message = `"objects.${type}.table": there is no source ${table.source}`;
      complaints.push({ ...document.at(['objects', type, 'table']), message });
    }
  }
}

function placeText({ file, line, column }: Place): string {
  return `${file}:${line}:${column}`;
}

function clusterOf({ nats, changelog, lake, kpi: engines, http }: kinds.ClusterDocument): Config['cluster'] {
  return {
    nats: {
      replicas: nats.replicas,
      ...(nats.url ? { url: [nats.url].flat().join(',') } : {}),
      ...(nats.creds ? { creds: nats.creds } : {}),
    },
    changelog: {
      maxAgeMs: changelog.maxAge,
      maxBytes: changelog.maxBytes,
      lingerMs: changelog.linger,
      confirmAfterMs:
        changelog.confirmAfter ?? (nats.replicas > 1 ? kinds.CONFIRM_AFTER_MS.replicated : kinds.CONFIRM_AFTER_MS.alone),
    },
    lake: lake.url ? { url: lake.url } : {},
    kpi: { memoryBytes: engines.memory, threads: engines.threads },
    http,
  };
}

function sourceOf({ kind: _kind, heartbeat, contract, ...rest }: kinds.SourceDocument): SourceConfig {
  return { ...rest, heartbeatMs: heartbeat, ...(contract ? { contract } : {}) };
}

function sinkOf(document: Extract<Checked, { kind: 'Ods' | 'Lake' | 'Events' }>): SinkConfig {
  if (document.kind === 'Ods') {
    const { name, from, postgres, schema, merge, partitions, onError, existing, foreignKeys, history, softDelete } =
      document.value;
    return {
      type: 'ods',
      name,
      from,
      postgres,
      partitions,
      onError,
      existing,
      foreignKeys,
      history,
      softDelete,
      ...(schema === undefined ? {} : { schema }),
      ...(merge ? { merge } : {}),
    };
  }
  if (document.kind === 'Events') return eventsSinkOf(document.value);
  const { name, from, flush, compact } = document.value;
  return { type: 'lake', name, from, flush: { everyMs: flush.every, bytes: flush.bytes }, compact: { everyMs: compact.every } };
}
