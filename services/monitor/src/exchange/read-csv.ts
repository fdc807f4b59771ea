import { Readable } from 'node:stream';
import { Fault } from '@tributary/core';
import { parse } from 'csv-parse';
import { CASE, type LoggedEvent, parseTime } from './logged.ts';

/** Names of columns, in lower case, the best first. */
const KNOWN = {
  case: ['case:concept:name', 'case_id', 'case id', 'caseid', 'case'],
  activity: ['concept:name', 'activity', 'event'],
  time: ['time:timestamp', 'timestamp', 'time', 'complete timestamp', 'start timestamp', 'date'],
} as const;

/** Columns by name where they are called otherwise. */
export type CsvColumns = Readonly<Partial<Record<keyof typeof KNOWN, string>>>;

/**
 * Reads a CSV log line by line, in its order.
 * @throws Fault `config_invalid` that names the line, or the columns that there are
 */
export async function* readCsv(path: string, text: AsyncIterable<string>, given: CsvColumns): AsyncGenerator<LoggedEvent> {
  const rows = Readable.from(text).pipe(parse({ bom: true, info: true }));
  let columns: Columns | null = null;
  try {
    for await (const { record, info } of rows as AsyncIterable<{ record: string[]; info: { lines: number } }>) {
      if (columns) yield eventOf(record, columns, `${path}:${info.lines}`);
      else columns = findColumns(path, record, given);
    }
  } catch (error) {
    if (error instanceof Fault) throw error;
    throw new Fault('config_invalid', `${path} is no CSV`, {}, { cause: error });
  }
  if (!columns) throw new Fault('config_invalid', `${path} is empty`);
}

interface Columns {
  readonly case: number;
  readonly activity: number;
  readonly time: number;
  /** Every other column. */
  readonly others: readonly (readonly [number, string])[];
}

function findColumns(path: string, head: readonly string[], given: CsvColumns): Columns {
  const lower = head.map((name) => name.trim().toLowerCase());
  const find = (what: keyof typeof KNOWN): number => {
    const names: readonly string[] = given[what] === undefined ? KNOWN[what] : [given[what].toLowerCase()];
    const at = names.map((name) => lower.indexOf(name)).find((index) => index !== -1);
    if (at !== undefined) return at;
    const message = `${path}:1: no column for the ${what}: looked for ${names.join(', ')}; there are ${head.join(', ')}. Name it with --${what}.`;
    throw new Fault('config_invalid', message);
  };
  const found = { case: find('case'), activity: find('activity'), time: find('time') };
  const used = new Set(Object.values(found));
  return { ...found, others: head.map((name, at) => [at, name] as const).filter(([at]) => !used.has(at)) };
}

function eventOf(record: readonly string[], columns: Columns, line: string): LoggedEvent {
  const key = record[columns.case] as string;
  const activity = record[columns.activity] as string;
  if (key === '' || activity === '') {
    throw new Fault('config_invalid', `${line}: ${key === '' ? 'no case' : 'no activity'}`);
  }
  const atUs = parseTime(record[columns.time] as string);
  if (atUs === null) throw new Fault('config_invalid', `${line}: the time is none (expected ISO 8601)`);
  const attributes = columns.others.flatMap(([at, name]) => (record[at] === '' ? [] : [[name, record[at] as string] as const]));
  return { activity, atUs, objects: [{ object: CASE, key, qualifier: CASE }], attributes: Object.fromEntries(attributes) };
}
