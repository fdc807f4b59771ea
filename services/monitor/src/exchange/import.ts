import { randomUUID } from 'node:crypto';
import { rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Fault } from '@tributary/core';
import type { Database, Duck } from '@tributary/duckdb';
import { appendEvents, appendObjects, appendRelations, openState, type ProcessEvent, type Relation } from '../state.ts';
import { Ticks } from '../ticks.ts';
import { type LoggedEvent, textOf } from './logged.ts';
import { type CsvColumns, readCsv } from './read-csv.ts';
import { type LoggedObject, readOcel } from './read-ocel.ts';
import { readXes } from './read-xes.ts';

export const IMPORT_FORMATS = ['ocel2-json', 'xes', 'csv'] as const;
export type ImportFormat = (typeof IMPORT_FORMATS)[number];

export interface ImportOptions {
  /** Folder of the running system, or of none. */
  readonly dataDir: string;
  /** Default: that of the file. */
  readonly name?: string;
  readonly columns?: CsvColumns;
  /** Default: by the end of the file's name. */
  readonly format?: ImportFormat;
  /** What the file is called in complaints; default: its path. */
  readonly called?: string;
  /** Of an object-centric log: the type whose objects are the cases. */
  readonly root?: string;
}

/** Rows appended at once. */
const BATCH = 20_000;

/** Where imported logs are kept. */
export function importedPath(dataDir: string, name: string): string {
  return join(dataDir, 'process', 'imported', `${name}.duckdb`);
}

/**
 * Reads a log into a state of its own, in place of an earlier one of that name.
 * @returns its name. @throws Fault `config_invalid` with file and line; then the earlier one stays
 */
export async function importLog(path: string, options: ImportOptions): Promise<string> {
  const name = options.name ?? logName(path);
  if (!/^[a-z][a-z0-9_]*$/.test(name)) {
    throw new Fault('config_invalid', `"${name}" is no name of a process: lower-case letters, digits and _, a letter first`);
  }
  const final = importedPath(options.dataDir, name);
  const scratch = `${final}.${randomUUID()}`;
  const database = await openState(scratch);
  try {
    await fill(database, { path, name, options });
  } catch (error) {
    database.close();
    await rm(scratch, { force: true });
    throw error;
  } finally {
    await rm(`${scratch}.spill`, { recursive: true, force: true });
  }
  database.close();
  await rename(scratch, final);
  return name;
}

function logName(path: string): string {
  const words = basename(path).replace(/(\.(xes|csv|json|jsonocel|ocel|gz))+$/i, '');
  return words
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '_')
    .replaceAll(/^[^a-z]+|_$/g, '');
}

async function fill(
  database: Database,
  { path, name, options }: { path: string; name: string; options: ImportOptions },
): Promise<void> {
  const duck = await database.connect();
  try {
    await duck.run('BEGIN');
    const { called = path, format = formatOf(path) } = options;
    const text = textOf(path, called);
    if (format === 'ocel2-json') {
      const log = await readOcel(called, text);
      const root = options.root ?? rootOf(log.events);
      await appendLogged(duck, log.events, { source: name, root });
      await keepObjects(duck, log.objects, name);
    } else {
      const events = format === 'xes' ? readXes(called, text) : readCsv(called, text, options.columns ?? {});
      await appendLogged(duck, events, { source: name, root: null });
    }
    await duck.run('COMMIT');
    await duck.run('CHECKPOINT');
  } finally {
    duck.close();
  }
}

function formatOf(path: string): ImportFormat {
  const [, ending] = /\.(xes|csv|json|jsonocel|ocel)(?:\.gz)?$/i.exec(path) ?? [];
  if (ending === undefined)
    throw new Fault('config_invalid', `${path}: expected .xes, .csv or .json (OCEL 2.0), also with .gz behind it`);
  const lower = ending.toLowerCase();
  return lower === 'xes' || lower === 'csv' ? lower : 'ocel2-json';
}

/** The type that most events have exactly one object of; the name decides between equals. */
function rootOf(events: readonly LoggedEvent[]): string {
  const single = new Map<string, number>();
  for (const { objects } of events) {
    for (const object of new Set(objects.map((one) => one.object))) {
      const one = objects.filter((other) => other.object === object).length === 1 ? 1 : 0;
      single.set(object, (single.get(object) ?? 0) + one);
    }
  }
  const ranked = [...single].toSorted(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
  return ranked[0]?.[0] ?? '';
}

/** Logged events become events like any other: their source is the log, their ordinal the place in it. */
async function appendLogged(
  duck: Duck,
  logged: Iterable<LoggedEvent> | AsyncIterable<LoggedEvent>,
  { source, root }: { source: string; root: string | null },
): Promise<void> {
  const ticks = new Ticks();
  let events: ProcessEvent[] = [];
  let relations: Relation[] = [];
  let ordinal = 0;
  const flush = async () => {
    await appendEvents(duck, events);
    await appendRelations(duck, relations);
    events = [];
    relations = [];
  };
  for await (const one of logged) {
    const own = one.objects.find(({ object }) => root === null || object === root) ?? one.objects[0];
    if (!own) continue;
    const tick = ticks.next(one.atUs);
    const attributes = Object.keys(one.attributes).length > 0 ? JSON.stringify(one.attributes) : null;
    events.push({
      case: root === null || own.object === root ? own.key : null,
      activity: one.activity,
      atUs: one.atUs,
      tick,
      source,
      lsn: 0n,
      ordinal: ++ordinal,
      part: 0,
      object: own.object,
      key: own.key,
      kind: 'logged',
      before: null,
      after: null,
      attributes,
    });
    if (root !== null) for (const object of one.objects) relations.push({ source, tick, ...object });
    if (events.length >= BATCH) await flush();
  }
  await flush();
}

async function keepObjects(duck: Duck, objects: readonly LoggedObject[], source: string): Promise<void> {
  await appendObjects(
    duck,
    objects.map(({ object, key, attributes, links }) => ({
      object,
      key,
      source,
      state: null,
      parents: links.length > 0 ? JSON.stringify(links) : null,
      case: null,
      attributes: JSON.stringify(attributes),
      reached: null,
      born: true,
      alive: true,
      named: 0,
    })),
  );
}
