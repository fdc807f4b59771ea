import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { Ajv } from 'ajv';
import addFormats from 'ajv-formats';
import sax from 'sax';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ProcessQuestion } from '../answers.ts';
import type { ProcessMap } from '../analysis/map.ts';
import type { ObjectMap } from '../analysis/object-map.ts';
import type { Variant } from '../analysis/variants.ts';
import { answerImported } from '../imported.ts';
import { importLog } from './import.ts';

/** What an independent tool computed of a public log. */
interface Golden {
  readonly cases: number;
  readonly events: number;
  readonly variants: number;
  readonly top_variants: readonly (readonly [string, number])[];
  readonly start: Readonly<Record<string, number>>;
  readonly end: Readonly<Record<string, number>>;
  readonly dfg: readonly (readonly [string, string, number])[];
  /** By `from|to`. */
  readonly performance_dfg_seconds: Readonly<Record<string, Spread>>;
  readonly case_duration_s: Spread;
  readonly rework_cases_per_activity: Readonly<Record<string, number>>;
}

interface Spread {
  readonly mean: number;
  readonly median: number;
  readonly max: number;
  readonly min: number;
}

const LOGS = new URL('../../../../test/fixtures/process-logs/', import.meta.url);
const logPath = (name: string) => new URL(name, LOGS).pathname;
const unzipped = async (name: string): Promise<unknown> => JSON.parse(gunzipSync(await readFile(logPath(name))).toString('utf8'));
const golden = async (name: string) => (await unzipped(`${name}.golden.json.gz`)) as Golden;

/** Seconds to a billionth of their size: the other tool sums floating point numbers in another order. */
function expectSpread(actual: ProcessMap['durations'], expected: Spread): void {
  const near = (ms: number | null, seconds: number) =>
    expect(Math.abs((ms as number) / 1_000 - seconds)).toBeLessThanOrEqual(1e-9 * Math.abs(seconds) + 1e-6);
  near(actual.medianMs, expected.median);
  near(actual.meanMs, expected.mean);
  near(actual.minMs, expected.min);
  near(actual.maxMs, expected.max);
}

