import type { Cell, TableSchema } from '@tributary/core';
import { type KeyShape, keyShape } from '../keys.ts';
import { type ConnectSchema, formOf, type ValueForm } from './values.ts';

const SOURCE: ConnectSchema = {
  type: 'struct',
  optional: false,
  name: 'io.debezium.connector.postgresql.Source',
  field: 'source',
  fields: [
    { type: 'string', optional: false, field: 'version' },
    { type: 'string', optional: false, field: 'connector' },
    { type: 'string', optional: false, field: 'name' },
    { type: 'int64', optional: false, field: 'ts_ms' },
    { type: 'string', optional: true, name: 'io.debezium.data.Enum', version: 1, field: 'snapshot' },
    { type: 'string', optional: false, field: 'db' },
    { type: 'string', optional: true, field: 'sequence' },
    { type: 'int64', optional: true, field: 'ts_us' },
    { type: 'int64', optional: true, field: 'ts_ns' },
    { type: 'string', optional: false, field: 'schema' },
    { type: 'string', optional: false, field: 'table' },
    { type: 'int64', optional: true, field: 'txId' },
    { type: 'int64', optional: true, field: 'lsn' },
    { type: 'int64', optional: true, field: 'xmin' },
  ],
};

const TRANSACTION: ConnectSchema = {
  type: 'struct',
  optional: true,
  name: 'event.block',
  version: 1,
  field: 'transaction',
  fields: [
    { type: 'string', optional: false, field: 'id' },
    { type: 'int64', optional: false, field: 'total_order' },
    { type: 'int64', optional: false, field: 'data_collection_order' },
  ],
};

/** A shape of a table, compiled once: how its rows and keys are written, and the schemas of both. */
export class Envelope {
  readonly key: KeyShape;
  readonly #names: readonly string[];
  readonly #forms: readonly ValueForm[];
  /** JSON text in front of a payload; '' where schemas are not wanted. */
  readonly #schema: string;
  readonly #keySchema: string;

  /** @param server `source.name`: schemas are named after it */
  constructor(schema: TableSchema, server: string, schemas: boolean) {
    this.key = keyShape(schema);
    this.#names = schema.columns.map(({ name }) => JSON.stringify(name));
    this.#forms = schema.columns.map(({ type, typmod }) => formOf(type, typmod));
    const name = `${server}.${schema.schema}.${schema.table}`;
    // Whether a column may be NULL is not known; a key's never is.
    const fields = schema.columns.map((column, c) => ({
      ...(this.#forms[c] as ValueForm).schema,
      optional: column.key === 0,
      field: column.name,
    }));
    const row = (field: string) => ({ type: 'struct', fields, optional: true, name: `${name}.Value`, field });
    const times = ['ts_ms', 'ts_us', 'ts_ns'].map((field) => ({ type: 'int64', optional: true, field }));
    const op = { type: 'string', optional: false, field: 'op' };
    const envelope = {
      type: 'struct',
      fields: [row('before'), row('after'), SOURCE, TRANSACTION, op, ...times],
      optional: false,
      name: `${name}.Envelope`,
    };
    const keys = { type: 'struct', fields: this.key.columns.map((c) => fields[c]), optional: false, name: `${name}.Key` };
    this.#schema = schemas ? `{"schema":${JSON.stringify(envelope)},"payload":` : '';
    this.#keySchema = schemas ? `{"schema":${JSON.stringify(keys)},"payload":` : '';
  }

  /** @param payload JSON text */
  value(payload: string): string {
    return this.#schema === '' ? payload : `${this.#schema}${payload}}`;
  }

  /** JSON text of the key, in ASCII: it travels in a header. Null for a table without one. */
  keyOf(cells: readonly Cell[]): string | null {
    if (this.key.columns.length === 0) return null;
    const payload = this.#fields(cells, this.key.columns, false);
    return ascii(this.#keySchema === '' ? payload : `${this.#keySchema}${payload}}`);
  }

  /** A new row; what was not sent is the placeholder, where its type can hold one. */
  after(cells: readonly Cell[]): string {
    return this.#fields(cells, this.#names.keys(), true);
  }

  /** A former row, as far as the replica identity told. */
  before(cells: readonly Cell[]): string {
    return this.#fields(cells, this.#names.keys(), false);
  }

  #fields(cells: readonly Cell[], columns: Iterable<number>, whole: boolean): string {
    const fields: string[] = [];
    for (const c of columns) {
      const cell = cells[c];
      const { encode, unavailable } = this.#forms[c] as ValueForm;
      if (cell === undefined && (!whole || unavailable === null)) continue;
      fields.push(`${this.#names[c]}:${cell === undefined ? unavailable : cell === null ? 'null' : encode(cell)}`);
    }
    return `{${fields.join(',')}}`;
  }
}

function ascii(json: string): string {
  return json.replaceAll(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`);
}
