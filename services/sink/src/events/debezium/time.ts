/** PostgreSQL's dates and times (ISO style, UTC) as the numbers and texts that Debezium writes. */

const DAY_US = 86_400_000_000n;
/** What Debezium writes for infinite timestamps: those of PostgreSQL's Java driver. */
const FUTURE = '9223372036825200000';
const PAST = '-9223372036832400000';
const DATE_FUTURE = '2147483647';
const DATE_PAST = '-2147483648';

/** Days since 1970, also for years before Christ and beyond 9999. */
export function daysOf(text: string): string {
  if (text === 'infinity') return DATE_FUTURE;
  return text === '-infinity' ? DATE_PAST : String(epochDays(text));
}

/** @returns since 1970, in milliseconds or microseconds */
export function timestampOf(text: string, unit: 'ms' | 'us'): string {
  if (text === 'infinity') return FUTURE;
  if (text === '-infinity') return PAST;
  const [date = '', time = ''] = text.split(' ');
  const us = epochDays(text.endsWith(' BC') ? `${date} BC` : date) * DAY_US + microseconds(time);
  return String(unit === 'us' ? us : floorDiv(us, 1_000n));
}

/** @returns since midnight */
export function timeOfDay(text: string, unit: 'ms' | 'us'): string {
  const us = microseconds(text);
  return String(unit === 'us' ? us : us / 1_000n);
}

/** `15:13:16.9+02` → `13:13:16.9Z`. */
export function zonedTime(text: string): string {
  const match = /^(\d\d):(\d\d):(\d\d)(\.\d+)?([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?$/.exec(text);
  if (!match) return text;
  const [, h, m, s, fraction = '', sign, zh, zm = '0', zs = '0'] = match;
  const seconds = (hours: unknown, minutes: unknown, rest: unknown) =>
    Number(hours) * 3_600 + Number(minutes) * 60 + Number(rest);
  const offset = seconds(zh, zm, zs) * (sign === '-' ? -1 : 1);
  const utc = (((seconds(h, m, s) - offset) % 86_400) + 86_400) % 86_400;
  const two = (value: number) => String(Math.floor(value)).padStart(2, '0');
  return `${two(utc / 3_600)}:${two((utc / 60) % 60)}:${two(utc % 60)}${fraction}Z`;
}

/** `1 year 2 mons -3 days 04:05:06.78` → `P1Y2M-3DT4H5M6.78S`. */
export function isoInterval(text: string): string {
  const part = (unit: string) => Number(new RegExp(`([+-]?\\d+) ${unit}s?\\b`).exec(text)?.[1] ?? 0);
  const [, sign = '', h = '0', m = '0', s = '0'] = /([+-]?)(\d+):(\d\d):(\d\d(?:\.\d+)?)$/.exec(text) ?? [];
  const minus = (value: string) => (sign === '-' && Number(value) !== 0 ? `-${Number(value)}` : String(Number(value)));
  return `P${part('year')}Y${part('mon')}M${part('day')}DT${minus(h)}H${minus(m)}M${minus(s)}S`;
}

function microseconds(time: string): bigint {
  const [, h = '0', m = '0', s = '0', fraction = ''] = /^(\d\d):(\d\d):(\d\d)(?:\.(\d+))?/.exec(time) ?? [];
  return BigInt(Number(h) * 3_600 + Number(m) * 60 + Number(s)) * 1_000_000n + BigInt(fraction.padEnd(6, '0'));
}

/** Howard Hinnant's days_from_civil: years begin in March, so that leap days come last. */
function epochDays(text: string): bigint {
  const [, years = '0', months = '1', days = '1', bc] = /^(\d+)-(\d\d)-(\d\d)( BC)?/.exec(text) ?? [];
  const month = BigInt(months);
  const year = (bc ? 1n - BigInt(years) : BigInt(years)) - (month <= 2n ? 1n : 0n);
  const era = floorDiv(year, 400n);
  const yearOfEra = year - era * 400n;
  const dayOfYear = (153n * (month + (month > 2n ? -3n : 9n)) + 2n) / 5n + BigInt(days) - 1n;
  const dayOfEra = yearOfEra * 365n + yearOfEra / 4n - yearOfEra / 100n + dayOfYear;
  return era * 146_097n + dayOfEra - 719_468n;
}

function floorDiv(a: bigint, b: bigint): bigint {
  const quotient = a / b;
  return a % b < 0n ? quotient - 1n : quotient;
}
