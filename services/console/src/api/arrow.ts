import {
  Bool,
  type Data,
  type DataType,
  DateDay,
  Decimal,
  Field,
  Float64,
  Int32,
  Int64,
  makeData,
  RecordBatch,
  Schema,
  Struct,
  Table,
  tableToIPC,
  TimestampMicrosecond,
  Utf8,
} from 'apache-arrow';

/** A column, and the type that DuckDB has it in. */
export interface TypedColumn {
  readonly name: string;
  readonly type: string;
}

/** Values of a type of fixed width: how many bytes one takes, and how it is written. */
interface Plain {
  readonly type: DataType;
  readonly bytes: number;
  /** @returns false where the type cannot hold the value */
  readonly write: (view: DataView, at: number, value: unknown) => boolean;
}

/**
 * Rows as an Arrow IPC stream of one record batch. Decimals, instants, dates, whole numbers and doubles keep their types; everything else is text, and
 * so is a column with a value that its Arrow type cannot hold (`infinity`, a year before Christ).
 * @param about goes into the schema's metadata, under the key `tributary`
 */
export function arrowStream(
  columns: readonly TypedColumn[],
  rows: readonly Readonly<Record<string, unknown>>[],
  about: object,
): Uint8Array {
  const built = columns.map(({ name, type }) =>
    dataOf(
      rows.map((row) => row[name] ?? null),
      type,
    ),
  );
  const fields = columns.map(({ name }, i) => new Field(name, (built[i] as Data).type, true));
  const schema = new Schema(fields, new Map([['tributary', JSON.stringify(about)]]));
  const struct = makeData({ type: new Struct(fields), length: rows.length, nullCount: 0, children: built });
  return tableToIPC(new Table(schema, [new RecordBatch(schema, struct)]), 'stream');
}

function dataOf(values: readonly unknown[], type: string): Data {
  if (type === 'BOOLEAN') return booleans(values);
  const plain = plainOf(type);
  return (plain && fixed(values, plain)) ?? texts(values);
}

/** @returns null where some value has no place in the type */
function fixed(values: readonly unknown[], { type, bytes, write }: Plain): Data | null {
  const data = new Uint8Array(Math.ceil((values.length * bytes) / 64) * 64);
  const view = new DataView(data.buffer);
  for (const [i, value] of values.entries()) if (value !== null && !write(view, i * bytes, value)) return null;
  return makeData({ type, length: values.length, data: arrayOf(type, data), ...validity(values) } as never);
}

/** The same bytes as the array that the library has for the type. */
function arrayOf({ ArrayType }: DataType, { buffer }: Uint8Array): unknown {
  return new (ArrayType as new (buffer: ArrayBufferLike) => unknown)(buffer);
}

function booleans(values: readonly unknown[]): Data {
  const data = bitmap(values, (value) => value === true);
  return makeData({ type: new Bool(), length: values.length, data, ...validity(values) });
}

function texts(values: readonly unknown[]): Data {
  const encoded = values.map((value) =>
    Buffer.from(value === null ? '' : typeof value === 'string' ? value : JSON.stringify(value), 'utf8'),
  );
  const valueOffsets = new Int32Array(values.length + 1);
  for (const [i, one] of encoded.entries()) valueOffsets[i + 1] = (valueOffsets[i] as number) + one.length;
  return makeData({
    type: new Utf8(),
    length: values.length,
    valueOffsets,
    data: new Uint8Array(Buffer.concat(encoded)),
    ...validity(values),
  });
}

function validity(values: readonly unknown[]): { nullBitmap: Uint8Array; nullCount: number } {
  const nullCount = values.reduce<number>((count, value) => count + (value === null ? 1 : 0), 0);
  return { nullBitmap: bitmap(values, (value) => value !== null), nullCount };
}

function bitmap(values: readonly unknown[], holds: (value: unknown) => boolean): Uint8Array {
  const bits = new Uint8Array(Math.ceil(values.length / 64) * 8);
  for (const [i, value] of values.entries()) if (holds(value)) bits[i >> 3] = (bits[i >> 3] as number) | (1 << (i & 7));
  return bits;
}

const WHOLE: Plain = { type: new Int64(), bytes: 8, write: (view, at, value) => writeBig(view, at, BigInt(value as string)) };
const SMALL: Plain = { type: new Int32(), bytes: 4, write: (view, at, value) => (view.setInt32(at, Number(value), true), true) };
const DOUBLE: Plain = {
  type: new Float64(),
  bytes: 8,
  write: (view, at, value) => (view.setFloat64(at, Number(value), true), true),
};
const instants = (type: DataType): Plain => ({
  type,
  bytes: 8,
  write: (view, at, value) => {
    const micros = microsOf(String(value));
    return micros !== null && writeBig(view, at, micros);
  },
});
const TYPES: Readonly<Record<string, Plain>> = {
  BIGINT: WHOLE,
  UINTEGER: WHOLE,
  INTEGER: SMALL,
  SMALLINT: SMALL,
  TINYINT: SMALL,
  DOUBLE,
  FLOAT: DOUBLE,
  'TIMESTAMP WITH TIME ZONE': instants(new TimestampMicrosecond('UTC')),
  TIMESTAMP: instants(new TimestampMicrosecond()),
  DATE: {
    type: new DateDay(),
    bytes: 4,
    write: (view, at, value) => {
      const micros = microsOf(String(value));
      if (micros !== null) view.setInt32(at, Number(micros / 86_400_000_000n), true);
      return micros !== null;
    },
  },
};

function plainOf(type: string): Plain | null {
  if (type === 'HUGEINT') return decimals(38, 0);
  const [, precision, scale] = /^DECIMAL\((\d+),\s*(\d+)\)$/.exec(type) ?? [];
  return precision === undefined ? (TYPES[type] ?? null) : decimals(Number(precision), Number(scale));
}

function decimals(precision: number, scale: number): Plain {
  return {
    type: new Decimal(scale, precision, 128),
    bytes: 16,
    write: (view, at, value) => {
      const [whole = '', fraction = ''] = String(value).split('.');
      const unscaled = BigInt(whole + fraction.padEnd(scale, '0'));
      return writeBig(view, at, BigInt.asIntN(64, unscaled)) && writeBig(view, at + 8, unscaled >> 64n);
    },
  };
}

function writeBig(view: DataView, at: number, value: bigint): boolean {
  view.setBigInt64(at, value, true);
  return true;
}

/** Microseconds since 1970 of a time as DuckDB writes it, in UTC; null = it is none that Arrow has. */
function microsOf(text: string): bigint | null {
  const [, day, time = '00:00:00', fraction = ''] =
    /^(\d{4,}-\d\d-\d\d)(?: (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?(?:\+00)?)?$/.exec(text) ?? [];
  const ms = day === undefined ? Number.NaN : Date.parse(`${day}T${time}Z`);
  return Number.isNaN(ms) ? null : BigInt(ms) * 1_000n + BigInt(fraction.padEnd(6, '0'));
}
