import { type Document, isScalar, LineCounter, parseAllDocuments } from 'yaml';
import type { z } from 'zod';
import * as kinds from './kinds.ts';
import { type HookDocument, hook } from './hooks.ts';
import { kpi, type KpiDocument } from './kpi.ts';
import { process, type ProcessDocument } from './process.ts';

export interface Place {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

export interface Complaint extends Partial<Place> {
  readonly file: string;
  readonly message: string;
}

export interface Parsed {
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

/** One document that is what its kind asks for, and where it stands. */
export type Checked = { readonly place: Place } & (
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

/** One document by itself; what is wrong with it is complained of. */
export function check(parsed: Parsed, complaints: Complaint[]): Checked | null {
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

export function placeText({ file, line, column }: Place): string {
  return `${file}:${line}:${column}`;
}
