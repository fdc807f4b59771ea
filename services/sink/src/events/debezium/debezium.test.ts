import type { Cell, PgType, TableSchema } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import type { OutEvent } from '../event.ts';
import type { RowChange } from '../row-changes.ts';
import { Debezium, type DebeziumOptions } from './debezium.ts';
import { formOf } from './values.ts';

const base = (name: string, schema = 'pg_catalog'): PgType => ({ oid: 1, schema, name, kind: 'base' });
const column = (name: string, type: string, key = 0) => ({ name, type: base(type), typmod: -1, sqlType: type, key });
/** The table of Debezium's own documentation. */
const customers: TableSchema = {
  schema: 'public',
  table: 'customers',
  identity: 'default',
  columns: [column('id', 'int4', 1), column('first_name', 'text'), column('last_name', 'text'), column('email', 'text')],
};
const ORIGIN = { source: 'PostgreSQL_server', database: 'postgres', epoch: '74.abc' };
const transaction = { lsn: 24_023_128n, endLsn: 24_023_200n, xid: 555, committedAt: 1_559_033_904_863_769 };

function change(op: RowChange['op'], before: readonly Cell[] | null, after: readonly Cell[] | null, ordinal = 1): RowChange {
  const place = { lsn: transaction.lsn, ordinal, row: 0, part: 0 };
  const read = op === 'read';
  return {
    kind: 'row',
    place,
    op,
    schema: customers,
    schemaVersion: 'v',
    before,
    after,
    transaction: read ? null : transaction,
    storedAt: 1_559_033_904_900,
  };
}

function events(options: Partial<DebeziumOptions>, ...changes: RowChange[]): OutEvent[] {
  const format = new Debezium({ serverName: '{source}', schemas: false, tombstones: false, transactions: false, ...options });
  return [...changes.flatMap((one) => [...format.change(one, ORIGIN)]), ...format.end(ORIGIN)];
}
const value = (event: OutEvent | undefined) => JSON.parse(event?.body ?? 'null') as Record<string, unknown>;

const anne = ['1', 'Anne', 'Kretchmar', 'annek@noanswer.org'];
const SOURCE = {
  version: '0.1.0',
  connector: 'postgresql',
  name: 'PostgreSQL_server',
  ts_ms: 1_559_033_904_863,
  ts_us: 1_559_033_904_863_769,
  ts_ns: 1_559_033_904_863_769_000,
  snapshot: 'false',
  db: 'postgres',
  sequence: '["24023128","24023128"]',
  schema: 'public',
  table: 'customers',
  txId: 555,
  lsn: 24_023_128,
  xmin: null,
};

