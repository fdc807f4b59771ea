import { Fault } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { isoSql } from '../analysis/cases.ts';
import { xml } from '../xml.ts';

/** Formats that a process goes out in. */
export type ExportFormat = 'ocel2-json' | 'xes' | 'csv';

export const EXPORT_FORMATS: readonly string[] = ['ocel2-json', 'xes', 'csv'] satisfies ExportFormat[];

/** Rows read at once. */
const PAGE = 20_000;

interface ExportedEvent {
  readonly case: string | null;
  readonly activity: string;
  readonly time: string;
  readonly id: string;
  readonly object: string;
  readonly key: string;
  readonly kind: string;
  readonly attributes: string | null;
  /** JSON list; null = its own object alone. */
  readonly related: string | null;
}

/**
 * A whole process as text, piece by piece.
 * @param root type of the root object
 * @throws Fault `config_invalid` for a format that is none
 */
export async function* exportProcess(duck: Duck, format: string, root: string): AsyncGenerator<string> {
  if (format === 'ocel2-json') yield* ocel(duck, root);
  else if (format === 'xes') yield* xes(duck);
  else if (format === 'csv') yield* csv(duck);
  else throw new Fault('config_invalid', `there is no format ${format}; formats: ${EXPORT_FORMATS.join(', ')}`);
}

/** Events in order; by case where `cased`, without those that are in none. */
async function* exportedEvents(duck: Duck, cased: boolean): AsyncGenerator<ExportedEvent> {
  const order = cased ? '"case", tick, source' : 'tick, source';
  await duck.run(
    `CREATE OR REPLACE TEMP TABLE exported AS SELECT row_number() OVER (ORDER BY ${order}) AS n, * FROM event ${cased ? 'WHERE "case" IS NOT NULL' : ''}`,
  );
  try {
    for (let from = 0; ; from += PAGE) {
      const page = await duck.rows<ExportedEvent>(
        `SELECT "case", activity, ${isoSql('at_us')} AS time, source || ' ' || lsn || ' ' || ordinal || ' ' || part AS id, object, key, kind, attributes,
                (SELECT CAST(to_json(list({object: r.object, key: r.key, qualifier: r.qualifier})) AS VARCHAR) FROM relation r
                  WHERE r.source = exported.source AND r.tick = exported.tick) AS related
           FROM exported WHERE n > ${from} AND n <= ${from + PAGE} ORDER BY n`,
      );
      yield* page;
      if (page.length < PAGE) return;
    }
  } finally {
    await duck.run('DROP TABLE IF EXISTS exported');
  }
}

const facts = (json: string | null) => Object.entries(JSON.parse(json ?? '{}') as Record<string, string>);

async function* csv(duck: Duck): AsyncGenerator<string> {
  yield 'case_id,activity,timestamp,object,key,kind\n';
  for await (const event of exportedEvents(duck, true)) {
    yield `${[event.case, event.activity, event.time, event.object, event.key, event.kind].map(csvCell).join(',')}\n`;
  }
}

