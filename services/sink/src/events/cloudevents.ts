import type { EventOp } from '@tributary/config';
import { formatLsn, isoMicros, type TableSchema } from '@tributary/core';
import { type Format, idOf, type Origin, type OutEvent } from './event.ts';
import { RowWriter } from './json-values.ts';
import { type KeyShape, keyShape, keysOf, movedFrom } from './keys.ts';
import { type EventPlace, formatPlace, sequenceOf } from './place.ts';
import type { RowChange } from './row-changes.ts';

export const CONTENT_TYPE = 'application/cloudevents+json; charset=utf-8';

const TYPES: Readonly<Record<EventOp, string>> = {
  create: 'io.tributary.row.created',
  update: 'io.tributary.row.updated',
  delete: 'io.tributary.row.deleted',
  read: 'io.tributary.row.read',
  truncate: 'io.tributary.table.truncated',
};

/** A shape, compiled once. */
interface Shape {
  readonly key: KeyShape;
  readonly writer: RowWriter;
  readonly names: { readonly schema: string; readonly table: string };
  /** `"columns":…`, where schemas are asked for. */
  readonly columns: string;
}

/** One CloudEvent 1.0 (JSON, structured) a change. Its data is told in deploy/EVENTS.md. */
export class CloudEvents implements Format {
  readonly #schemas: boolean;
  readonly #shapes = new WeakMap<TableSchema, Shape>();

  constructor({ schemas }: { readonly schemas: boolean }) {
    this.#schemas = schemas;
  }

  *change(change: RowChange, origin: Origin): Iterable<OutEvent> {
    const shape = this.#shape(change.schema);
    const { key, names } = shape;
    const keys = keysOf(key, change);
    const attributes = {
      ...attributesOf(change.place, origin),
      type: TYPES[change.op],
      subject: key.table,
      time: timeOf(change),
    };
    const version = this.#schemas ? { dataschema: `#${change.schemaVersion}` } : {};
    const partition = keys.length > 0 ? { partitionkey: keys.at(-1) } : {};
    yield {
      id: attributes.id,
      place: change.place,
      table: key.table,
      tables: [key.table],
      keys,
      words: { ...names, op: change.op },
      contentType: CONTENT_TYPE,
      headers: {},
      body: structured({ ...attributes, ...partition, ...version }, dataOf(change, shape)),
    };
  }

  /** What an event says of a change, as JSON text. */
  data(change: RowChange): string {
    return dataOf(change, this.#shape(change.schema));
  }

  *end(): Iterable<OutEvent> {
    // Every change was an event of its own.
  }

  *mark(
    { place, step, table, reset, generation, storedAt }: Parameters<NonNullable<Format['mark']>>[0],
    origin: Origin,
  ): Iterable<OutEvent> {
    const attributes = {
      ...attributesOf(place, origin),
      type: step === 'begin' ? 'io.tributary.snapshot.begun' : 'io.tributary.snapshot.ended',
      subject: table,
      time: new Date(storedAt).toISOString(),
    };
    const dot = table.indexOf('.');
    const words = { schema: table.slice(0, dot), table: table.slice(dot + 1) };
    const data = JSON.stringify({ source: origin.source, ...words, snapshot: generation, reset });
    yield {
      id: attributes.id,
      place,
      table,
      tables: [table],
      keys: [],
      words: { ...words, op: step },
      contentType: CONTENT_TYPE,
      headers: {},
      body: structured(attributes, data),
    };
  }

  #shape(schema: TableSchema): Shape {
    const known = this.#shapes.get(schema);
    if (known) return known;
    const columns = schema.columns.map(({ name, sqlType, key }) => ({ name, type: sqlType, key: key > 0 }));
    const shape = {
      key: keyShape(schema),
      writer: new RowWriter(schema),
      names: { schema: schema.schema, table: schema.table },
      columns: this.#schemas ? `,"columns":${JSON.stringify(columns)}` : '',
    };
    this.#shapes.set(schema, shape);
    return shape;
  }
}

/** What every event has, whatever it speaks of. */
export function attributesOf(place: EventPlace, { source, epoch }: Origin) {
  return { specversion: '1.0', id: idOf(epoch, formatPlace(place)), source: `/sources/${source}`, sequence: sequenceOf(place) };
}

/** @param data JSON text, embedded as it is */
export function structured(attributes: object, data: string): string {
  return `${JSON.stringify({ ...attributes, datacontenttype: 'application/json' }).slice(0, -1)},"data":${data}}`;
}

/** Commit time, or when the changelog took the rows of a snapshot. RFC 3339 with microseconds. */
export function timeOf({ transaction, storedAt }: Pick<RowChange, 'transaction' | 'storedAt'>): string {
  if (!transaction) return new Date(storedAt).toISOString();
  return isoMicros(transaction.committedAt);
}

const LETTERS: Readonly<Record<EventOp, string>> = { create: 'c', update: 'u', delete: 'd', read: 'r', truncate: 't' };

/** In the words of `tributary tail` and `GET /v1/changes`; values as json-values.ts writes them. */
function dataOf(change: RowChange, { key, writer, names, columns }: Shape): string {
  const { op, before, after, place, transaction } = change;
  const now = after ?? before;
  const moved = movedFrom(key, change);
  const fields = [
    `"schema":${JSON.stringify(names.schema)},"table":${JSON.stringify(names.table)},"op":"${LETTERS[op]}"`,
    `"key":${now ? writer.write(now, key.columns) : '{}'}`,
    ...(moved ? [`"oldKey":${writer.write(moved, key.columns)}`] : []),
    `"before":${before ? writer.write(before) : 'null'}`,
    `"after":${after ? writer.write(after) : 'null'}`,
    `"unchanged":${after ? writer.unsent(after) : '[]'}`,
    `"lsn":"${formatLsn(place.lsn)}","ordinal":${transaction ? place.ordinal : place.row},"xid":${transaction?.xid ?? null}`,
  ];
  return `{${fields.join(',')}${columns}}`;
}