describe('Debezium envelope, against the documented one of its PostgreSQL connector', () => {
  it('of a create', () => {
    const [event] = events({}, change('create', null, anne));
    expect(value(event)).toEqual({
      before: null,
      after: { id: 1, first_name: 'Anne', last_name: 'Kretchmar', email: 'annek@noanswer.org' },
      source: SOURCE,
      transaction: null,
      op: 'c',
      ts_ms: 1_559_033_904_900,
      ts_us: 1_559_033_904_900_000,
      ts_ns: 1_559_033_904_900_000_000,
    });
    expect(event?.headers).toEqual({ 'message-key': '{"id":1}' });
    expect(event?.id).toBe('74_abc:0/16E9058:1');
  });

  it('of an update, with the placeholder for what was not sent; of a delete, with the key; of a read', () => {
    const [updated, deleted, read] = events(
      {},
      change('update', null, ['1', 'Anne Marie', undefined, null]),
      change('delete', ['1', undefined, undefined, undefined], null),
      change('read', null, anne),
    );
    expect(value(updated)).toMatchObject({
      before: null,
      after: { id: 1, first_name: 'Anne Marie', last_name: '__debezium_unavailable_value', email: null },
      op: 'u',
    });
    expect(value(deleted)).toMatchObject({ before: { id: 1 }, after: null, op: 'd' });
    expect(Object.keys(value(deleted)['before'] as object)).toEqual(['id']);
    expect(value(read)).toMatchObject({ op: 'r', source: { snapshot: 'true', txId: null }, transaction: null });
  });

  it('of a truncation: neither key nor rows', () => {
    const [event] = events({}, change('truncate', null, null));
    expect(Object.keys(value(event))).toEqual(['source', 'transaction', 'op', 'ts_ms', 'ts_us', 'ts_ns']);
    expect(value(event)['op']).toBe('t');
    expect(event?.headers).toEqual({});
    expect(event?.keys).toEqual([]);
  });

  it('of a row that got another key: a delete and a create, each with the other key in its headers; tombstones where wanted', () => {
    const moved = change('update', ['1', undefined, undefined, undefined], ['2', 'Anne', 'Kretchmar', 'é']);
    const [deleted, tombstone, created] = events({ tombstones: true }, moved);
    expect(value(deleted)).toMatchObject({ op: 'd', before: { id: 1 }, after: null });
    expect(deleted?.headers).toEqual({ 'message-key': '{"id":1}', '__debezium.newkey': '{"id":2}' });
    expect([tombstone?.body, tombstone?.headers]).toEqual([null, { 'message-key': '{"id":1}' }]);
    expect(value(created)).toMatchObject({ op: 'c', before: null, after: { id: 2, email: 'é' } });
    expect(created?.headers).toEqual({ 'message-key': '{"id":2}', '__debezium.oldkey': '{"id":1}' });
    expect(new Set([deleted?.id, tombstone?.id, created?.id]).size).toBe(3);
    expect(events({}, moved).length).toBe(2);
  });

  it('of a transaction: its begin and end, and its order in every event', () => {
    const [begin, first, second, end] = events(
      { transactions: true },
      change('create', null, anne, 3),
      change('update', null, anne, 7),
    );
    const id = '555:24023128';
    expect(value(begin)).toEqual({ status: 'BEGIN', id, event_count: null, data_collections: null, ts_ms: 1_559_033_904_900 });
    expect(value(first)['transaction']).toEqual({ id, total_order: 1, data_collection_order: 1 });
    expect(value(second)['transaction']).toEqual({ id, total_order: 2, data_collection_order: 2 });
    expect(value(end)).toMatchObject({
      status: 'END',
      id,
      event_count: 2,
      data_collections: [{ data_collection: 'public.customers', event_count: 2 }],
    });
  });

  it('with schemas: of envelope and key, each field with its type', () => {
    const [event] = events({ schemas: true }, change('create', null, anne));
    const { schema, payload } = value(event) as {
      schema: { name: string; fields: { field: string; fields?: { field: string; type: string }[] }[] };
      payload: object;
    };
    expect(schema.name).toBe('PostgreSQL_server.public.customers.Envelope');
    expect(schema.fields.map(({ field }) => field)).toEqual(Object.keys(payload));
    expect(schema.fields[1]?.fields?.map(({ field, type }) => `${field} ${type}`)).toEqual([
      'id int32',
      'first_name string',
      'last_name string',
      'email string',
    ]);
    expect(JSON.parse(event?.headers['message-key'] ?? '')).toEqual({
      schema: {
        type: 'struct',
        fields: [{ type: 'int32', optional: false, field: 'id' }],
        optional: false,
        name: 'PostgreSQL_server.public.customers.Key',
      },
      payload: { id: 1 },
    });
  });
});

