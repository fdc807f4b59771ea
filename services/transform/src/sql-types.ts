import type { ColumnSchema, PgType } from '@tributary/core';

/** A PostgreSQL type as expressions see it: how its text becomes a DuckDB value, and how a value becomes that text again. */
export interface SqlType {
  readonly type: PgType;
  readonly typmod: number;
  readonly sqlType: string;
  readonly duck: string;
  /** SQL over a text that is PostgreSQL's own. */
  readonly read: (text: string) => string;
  /** SQL over a value of type `duck`. */
  readonly write: (value: string) => string;
}

const OIDS: Readonly<Record<string, number>> = {
  bool: 16,
  bytea: 17,
  int8: 20,
  int2: 21,
  int4: 23,
  text: 25,
  json: 114,
  float4: 700,
  float8: 701,
  bpchar: 1042,
  varchar: 1043,
  date: 1082,
  time: 1083,
  timestamp: 1114,
  timestamptz: 1184,
  interval: 1186,
  numeric: 1700,
  uuid: 2950,
  jsonb: 3802,
};

/** Names by which people know them. */
const ALIASES: Readonly<Record<string, string>> = {
  boolean: 'bool',
  smallint: 'int2',
  integer: 'int4',
  int: 'int4',
  bigint: 'int8',
  real: 'float4',
  'double precision': 'float8',
  decimal: 'numeric',
  'character varying': 'varchar',
  character: 'bpchar',
  char: 'bpchar',
  'timestamp without time zone': 'timestamp',
  'timestamp with time zone': 'timestamptz',
  'time without time zone': 'time',
};
const FORMAL = Object.fromEntries(
  ['boolean', 'smallint', 'integer', 'bigint', 'real', 'double precision', 'character varying', 'character'].map((name) => [
    ALIASES[name] as string,
    name,
  ]),
) as Readonly<Record<string, string>>;
const FORMAL_TIMES: Readonly<Record<string, string>> = {
  time: 'time without time zone',
  timestamp: 'timestamp without time zone',
  timestamptz: 'timestamp with time zone',
};

/** Digits that a numeric without a precision gets in expressions: 20 before the point, 18 behind it. */
const ANY_NUMERIC = 'DECIMAL(38,18)';

const PLAIN: Readonly<Record<string, string>> = {
  int2: 'SMALLINT',
  int4: 'INTEGER',
  int8: 'BIGINT',
  oid: 'UINTEGER',
  uuid: 'UUID',
  time: 'TIME',
  interval: 'INTERVAL',
};

const cast = (duck: string) => (text: string) => `CAST(${text} AS ${duck})`;
const asText = (value: string) => `CAST(${value} AS VARCHAR)`;
const DOTTED_ZERO = String.raw`'\.0($|e)'`;

function floating(duck: string): Pick<SqlType, 'duck' | 'read' | 'write'> {
  return {
    duck,
    read: cast(duck),
    write: (value) =>
      `CASE WHEN isnan(${value}) THEN 'NaN' WHEN isinf(${value}) THEN CASE WHEN ${value} > 0 THEN 'Infinity' ELSE '-Infinity' END
        ELSE regexp_replace(CAST(${value} AS VARCHAR), ${DOTTED_ZERO}, '\\1') END`,
  };
}

/** Dates before Christ are written `0044-03-15 BC`, and `0044-03-15 (BC)` by DuckDB. */
function dated(duck: string): Pick<SqlType, 'duck' | 'read' | 'write'> {
  return {
    duck,
    read: (text) => `CAST(replace(${text}, ' BC', ' (BC)') AS ${duck})`,
    write: (value) => `replace(CAST(${value} AS VARCHAR), ' (BC)', ' BC')`,
  };
}

function numericOf(typmod: number): Pick<SqlType, 'duck' | 'read' | 'write'> {
  const precision = typmod < 4 ? 0 : ((typmod - 4) >> 16) & 0xffff;
  const scale = typmod < 4 ? 0 : (((typmod - 4) & 0x7ff) ^ 1024) - 1024;
  const fits = precision > 0 && precision <= 38 && scale >= 0 && scale <= precision;
  const duck = fits ? `DECIMAL(${precision},${scale})` : ANY_NUMERIC;
  // Without a scale of its own a value is as long as it must be.
  const write = fits ? asText : (value: string) => String.raw`regexp_replace(CAST(${value} AS VARCHAR), '\.?0+$', '')`;
  return {
    duck,
    read: cast(duck),
    write: fits
      ? write
      : (value) => `CASE WHEN contains(CAST(${value} AS VARCHAR), '.') THEN ${write(value)} ELSE ${asText(value)} END`,
  };
}

const TEXT: Pick<SqlType, 'duck' | 'read' | 'write'> = { duck: 'VARCHAR', read: (text) => text, write: (value) => value };

