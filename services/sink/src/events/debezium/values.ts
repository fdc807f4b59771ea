import type { PgType } from '@tributary/core';
import { parseArray } from '../array-literal.ts';
import { arrayOf, asString, base64, type Encode, isoTime } from '../json-values.ts';
import { daysOf, isoInterval, timeOfDay, timestampOf, zonedTime } from './time.ts';

/** A Kafka Connect schema, as its JSON converter writes it. */
export interface ConnectSchema {
  readonly type: string;
  readonly name?: string;
  readonly version?: number;
  readonly parameters?: Readonly<Record<string, string>>;
  readonly items?: ConnectSchema;
  readonly fields?: readonly ConnectSchema[];
  readonly optional?: boolean;
  readonly field?: string;
}

/** How values of one type are written, and what stands for one that the database did not send. */
export interface ValueForm {
  readonly schema: ConnectSchema;
  readonly encode: Encode;
  /** JSON text; null = the field is left out: no value of its type can stand for one that is not known. */
  readonly unavailable: string | null;
}

/** Debezium's `unavailable.value.placeholder`. */
const PLACEHOLDER = '__debezium_unavailable_value';
const UNAVAILABLE = JSON.stringify(PLACEHOLDER);
const UNAVAILABLE_BYTES = JSON.stringify(Buffer.from(PLACEHOLDER).toString('base64'));
const UNAVAILABLE_NUMBERS = JSON.stringify([...Buffer.from(PLACEHOLDER)]);

const asIs: Encode = (text) => text;
const form = (type: string, encode: Encode, name?: string): ValueForm => ({
  schema: { type, ...(name === undefined ? {} : { name, version: 1 }) },
  encode,
  unavailable: type === 'bytes' ? UNAVAILABLE_BYTES : type === 'string' ? UNAVAILABLE : null,
});
const text = form('string', asString);

/** Types whose form does not depend on a modifier; those not named are strings with PostgreSQL's text. */
const BY_NAME: Readonly<Record<string, ValueForm>> = {
  bool: form('boolean', (value) => (value === 't' ? 'true' : 'false')),
  int2: form('int16', asIs),
  int4: form('int32', asIs),
  int8: form('int64', asIs),
  oid: form('int64', asIs),
  float4: form('float', finite),
  float8: form('double', finite),
  numeric: form('string', (value) => JSON.stringify(value === 'NaN' ? 'NAN' : value)),
  money: form('string', (value) => JSON.stringify(value.replaceAll(/[$,]/g, ''))),
  bytea: form('bytes', (value) => JSON.stringify(base64(value))),
  json: form('string', asString, 'io.debezium.data.Json'),
  jsonb: form('string', asString, 'io.debezium.data.Json'),
  xml: form('string', asString, 'io.debezium.data.Xml'),
  uuid: form('string', asString, 'io.debezium.data.Uuid'),
  date: form('int32', daysOf, 'io.debezium.time.Date'),
  timestamptz: form('string', (value) => JSON.stringify(isoTime(value)), 'io.debezium.time.ZonedTimestamp'),
  timetz: form('string', (value) => JSON.stringify(zonedTime(value)), 'io.debezium.time.ZonedTime'),
  interval: form('string', (value) => JSON.stringify(isoInterval(value)), 'io.debezium.time.Interval'),
  point: {
    schema: { type: 'struct', name: 'io.debezium.data.geometry.Point', version: 1, fields: [axis('x'), axis('y')] },
    encode: pointOf,
    unavailable: 'null',
  },
};

function axis(field: string): ConnectSchema {
  return { type: 'double', optional: false, field };
}

/** As the PostgreSQL connector does with decimal.handling.mode=string, interval.handling.mode=string and its other defaults. */
export function formOf(type: PgType, typmod: number): ValueForm {
  if (type.kind === 'domain' && type.of) return formOf(type.of, type.typmod ?? -1);
  if (type.kind === 'array' && type.of) return arrayForm(formOf(type.of, typmod));
  if (type.kind === 'enum') {
    const allowed = (type.labels ?? []).join(',');
    return { ...text, schema: { type: 'string', name: 'io.debezium.data.Enum', version: 1, parameters: { allowed } } };
  }
  if (type.kind !== 'base') return text;
  if (type.schema === 'pg_catalog') return catalogForm(type.name, typmod);
  if (type.name === 'hstore') return form('string', (value) => JSON.stringify(hstoreOf(value)), 'io.debezium.data.Json');
  return type.name === 'ltree' ? form('string', asString, 'io.debezium.data.Ltree') : text;
}

function catalogForm(name: string, typmod: number): ValueForm {
  const milliseconds = typmod >= 0 && typmod <= 3;
  if (name === 'time') {
    return milliseconds
      ? form('int32', (value) => timeOfDay(value, 'ms'), 'io.debezium.time.Time')
      : form('int64', (value) => timeOfDay(value, 'us'), 'io.debezium.time.MicroTime');
  }
  if (name === 'timestamp') {
    return milliseconds
      ? form('int64', (value) => timestampOf(value, 'ms'), 'io.debezium.time.Timestamp')
      : form('int64', (value) => timestampOf(value, 'us'), 'io.debezium.time.MicroTimestamp');
  }
  if (name === 'bit' && typmod === 1) return form('boolean', (value) => (value === '1' ? 'true' : 'false'));
  if (name === 'bit' || name === 'varbit') {
    const bits = form('bytes', (value) => JSON.stringify(bitsOf(value)), 'io.debezium.data.Bits');
    return { ...bits, schema: { ...bits.schema, parameters: { length: String(typmod > 0 ? typmod : 2 ** 31 - 1) } } };
  }
  return BY_NAME[name] ?? text;
}

function arrayForm(item: ValueForm): ValueForm {
  const strings = item.schema.type === 'string';
  return {
    schema: { type: 'array', items: { ...item.schema, optional: true } },
    encode: arrayOf(item.encode),
    unavailable: strings ? `[${item.unavailable}]` : UNAVAILABLE_NUMBERS,
  };
}

function finite(value: string): string {
  return /^-?(NaN|Infinity)$/.test(value) ? JSON.stringify(value) : value;
}

function pointOf(value: string): string {
  const [x = '0', y = '0'] = value.slice(1, -1).split(',');
  return `{"x":${finite(x)},"y":${finite(y)}}`;
}

/** `1011` → base64 of its bytes, the least significant first. */
function bitsOf(value: string): string {
  const bytes: number[] = [];
  for (let end = value.length; end > 0; end -= 8) bytes.push(Number.parseInt(value.slice(Math.max(0, end - 8), end), 2));
  return Buffer.from(bytes).toString('base64');
}

/** `"a"=>"1", "b"=>NULL` → `{"a":"1","b":null}`. */
function hstoreOf(value: string): string {
  // Its items are quoted like those of an array, and so are read as one.
  const items = parseArray(
    `{${value.replaceAll(/("(?:[^"\\]|\\.)*")=>(NULL|"(?:[^"\\]|\\.)*")(, )?/g, (_, key: string, item: string, more?: string) => `${key},${item}${more ? ',' : ''}`)}}`,
  );
  if (!items) return value;
  const pairs: [string, unknown][] = [];
  for (let i = 0; i + 1 < items.length; i += 2) pairs.push([String(items[i]), items[i + 1]]);
  return JSON.stringify(Object.fromEntries(pairs));
}