function csvCell(value: string | null): string {
  const text = value ?? '';
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/**
 * XES (IEEE 1849-2016), as the schema of the standard has it: the version is a decimal, and the key of an attribute an XML name. Attributes are
 * strings: a log does not say what else they could be.
 */
async function* xes(duck: Duck): AsyncGenerator<string> {
  yield `<?xml version="1.0" encoding="UTF-8"?>
<log xes.version="1849.2016" xes.features="" xmlns="http://www.xes-standard.org/">
  <extension name="Concept" prefix="concept" uri="http://www.xes-standard.org/concept.xesext"/>
  <extension name="Time" prefix="time" uri="http://www.xes-standard.org/time.xesext"/>
  <global scope="trace">
    <string key="concept:name" value=""/>
  </global>
  <global scope="event">
    <string key="concept:name" value=""/>
    <date key="time:timestamp" value="1970-01-01T00:00:00.000Z"/>
  </global>
  <classifier name="Activity" keys="concept:name"/>
`;
  let open: string | null = null;
  const keys = new XesKeys();
  for await (const event of exportedEvents(duck, true)) {
    if (event.case !== open) {
      yield `${open === null ? '' : '  </trace>\n'}  <trace>\n    <string key="concept:name" value="${xml(event.case ?? '')}"/>\n`;
      open = event.case;
    }
    const more = facts(event.attributes).map(
      ([key, value]) => `      <string key="${xml(keys.of(key))}" value="${xml(value)}"/>\n`,
    );
    yield `    <event>\n      <string key="concept:name" value="${xml(event.activity)}"/>\n      <date key="time:timestamp" value="${event.time}"/>\n${more.join('')}    </event>\n`;
  }
  yield `${open === null ? '' : '  </trace>\n'}</log>\n`;
}

/** Keys of attributes as XML names. What a name cannot hold becomes `_`; two keys of a log never become one. */
class XesKeys {
  readonly #names = new Map<string, string>();
  readonly #taken = new Set(['concept:name', 'time:timestamp']);

  of(key: string): string {
    const known = this.#names.get(key);
    if (known !== undefined) return known;
    const plain = key.replaceAll(/[^\p{L}\p{Nd}_:.-]/gu, '_').replace(/^(?![\p{L}_:])/u, '_');
    let name = plain;
    for (let n = 2; this.#taken.has(name); n++) name = `${plain}_${n}`;
    this.#names.set(key, name);
    this.#taken.add(name);
    return name;
  }
}

interface NamedType {
  readonly type: string;
  readonly names: string | null;
}

/** Keys of the JSON objects in `attributes`, per type. */
function typesSql(type: string, from: string): string {
  return `SELECT type, to_json(list(DISTINCT name ORDER BY name) FILTER (name IS NOT NULL))::VARCHAR AS names
    FROM (SELECT ${type} AS type, unnest(coalesce(json_keys(attributes), [NULL])) AS name FROM ${from}) GROUP BY type ORDER BY type`;
}

async function* ocel(duck: Duck, root: string): AsyncGenerator<string> {
  const types = async (sql: string) =>
    (await duck.rows<NamedType>(sql)).map(({ type, names }) => ({
      name: type,
      attributes: (JSON.parse(names ?? '[]') as string[]).map((name) => ({ name, type: 'string' })),
    }));
  const [known] = await duck.rows<{ verbatim: boolean }>('SELECT EXISTS (FROM relation) AS verbatim');
  const nameOf = known?.verbatim ? (_object: string, key: string) => key : objectId;
  await duck.run(objectsOf(root));
  try {
    yield `{"objectTypes":${JSON.stringify(await types(typesSql('object', 'exported_object')))},\n`;
    yield `"eventTypes":${JSON.stringify(await types(typesSql('activity', 'event')))},\n"objects":[`;
    yield* ocelObjects(duck, nameOf);
  } finally {
    await duck.run('DROP TABLE IF EXISTS exported_object');
  }
  yield '\n],\n"events":[';
  let first = true;
  for await (const event of exportedEvents(duck, false)) {
    yield `${first ? '\n' : ',\n'}${JSON.stringify(ocelEvent(event, root, nameOf))}`;
    first = false;
  }
  yield '\n]}\n';
}

/** Every object that is known, or that an event names. Logs with cases alone know none. */
function objectsOf(root: string): string {
  const type = `'${root.replaceAll("'", "''")}'`;
  return `CREATE OR REPLACE TEMP TABLE exported_object AS
    SELECT row_number() OVER (ORDER BY object, key) AS n, object, key, any_value(parents) AS parents, any_value(attributes) AS attributes, ${isoSql('min(at_us)')} AS time
      FROM (SELECT object, key, parents, attributes, NULL::BIGINT AS at_us FROM object
            UNION ALL SELECT object, key, NULL, NULL, min(at_us) FROM event GROUP BY object, key
            UNION ALL SELECT ${type}, "case", NULL, NULL, min(at_us) FROM event WHERE "case" IS NOT NULL GROUP BY "case")
     GROUP BY object, key`;
}

async function* ocelObjects(duck: Duck, nameOf: NameOf): AsyncGenerator<string> {
  interface Row {
    readonly object: string;
    readonly key: string;
    readonly parents: string | null;
    readonly attributes: string | null;
    readonly time: string | null;
  }
  for (let from = 0; ; from += PAGE) {
    const page = await duck.rows<Row>(
      `SELECT object, key, parents, attributes, time FROM exported_object WHERE n > ${from} AND n <= ${from + PAGE} ORDER BY n`,
    );
    for (const [i, { object, key, parents, attributes, time }] of page.entries()) {
      const since = time ?? '1970-01-01T00:00:00.000Z';
      const one = {
        id: nameOf(object, key),
        type: object,
        attributes: facts(attributes).map(([name, value]) => ({ name, value, time: since })),
        relationships: links(parents, nameOf),
      };
      yield `${from + i === 0 ? '\n' : ',\n'}${JSON.stringify(one)}`;
    }
    if (page.length < PAGE) return;
  }
}

function ocelEvent(event: ExportedEvent, root: string, nameOf: NameOf): object {
  const related = links(event.related, nameOf);
  const own = { objectId: nameOf(event.object, event.key), qualifier: event.object };
  const inCase = event.case !== null && event.object !== root ? [{ objectId: nameOf(root, event.case), qualifier: root }] : [];
  return {
    id: event.id,
    type: event.activity,
    time: event.time,
    attributes: facts(event.attributes).map(([name, value]) => ({ name, value })),
    relationships: related.length > 0 ? related : [own, ...inCase],
  };
}

/** What an object is called in the log. Ids of an imported object-centric log are unique already. */
type NameOf = (object: string, key: string) => string;

/** Keys of captured rows are unique in their type only. */
function objectId(object: string, key: string): string {
  return `${object}:${key}`;
}

function links(json: string | null, nameOf: NameOf): { objectId: string; qualifier: string }[] {
  const list = JSON.parse(json ?? '[]') as { object: string; key: string; qualifier: string }[];
  return list.map(({ object, key, qualifier }) => ({ objectId: nameOf(object, key), qualifier }));
}