describe('logs of processes', () => {
  let dataDir: string;
  beforeAll(async () => {
    dataDir = await mkdtemp(join(tmpdir(), 'tributary-logs-'));
  });
  afterAll(async () => {
    await rm(dataDir, { recursive: true, force: true });
  });
  const ask = async (name: string, question: ProcessQuestion): Promise<unknown[]> => {
    const parts: unknown[] = [];
    for await (const part of answerImported(dataDir, name, question) ?? []) parts.push(part);
    return parts;
  };
  const mapOf = async (name: string) => (await ask(name, { what: 'map' }))[0] as ProcessMap;

  it.each([
    ['running-example', 'running-example.xes.gz'],
    ['helpdesk', 'helpdesk.xes.gz'],
    ['receipt', 'receipt.csv.gz'],
  ])(
    '%s: every number that another tool computed',
    async (log, file) => {
      const expected = await golden(log);
      const name = await importLog(logPath(file), { dataDir });
      expect(name).toBe(log.replace('-', '_'));
      const map = await mapOf(name);
      expect(map).toMatchObject({ cases: expected.cases, events: expected.events, variants: expected.variants });
      expect(Object.fromEntries(map.edges.map(({ from, to, count }) => [`${from}|${to}`, count]))).toEqual(
        Object.fromEntries(expected.dfg.map(([from, to, count]) => [`${from}|${to}`, count])),
      );
      expect(map.start).toEqual(expected.start);
      expect(map.end).toEqual(expected.end);
      expect(map.rework).toEqual(expected.rework_cases_per_activity);
      for (const edge of map.edges) expectSpread(edge, expected.performance_dfg_seconds[`${edge.from}|${edge.to}`] as Spread);
      expectSpread(map.durations, expected.case_duration_s);
      const [{ variants }] = (await ask(name, { what: 'variants', limit: 1_000 })) as [{ variants: Variant[] }];
      expect(variants).toHaveLength(expected.variants);
      const counts = new Map(variants.map(({ activities, cases }) => [activities.join('|'), cases]));
      for (const [variant, cases] of expected.top_variants) expect(counts.get(variant), variant).toBe(cases);
    },
    60_000,
  );

  it('goes out and comes in again without a difference, in forms that others can check', async () => {
    const name = await importLog(logPath('running-example.xes.gz'), { dataDir });
    const before = await mapOf(name);
    const validate = addFormats.default(new Ajv({ strict: false })).compile((await unzipped('schema_ocel2.json.gz')) as object);
    for (const [format, file] of [
      ['ocel2-json', 'again.json'],
      ['xes', 'again.xes'],
      ['csv', 'again.csv'],
    ] as const) {
      const text = ((await ask(name, { what: 'export', format })) as { text: string }[]).map((part) => part.text).join('');
      const path = join(dataDir, file);
      await writeFile(path, text);
      if (format === 'ocel2-json') expect(validate(JSON.parse(text)), JSON.stringify(validate.errors?.slice(0, 3))).toBe(true);
      if (format === 'xes') expect(xesCounts(text)).toEqual({ trace: before.cases, event: before.events });
      expect(await mapOf(await importLog(path, { dataDir }))).toEqual(before);
    }
  });

  it('goes out as XES with names that XML knows, whatever its columns are called', async () => {
    const path = join(dataDir, 'columns.csv');
    await writeFile(
      path,
      'case,activity,time,Start Time,start_time,Start-Time,1st,concept:name,größe\n1,a,2026-01-01,x,y,z,1,n,5\n',
    );
    const name = await importLog(path, { dataDir, columns: { activity: 'activity', case: 'case' } });
    const text = ((await ask(name, { what: 'export', format: 'xes' })) as { text: string }[]).map((part) => part.text).join('');
    expect(xesCounts(text)).toEqual({ trace: 1, event: 1 });
    const event = text.slice(text.indexOf('<event>'));
    expect(
      Object.fromEntries([...event.matchAll(/<string key="([^"]*)" value="([^"]*)"/g)].map(([, key, value]) => [key, value])),
    ).toEqual({
      'concept:name': 'a',
      Start_Time: 'x',
      start_time: 'y',
      'Start-Time': 'z',
      _1st: '1',
      'concept:name_2': 'n',
      größe: '5',
    });
  });

  it('an event of an object-centric log counts in the case of every object that it concerns', async () => {
    const path = join(dataDir, 'objects.json');
    const link = (objectId: string) => ({ objectId, qualifier: '' });
    const event = (id: string, type: string, ...ids: string[]) => ({
      id,
      type,
      time: '2026-01-01T00:00:00Z',
      relationships: ids.map(link),
    });
    const events = [
      event('1', 'place', 'o1', 'i1', 'i2'),
      event('2', 'pick', 'i1', 'o1'),
      event('3', 'pick', 'i2', 'o1'),
      event('4', 'ship', 'i1', 'i2', 'o1'),
    ];
    const objects = ['o1', 'i1', 'i2'].map((id) => ({ id, type: id.startsWith('o') ? 'order' : 'item' }));
    await writeFile(path, JSON.stringify({ eventTypes: [], objectTypes: [], events, objects }));
    const name = await importLog(path, { dataDir });
    expect(await mapOf(name)).toMatchObject({ cases: 1, events: 4, start: { place: 1 }, end: { ship: 1 } });
    const [items] = (await ask(name, { what: 'map', object: 'item' })) as [ProcessMap];
    expect(items).toMatchObject({ cases: 2, events: 6, variants: 1 });
    expect(items.edges.map(({ from, to, count }) => [from, to, count])).toEqual([
      ['pick', 'ship', 2],
      ['place', 'pick', 2],
    ]);
  });

  it('says of every number of an object-centric map what it counts', async () => {
    const path = join(dataDir, 'readings.json');
    // An order of two items, which are shipped together, come back together, and are shipped again; one of them comes back once more.
    const told: [string, ...string[]][] = [
      ['place', 'o1', 'i1', 'i2'],
      ['ship', 'i1', 'i2'],
      ['return', 'i1', 'i2'],
      ['ship', 'i1', 'i2'],
      ['return', 'i2'],
    ];
    const events = told.map(([type, ...ids], n) => ({
      id: String(n),
      type,
      time: `2026-01-0${n + 1}T00:00:00Z`,
      relationships: ids.map((objectId) => ({ objectId, qualifier: '' })),
    }));
    const objects = ['o1', 'i1', 'i2'].map((id) => ({ id, type: id.startsWith('o') ? 'order' : 'item' }));
    await writeFile(path, JSON.stringify({ eventTypes: [], objectTypes: [], events, objects }));
    const name = await importLog(path, { dataDir, root: 'order' });
    const [map] = (await ask(name, { what: 'map', object: '*' })) as [ObjectMap];
    expect(map.objects).toEqual([
      { object: 'item', uniqueObjects: 2 },
      { object: 'order', uniqueObjects: 1 },
    ]);
    const counts = (one: { uniqueObjects: number; totalObjects: number }) => [one.uniqueObjects, one.totalObjects];
    expect(map.activities.map((one) => [one.object, one.activity, one.events, ...counts(one)])).toEqual([
      ['item', 'ship', 2, 2, 4],
      ['item', 'return', 2, 2, 3],
      ['item', 'place', 1, 2, 2],
      ['order', 'place', 1, 1, 1],
    ]);
    expect(map.edges.map((one) => [one.object, one.from, one.to, one.couples, ...counts(one)])).toEqual([
      ['item', 'ship', 'return', 2, 2, 3],
      ['item', 'place', 'ship', 1, 2, 2],
      ['item', 'return', 'ship', 1, 2, 2],
    ]);
    const [frequent] = (await ask(name, { what: 'map', object: '*', minShare: 0.4 })) as [ObjectMap];
    expect(frequent.edges.map(({ from, to }) => [from, to])).toEqual([['ship', 'return']]);
    await expect(ask(name, { what: 'map', object: '*', format: 'svg' })).rejects.toThrow('Formats: json');
  });

  it('a period makes no starts that did not happen', async () => {
    const path = join(dataDir, 'period.csv');
    await writeFile(path, 'case,activity,time\n1,a,2026-01-01\n1,b,2026-01-02\n1,c,2026-01-03\n2,a,2026-01-02\n');
    const name = await importLog(path, { dataDir });
    const [map] = (await ask(name, { what: 'map', from: '2026-01-02', to: '2026-01-03' })) as [ProcessMap];
    expect(map).toMatchObject({ cases: 2, events: 2, start: { a: 1 }, end: { a: 1 } });
    expect(map.edges).toMatchObject([{ from: 'a', to: 'b', count: 1, medianMs: 86_400_000 }]);
  });

  it('says which line is wrong, and keeps the log that was there', async () => {
    const path = join(dataDir, 'period.csv');
    const before = await mapOf('period');
    await writeFile(path, 'case,activity,time\n1,a,2026-01-01\n1,b,yesterday\n');
    await expect(importLog(path, { dataDir })).rejects.toThrow('period.csv:3: the time is none');
    expect(await mapOf('period')).toEqual(before);
  });
});

