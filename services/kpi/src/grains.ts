import type { Grain, Span } from '@tributary/config';
import { Fault } from '@tributary/core';
import { duckLiteral } from '@tributary/duckdb';

/** From the finest to the coarsest. */
const ORDER: readonly Grain[] = ['minute', 'hour', 'day', 'week', 'month', 'quarter', 'year'];

export interface Calendar {
  readonly zone: string;
  readonly weekStart: 'monday' | 'sunday';
}

/**
 * SQL of a calendar. A bucket is named by the instant at which it begins (TIMESTAMPTZ). Days and what is longer begin at midnight
 * in the zone, so a day may have 23 or 25 hours; hours are those of the zone's clock, and when it is set back the hour that
 * comes twice is two buckets: as PostgreSQL's `date_trunc(grain, instant, zone)` has it. Sessions have TimeZone = UTC.
 */
export function trunc(grain: Grain, instant: string, { zone, weekStart }: Calendar): string {
  // Offsets are whole minutes since 1972, so a minute begins with a minute of UTC.
  if (grain === 'minute') return `date_trunc('minute', ${instant})`;
  const local = toLocal(instant, zone);
  if (grain === 'hour') return `(${instant} - (${local} - date_trunc('hour', ${local})))`;
  if (grain === 'week' && weekStart === 'sunday')
    return toInstant(`(date_trunc('week', ${local} + INTERVAL 1 DAY) - INTERVAL 1 DAY)`, zone);
  return toInstant(`date_trunc('${grain}', ${local})`, zone);
}

/** The instant `count` units later (earlier: negative), by the zone's calendar where the unit is a day or longer. */
export function shift(instant: string, { count, unit }: Span, { zone }: Calendar): string {
  const interval = `to_${unit === 'minute' ? 'minutes' : unit === 'hour' ? 'hours' : unit === 'day' ? 'days' : unit === 'week' ? 'weeks' : unit === 'year' ? 'years' : 'months'}(${unit === 'quarter' ? count * 3 : count})`;
  if (unit === 'minute' || unit === 'hour') return `(${instant} + ${interval})`;
  return toInstant(`(${toLocal(instant, zone)} + ${interval})`, zone);
}

export function endOf(grain: Grain, bucket: string, calendar: Calendar): string {
  return shift(bucket, { count: 1, unit: grain }, calendar);
}

/** The finest of some grains, which the others are made from. A week and a month share only days. */
export function finest(grains: readonly Grain[]): Grain {
  const first = ORDER.find((grain) => grains.includes(grain)) ?? 'day';
  return first === 'week' && grains.length > 1 ? 'day' : first;
}

/** The finest grain that windows of these spans and buckets of these grains are whole numbers of. */
export function finestOf(grains: readonly Grain[], spans: readonly Grain[]): Grain {
  return finest([...grains, ...spans]);
}

function toLocal(instant: string, zone: string): string {
  return `timezone('${zone}', ${instant})`;
}

function toInstant(local: string, zone: string): string {
  return `timezone('${zone}', ${local})`;
}

/** The instant behind a value of a time column. Times without a zone, and dates, are those of the KPI's zone. */
export function instantOf(column: string, type: string, { zone }: Calendar): string | null {
  if (type === 'TIMESTAMP WITH TIME ZONE') return `(${column})`;
  if (type === 'TIMESTAMP' || type === 'DATE') return toInstant(`(${column})::TIMESTAMP`, zone);
  return null;
}

/** SQL of the columns that {@link bucketText} reads. */
export function bucketColumns(bucket: string, { zone }: Calendar): readonly string[] {
  const local = `timezone(${duckLiteral(zone)}, ${bucket})`;
  return [
    `strftime(${local}, '%Y-%m-%dT%H:%M:%S') AS _local`,
    `date_diff('minute', timezone('UTC', ${bucket}), ${local}) AS _offset`,
  ];
}

/** When a bucket begins, as ISO 8601 in the KPI's zone; null for a KPI without time. */
export function bucketText(row: Readonly<Record<string, unknown>>): string | null {
  const local = row['_local'];
  return typeof local === 'string' ? `${local}${offsetText(Number(row['_offset']))}` : null;
}

function offsetText(minutes: number): string {
  if (minutes === 0) return 'Z';
  const text = (n: number) => String(n).padStart(2, '0');
  const abs = Math.abs(minutes);
  return `${minutes < 0 ? '-' : '+'}${text(Math.floor(abs / 60))}:${text(abs % 60)}`;
}

/**
 * SQL of a time that somebody wrote; without an offset it is one of the KPI's zone.
 * @param parameter as which it was given @throws Fault `query_refused`
 */
export function writtenInstant(text: string, { zone }: Calendar, parameter: string): string {
  const [, day, time = 'T00:00:00', offset] =
    /^(\d{4}-\d\d-\d\d)([T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?(Z|[+-]\d\d:?\d\d)?$/i.exec(text.trim()) ?? [];
  if (day === undefined || Number.isNaN(Date.parse(`${day}${time.replace(' ', 'T')}`))) {
    const message = `${parameter}: "${text}" is no time (ISO 8601, for instance 2026-11-01 or 2026-11-01T12:00:00Z)`;
    throw new Fault('query_refused', message, { parameter });
  }
  const written = `${day} ${time.slice(1)}`;
  if (offset !== undefined) return `TIMESTAMPTZ ${duckLiteral(`${written}${offset}`)}`;
  return `timezone(${duckLiteral(zone)}, TIMESTAMP ${duckLiteral(written)})`;
}