/** How a column's values are computed with. What has no counterpart is its text. */
export function sqlTypeOf({ type, typmod, sqlType }: Pick<ColumnSchema, 'type' | 'typmod' | 'sqlType'>): SqlType {
  const shape = { type, typmod, sqlType };
  const base = baseOf(type, typmod);
  if (base.type.kind !== 'base' || base.type.schema !== 'pg_catalog') return { ...shape, ...TEXT };
  const { name } = base.type;
  const plain = PLAIN[name];
  if (plain) return { ...shape, duck: plain, read: cast(plain), write: asText };
  switch (name) {
    case 'bool':
      return {
        ...shape,
        duck: 'BOOLEAN',
        read: (text) => `(${text} = 't')`,
        write: (value) => `CASE WHEN ${value} THEN 't' WHEN NOT ${value} THEN 'f' END`,
      };
    case 'numeric':
      return { ...shape, ...numericOf(base.typmod) };
    case 'float4':
      return { ...shape, ...floating('FLOAT') };
    case 'float8':
      return { ...shape, ...floating('DOUBLE') };
    case 'date':
      return { ...shape, ...dated('DATE') };
    case 'timestamp':
      return { ...shape, ...dated('TIMESTAMP') };
    case 'timestamptz':
      return { ...shape, ...dated('TIMESTAMPTZ') };
    case 'bpchar':
      // Blanks at the end do not count in comparisons.
      return { ...shape, duck: 'VARCHAR', read: (text) => `rtrim(${text}, ' ')`, write: (value) => value };
    case 'json':
    case 'jsonb':
      return { ...shape, duck: 'JSON', read: cast('JSON'), write: asText };
    case 'bytea':
      return {
        ...shape,
        duck: 'BLOB',
        read: (text) => `unhex(substr(${text}, 3))`,
        write: (value) => `('\\x' || lower(hex(${value})))`,
      };
    default:
      return { ...shape, ...TEXT };
  }
}

function baseOf(type: PgType, typmod: number): { type: PgType; typmod: number } {
  return type.kind === 'domain' && type.of ? baseOf(type.of, type.typmod ?? -1) : { type, typmod };
}

/** A type by the name that people write, such as `numeric(12,2)`; null when it is not known. */
export function namedType(text: string): SqlType | null {
  const match = /^([a-z0-9 ]+?)\s*(?:\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\))?$/i.exec(text.trim());
  if (!match) return null;
  const given = (match[1] as string).toLowerCase().replace(/\s+/g, ' ');
  const name = ALIASES[given] ?? given;
  const oid = OIDS[name];
  if (oid === undefined) return null;
  const first = match[2] === undefined ? null : Number(match[2]);
  const typmod = typmodOf(name, first, Number(match[3] ?? 0));
  if (typmod === null) return null;
  return builtIn(name, typmod, first === null ? '' : `(${first}${name === 'numeric' ? `,${Number(match[3] ?? 0)}` : ''})`);
}

function typmodOf(name: string, first: number | null, scale: number): number | null {
  if (first === null) return -1;
  if (name === 'numeric') return ((first << 16) | scale) + 4;
  return name === 'varchar' || name === 'bpchar' ? first + 4 : null;
}

function builtIn(name: string, typmod = -1, suffix = ''): SqlType {
  const type: PgType = { oid: OIDS[name] as number, schema: 'pg_catalog', name, kind: 'base' };
  return sqlTypeOf({ type, typmod, sqlType: `${FORMAL[name] ?? FORMAL_TIMES[name] ?? name}${suffix}` });
}

const FROM_DUCK: Readonly<Record<string, string>> = {
  BOOLEAN: 'bool',
  TINYINT: 'int2',
  UTINYINT: 'int2',
  SMALLINT: 'int2',
  USMALLINT: 'int4',
  INTEGER: 'int4',
  UINTEGER: 'int8',
  BIGINT: 'int8',
  UBIGINT: 'numeric',
  HUGEINT: 'numeric',
  UHUGEINT: 'numeric',
  FLOAT: 'float4',
  DOUBLE: 'float8',
  DATE: 'date',
  TIME: 'time',
  TIMESTAMP: 'timestamp',
  'TIMESTAMP WITH TIME ZONE': 'timestamptz',
  INTERVAL: 'interval',
  UUID: 'uuid',
  JSON: 'jsonb',
  BLOB: 'bytea',
  VARCHAR: 'text',
};

/** The type of an expression that DuckDB says is of type `duck`: the nearest that PostgreSQL has. */
export function typeOfExpression(duck: string): SqlType {
  const decimal = /^DECIMAL\((\d+),(\d+)\)$/.exec(duck);
  // A numeric of any scale; every value shows the one that the expression gives it.
  if (decimal) return { ...builtIn('numeric'), duck, write: asText };
  return builtIn(FROM_DUCK[duck] ?? 'text');
}

export const TEXT_TYPE: SqlType = builtIn('text');