/** An xs:Name, an xs:NCName, an xs:decimal and an xs:dateTime. */
const NAME = /^[\p{L}_:][\p{L}\p{Nd}_:.-]*$/u;
const WORD = /^[\p{L}_][\p{L}\p{Nd}_.-]*$/u;
const DECIMAL = /^[+-]?(\d+(\.\d*)?|\.\d+)$/;
const MOMENT = /^-?\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?$/;
const ANY = /^/;

/** By element: where it may stand, and its attributes; `?`: it may be left out. */
const ELEMENTS: Readonly<
  Record<string, { readonly in: readonly string[]; readonly attributes: Readonly<Record<string, RegExp>> }>
> = {
  log: { in: [''], attributes: { 'xes.version': DECIMAL, 'xes.features?': ANY, 'xmlns?': ANY } },
  extension: { in: ['log'], attributes: { name: WORD, prefix: WORD, uri: /^\S+$/ } },
  global: { in: ['log'], attributes: { 'scope?': WORD } },
  classifier: { in: ['log'], attributes: { name: WORD, 'scope?': WORD, keys: /^\S+( \S+)*$/ } },
  trace: { in: ['log'], attributes: {} },
  event: { in: ['trace', 'log'], attributes: {} },
  ...Object.fromEntries(
    Object.entries({ string: ANY, date: MOMENT, int: /^[+-]?\d+$/, float: /^\S+$/, boolean: /^(true|false|0|1)$/, id: ANY }).map(
      ([type, value]) => [type, { in: ['log', 'global', 'trace', 'event'], attributes: { key: NAME, value } }],
    ),
  ),
};
/** Children come in this order; what is not named here is an attribute, and stands where `*` does. */
const ORDER: Readonly<Record<string, readonly string[]>> = {
  log: ['extension', 'global', 'classifier', '*', 'trace', 'event'],
  trace: ['*', 'event'],
};

/** The rules of the standard's XML schema (IEEE 1849-2016), written out: there is no copy of it in any package. @returns how many elements there are */
function xesCounts(text: string): { trace: number; event: number } {
  const open: { readonly name: string; rank: number; readonly keys: Set<string> }[] = [];
  const prefixes = new Set<string>();
  const counts = { trace: 0, event: 0 };
  const xml = sax.parser(true);
  xml.onopentag = ({ name, attributes }) => {
    const parent = open.at(-1);
    const rules = ELEMENTS[name];
    expect(rules?.in ?? [], `${name} in ${parent?.name}`).toContain(parent?.name ?? '');
    const given = attributes as Record<string, string>;
    for (const [key, value] of Object.entries(rules?.attributes ?? {})) {
      const own = given[key.replace('?', '')];
      if (own !== undefined || !key.endsWith('?')) expect(own, `${name} ${key}`).toMatch(value);
    }
    const known = Object.keys(rules?.attributes ?? {}).map((key) => key.replace('?', ''));
    expect(Object.keys(given).filter((key) => !known.includes(key))).toEqual([]);
    const order = ORDER[parent?.name ?? ''];
    if (parent && order) {
      const rank = order.includes(name) ? order.indexOf(name) : order.indexOf('*');
      expect(rank, `${name} behind what comes before it`).toBeGreaterThanOrEqual(parent.rank);
      parent.rank = rank;
    }
    if (given['key'] !== undefined) {
      expect(parent?.keys.has(given['key']), given['key']).toBe(false);
      parent?.keys.add(given['key']);
      if (/^(concept|time):/.test(given['key'])) expect([...prefixes]).toContain(given['key'].split(':')[0]);
    }
    if (name === 'extension') prefixes.add(given['prefix'] ?? '');
    if (name === 'trace' || name === 'event') counts[name]++;
    open.push({ name, rank: 0, keys: new Set() });
  };
  xml.onclosetag = () => void open.pop();
  xml.write(text).close();
  return counts;
}