describe('Debezium values', () => {
  const array = (of: PgType): PgType => ({ ...base(`_${of.name}`), kind: 'array', of });
  const mood: PgType = { ...base('mood', 'public'), kind: 'enum', labels: ['sad', 'ok'] };

  it.each<[PgType | string, number, string, string, string]>([
    ['int8', -1, '9223372036854775807', '9223372036854775807', 'int64'],
    ['numeric', -1, '1.50', '"1.50"', 'string'],
    ['numeric', -1, 'NaN', '"NAN"', 'string'],
    ['money', -1, '-$1,234.50', '"-1234.50"', 'string'],
    ['date', -1, '1970-01-02', '1', 'int32 io.debezium.time.Date'],
    ['date', -1, '0001-01-01', '-719162', 'int32 io.debezium.time.Date'],
    ['date', -1, '0001-12-31 BC', '-719163', 'int32 io.debezium.time.Date'],
    ['timestamp', -1, '2018-06-20 15:13:16.945104', '1529507596945104', 'int64 io.debezium.time.MicroTimestamp'],
    ['timestamp', 3, '2018-06-20 15:13:16.945', '1529507596945', 'int64 io.debezium.time.Timestamp'],
    ['timestamp', -1, 'infinity', '9223372036825200000', 'int64 io.debezium.time.MicroTimestamp'],
    [
      'timestamptz',
      -1,
      '2018-06-20 15:13:16.945104+00',
      '"2018-06-20T15:13:16.945104Z"',
      'string io.debezium.time.ZonedTimestamp',
    ],
    ['time', -1, '00:00:01.5', '1500000', 'int64 io.debezium.time.MicroTime'],
    ['time', 2, '24:00:00', '86400000', 'int32 io.debezium.time.Time'],
    ['timetz', -1, '01:30:00.5+02:30', '"23:00:00.5Z"', 'string io.debezium.time.ZonedTime'],
    ['interval', -1, '1 year 2 mons 3 days 04:05:06.78', '"P1Y2M3DT4H5M6.78S"', 'string io.debezium.time.Interval'],
    ['interval', -1, '-1 years +2 days -00:00:01', '"P-1Y0M2DT0H0M-1S"', 'string io.debezium.time.Interval'],
    ['bit', 1, '1', 'true', 'boolean'],
    ['bit', 10, '1000000011', '"AwI="', 'bytes io.debezium.data.Bits'],
    ['bytea', -1, '\\x6869', '"aGk="', 'bytes'],
    ['jsonb', -1, '{"a": 1}', '"{\\"a\\": 1}"', 'string io.debezium.data.Json'],
    ['uuid', -1, 'a0ee', '"a0ee"', 'string io.debezium.data.Uuid'],
    ['point', -1, '(1.5,-2)', '{"x":1.5,"y":-2}', 'struct io.debezium.data.geometry.Point'],
    ['inet', -1, '10.0.0.1', '"10.0.0.1"', 'string'],
    [
      base('hstore', 'public'),
      -1,
      '"a,b"=>"1=>2", "c"=>NULL',
      '"{\\"a,b\\":\\"1=>2\\",\\"c\\":null}"',
      'string io.debezium.data.Json',
    ],
    [mood, -1, 'ok', '"ok"', 'string io.debezium.data.Enum'],
    [array(base('int4')), -1, '{1,NULL}', '[1,null]', 'array'],
    [array(mood), -1, '{sad}', '["sad"]', 'array'],
    [{ ...base('age', 'public'), kind: 'domain', of: base('int4') }, -1, '5', '5', 'int32'],
  ])('%j(%i) %s', (type, typmod, text, json, schema) => {
    const form = formOf(typeof type === 'string' ? base(type) : type, typmod);
    expect(form.encode(text)).toBe(json);
    expect([form.schema.type, form.schema.name].filter(Boolean).join(' ')).toBe(schema);
  });

  it('that were not sent keep their type, or are left out where it holds no placeholder', () => {
    for (const name of ['int4', 'bool', 'float8', 'date', 'timestamp']) expect(formOf(base(name), -1).unavailable).toBeNull();
    const schema = { ...customers, columns: [...customers.columns, column('age', 'int4')] };
    const [updated] = events({}, { ...change('update', null, ['1', 'Anne', undefined, null, undefined]), schema });
    expect(value(updated)['after']).toEqual({
      id: 1,
      first_name: 'Anne',
      last_name: '__debezium_unavailable_value',
      email: null,
    });
    expect(formOf(base('bytea'), -1).unavailable).toBe('"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="');
    expect(formOf(array(base('text')), -1).unavailable).toBe('["__debezium_unavailable_value"]');
    expect(JSON.parse(formOf(array(base('int4')), -1).unavailable ?? '')).toEqual([
      ...Buffer.from('__debezium_unavailable_value'),
    ]);
  });
});
