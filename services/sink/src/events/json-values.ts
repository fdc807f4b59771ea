import type { Cell, PgType, TableSchema } from '@tributary/core';
import { type ArrayItem, parseArray } from './array-literal.ts';

/** PostgreSQL's text of a value → JSON text of it. */
export type Encode = (text: string) => string;

const asIs: Encode = (text) => text;
export const asString: Encode = (text) => JSON.stringify(text);

/**
 * How a value of each type is written in JSON. Nothing is rounded: what a JSON number cannot hold in every language is a
 * string with PostgreSQL's own digits (bigint, numeric, money), and so are NaN and the infinities.
 */
const BY_NAME: Readonly<Record<string, Encode>> = {
  bool: (text) => (text === 't' ? 'true' : 'false'),
  int2: asIs,
  int4: asIs,
  oid: asIs,
  float4: finite,
  float8: finite,
  json: asIs,
  jsonb: asIs,
  bytea: (text) => JSON.stringify(base64(text)),
  timestamp: (text) => JSON.stringify(isoTime(text)),
  timestamptz: (text) => JSON.stringify(isoTime(text)),
};

function finite(text: string): string {
  return /^-?(NaN|Infinity)$/.test(text) ? JSON.stringify(text) : text;
}

/** `\x6869` → base64. */
export function base64(text: string): string {
  return Buffer.from(text.slice(2), 'hex').toString('base64');
}

/** `2026-01-31 12:00:00.5+00` → `2026-01-31T12:00:00.5Z`; years before Christ or beyond 9999 and infinities stay PostgreSQL's own. */
export function isoTime(text: string): string {
  const match = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)(\+00)?$/.exec(text);
  return match ? `${match[1]}T${match[2]}${match[3] ? 'Z' : ''}` : text;
}

export function jsonOf(type: PgType): Encode {
  if (type.kind === 'domain' && type.of) return jsonOf(type.of);
  if (type.kind === 'array' && type.of) return arrayOf(jsonOf(type.of));
  return (type.kind === 'base' && type.schema === 'pg_catalog' && BY_NAME[type.name]) || asString;
}

/** An array with bounds of its own stays text. */
export function arrayOf(item: Encode): Encode {
  const write = (one: ArrayItem): string => {
    if (one === null) return 'null';
    return typeof one === 'string' ? item(one) : `[${one.map(write).join(',')}]`;
  };
  return (text) => {
    const items = parseArray(text);
    return items ? write(items) : asString(text);
  };
}

/** Writes rows of one shape as JSON objects. */
export class RowWriter {
  readonly #names: readonly string[];
  readonly #encoders: readonly Encode[];

  constructor(schema: TableSchema) {
    this.#names = schema.columns.map((column) => JSON.stringify(column.name));
    this.#encoders = schema.columns.map((column) => jsonOf(column.type));
  }

  /** Cells that were not sent are left out. @param only indices of the columns wanted; default: all */
  write(cells: readonly Cell[], only?: readonly number[]): string {
    const fields: string[] = [];
    const field = (c: number) => {
      const cell = cells[c];
      if (cell !== undefined) fields.push(`${this.#names[c]}:${cell === null ? 'null' : (this.#encoders[c] as Encode)(cell)}`);
    };
    if (only) for (const c of only) field(c);
    else for (let c = 0; c < cells.length; c++) field(c);
    return `{${fields.join(',')}}`;
  }

  /** JSON list of the names of columns that were not sent. */
  unsent(cells: readonly Cell[]): string {
    return `[${this.#names.filter((_, c) => cells[c] === undefined).join(',')}]`;
  }
}
