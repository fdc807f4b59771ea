/** A type's name taken apart: `numeric(12,2)[]` is name `numeric`, modifiers 12 and 2, one dimension. */
interface SqlType {
  readonly name: string;
  readonly modifiers: readonly number[];
  /** ` with time zone` and the like stand behind the modifiers. */
  readonly suffix: string;
  readonly array: boolean;
}

const SHAPE =
  /^([^()[\]]+?)\s*(?:\(\s*(\d+)\s*(?:,\s*(-?\d+)\s*)?\))?\s*(with time zone|without time zone)?\s*((?:\[\d*\]\s*)*)$/;
/** A name, with a schema or not; quoted where it must be. */
const NAME = /^(?:(?:[a-z_][a-z0-9_$]*|"[^"]+")\.)?(?:[a-z_][a-z0-9_$]*|"[^"]+")$/;
const SPACED = ['double precision', 'character varying', 'bit varying'];

/** Other spellings, and those for which PostgreSQL has a longer one. */
const ALIASES: Readonly<Record<string, string>> = {
  int: 'integer',
  int2: 'smallint',
  int4: 'integer',
  int8: 'bigint',
  bool: 'boolean',
  float: 'double precision',
  float4: 'real',
  float8: 'double precision',
  decimal: 'numeric',
  dec: 'numeric',
  varchar: 'character varying',
  'char varying': 'character varying',
  char: 'character',
  bpchar: 'character',
  varbit: 'bit varying',
};

const TIMES: Readonly<Record<string, readonly [string, string]>> = {
  timestamptz: ['timestamp', 'with time zone'],
  timetz: ['time', 'with time zone'],
  timestamp: ['timestamp', 'without time zone'],
  time: ['time', 'without time zone'],
};

/** The integers, each with the digits it may need. */
const DIGITS: Readonly<Record<string, number>> = { smallint: 5, integer: 10, bigint: 19 };
const INTEGERS = Object.keys(DIGITS);

/** Longest precision of a time, and what it has without a modifier. */
const TIME_PRECISION = 6;

/**
 * The spelling of a type that `format_type` has for it: `int8` is `bigint`, `varchar(20)` is `character varying(20)`. A type that is
 * not PostgreSQL's own stays as it is. @returns null for what is no type's name
 */
export function canonicalType(text: string): string | null {
  const type = parse(text);
  return type && format(type);
}

/**
 * May a column of type `actual` stand where `promised` was promised: is every value of it one of the promised type, written the
 * same? An integer where a bigint was promised, a shorter text, fewer digits. Names without a schema mean a type of any schema.
 */
export function holdsType(promised: string, actual: string): boolean {
  const [wanted, found] = [parse(promised), parse(actual)];
  if (!wanted || !found) return promised === actual;
  if (wanted.array !== found.array) return false;
  if (wanted.name === found.name && wanted.suffix === found.suffix) return holdsModifiers(wanted, found);
  if (INTEGERS.includes(found.name)) {
    if (INTEGERS.includes(wanted.name)) return INTEGERS.indexOf(found.name) < INTEGERS.indexOf(wanted.name);
    if (wanted.name !== 'numeric') return false;
    const [precision, scale = 0] = wanted.modifiers;
    return precision === undefined || precision - scale >= (DIGITS[found.name] as number);
  }
  if (wanted.name === 'text') return found.name === 'character varying';
  if (wanted.name === 'double precision') return found.name === 'real';
  return !wanted.name.includes('.') && found.name.endsWith(`.${wanted.name}`);
}

/** PostgreSQL's type modifier of a type as {@link canonicalType} spells it; -1 = none. */
export function typmodOf(type: string): number {
  const parsed = parse(type);
  const [first, second = 0] = parsed?.modifiers ?? [];
  if (first === undefined) return -1;
  if (parsed?.name === 'numeric') return ((first << 16) | (second & 0x7ff)) + 4;
  return parsed?.name === 'character varying' || parsed?.name === 'character' ? first + 4 : first;
}

function holdsModifiers({ name, modifiers: wanted }: SqlType, { modifiers: found }: SqlType): boolean {
  const [most, scale = 0] = wanted;
  if (most === undefined) return true;
  if (name === 'numeric') {
    const [precision, decimals = 0] = found;
    return precision !== undefined && decimals <= scale && precision - decimals <= most - scale;
  }
  if (name === 'timestamp' || name === 'time') return (found[0] ?? TIME_PRECISION) <= most;
  if (name === 'character varying' || name === 'bit varying') return found[0] !== undefined && found[0] <= most;
  return found.join() === wanted.join();
}

function parse(text: string): SqlType | null {
  const spaced = text.trim().replaceAll(/\s+/g, ' ');
  // Quoted names keep their case.
  const lower = spaced.replaceAll(/"[^"]*"|[^"]+/g, (part) => (part.startsWith('"') ? part : part.toLowerCase()));
  const match = SHAPE.exec(lower.replace(/^pg_catalog\./, ''));
  if (!match) return null;
  const [, written = '', first, second, zone, dimensions = ''] = match;
  const [name, suffix] = nameOf(written, zone);
  if (!NAME.test(name) && !SPACED.includes(name)) return null;
  const modifiers = [first, second].filter((one) => one !== undefined).map(Number);
  // A character without a length has one character.
  if (name === 'character' && modifiers.length === 0 && written !== 'bpchar') modifiers.push(1);
  if (name === 'numeric' && modifiers.length === 1) modifiers.push(0);
  return { name, modifiers, suffix, array: dimensions !== '' };
}

function nameOf(written: string, zone: string | undefined): readonly [string, string] {
  const time = TIMES[written];
  if (time) return zone === undefined ? time : [time[0], zone];
  return [ALIASES[written] ?? written, zone ?? ''];
}

function format({ name, modifiers, suffix, array }: SqlType): string {
  const length = modifiers.length > 0 ? `(${modifiers.join(',')})` : '';
  return `${name}${length}${suffix ? ` ${suffix}` : ''}${array ? '[]' : ''}`;
}
