import { z } from 'zod';
import { type AlertExpression, type AlertNames, ConditionError, parseCondition } from './alert-condition.ts';
import { access, accessOf, checkAccess, type KpiAccess } from './kpi-access.ts';
import { checkFreshness, freshness, freshnessOf } from './kpi-freshness.ts';
import { type Grain, GRAINS, ident } from './kpi-names.ts';
import { checkPublish, type KpiPublish, publish, publishOf } from './kpi-publish.ts';
import { checkTests, kpiTest } from './kpi-tests.ts';
import { duration, optionalDuration } from './units.ts';

/** A KPI with every default filled in. JSON, so that it travels, and its fingerprint is its version. */
export interface KpiConfig {
  readonly name: string;
  readonly owner: string | null;
  /** KPIs of one engine share one state: the tables they name are kept once, and read by one worker. */
  readonly engine: string;
  readonly definition: KpiDefinition | KpiQuery;
  /** How long as-of reaches back, ms. */
  readonly historyMs: number;
  readonly late: { readonly restateForMs: number };
  readonly targets: readonly KpiTarget[];
  /** How old its values may be while all is well, ms; null: nothing is promised. */
  readonly freshnessTargetMs: number | null;
  /** From which lag on its values are stale, ms. */
  readonly staleAfterMs: number;
  readonly alerts: readonly KpiAlert[];
  readonly publish: KpiPublish | null;
  /** Null: whoever may call at all. */
  readonly access: KpiAccess | null;
  /** `file:line:column` of every part that holds SQL, by its path (`measures.gmv.sql`). */
  readonly places: Readonly<Record<string, string>>;
}

export interface KpiDefinition {
  readonly kind: 'measures';
  /** The first is the fact: every result row belongs to one row of it. */
  readonly from: readonly KpiTable[];
  readonly time: {
    readonly column: string;
    readonly zone: string;
    readonly grains: readonly Grain[];
    readonly weekStart: 'monday' | 'sunday';
  } | null;
  readonly where: string | null;
  /** Name → SQL. */
  readonly dimensions: Readonly<Record<string, string>>;
  readonly measures: Readonly<Record<string, KpiMeasure>>;
}

/** The short form: one SELECT, evaluated anew when one of its tables changed. */
export interface KpiQuery {
  readonly kind: 'query';
  readonly sql: string;
  readonly everyMs: number;
}

export interface KpiTable {
  readonly alias: string;
  readonly source: string;
  /** `schema.table`. */
  readonly table: string;
  /** Join condition; null for the fact. */
  readonly on: string | null;
  /** A fact without a row here stays, with NULL for its columns. */
  readonly outer: boolean;
}

export type KpiMeasure = { readonly unit: string | null; readonly empty: 'zero' | 'null' } & (
  | { readonly kind: 'sql'; readonly sql: string }
  | { readonly kind: 'derived'; readonly sql: string }
  | { readonly kind: 'rolling'; readonly of: string; readonly span: Span }
  | { readonly kind: 'to_date'; readonly of: string; readonly grain: Grain }
  | { readonly kind: 'versus'; readonly of: string; readonly span: Span; readonly as: 'change' | 'ratio' | 'value' }
);

/** A span of the calendar in the KPI's zone: a day is from midnight to midnight, however many hours that has. */
export interface Span {
  readonly count: number;
  readonly unit: Grain;
}

export interface KpiTarget {
  readonly measure: string;
  readonly grain: Grain;
  readonly good: 'up' | 'down';
  readonly target: number;
  readonly warn: number | null;
  readonly crit: number | null;
}

export interface KpiAlert {
  readonly name: string;
  /** `freshness`: that there are values, and how old they are, whatever they say. */
  readonly about: 'values' | 'freshness';
  /** As written. */
  readonly when: string;
  readonly condition: AlertExpression;
  /** Dimensions: one alert for every value that they have together; none: one over all. */
  readonly by: readonly string[];
  /** Of values: those that had rows within so long before the newest, ms. */
  readonly seenWithinMs: number;
  /** The condition must have held for so long. */
  readonly forMs: number;
  /** It must not have held for so long before the alert is over. */
  readonly keepFiringMs: number;
  /** A value that the condition needs is not there: as if it held, as if not, or nothing changes. */
  readonly noData: 'alert' | 'ok' | 'hold';
  /** Values are older than `staleAfterMs`: nothing changes, or as if the condition held. */
  readonly stale: 'hold' | 'alert';
  /** Null: told once. */
  readonly renotifyMs: number | null;
  /** How often it is looked at, ms. */
  readonly everyMs: number;
  /** Names of hooks. */
  readonly to: readonly string[];
}

const sql = z.string().trim().min(1, 'expected SQL');
const SPAN = /^(\d+)(min|m|h|d|w|mo|q|y)$/;
const SPAN_UNITS: Readonly<Record<string, Grain>> = {
  min: 'minute',
  m: 'minute',
  h: 'hour',
  d: 'day',
  w: 'week',
  mo: 'month',
  q: 'quarter',
  y: 'year',
};
const span = z.string().transform((text, context): Span => {
  const [, count = '0', unit = ''] = SPAN.exec(text) ?? [];
  const grain = SPAN_UNITS[unit];
  if (grain && Number(count) > 0) return { count: Number(count), unit: grain };
  context.addIssue({ code: 'custom', message: 'expected a span such as 30min, 24h, 7d, 1w, 1mo, 1q or 1y' });
  return z.NEVER;
});

const table = z
  .string()
  .regex(/^[a-z][a-z0-9_]*(\.[^.]+){1,2}$/, 'expected SOURCE.SCHEMA.TABLE, or SOURCE.TABLE for the schema public')
  .transform((text) => {
    const [source = '', ...rest] = text.split('.');
    return { source, table: rest.length === 1 ? `public.${rest[0]}` : rest.join('.') };
  });
const joined = z.strictObject({
  table,
  on: sql,
  as: z.literal('dimension', 'expected dimension: a fact without such a row stays').optional(),
});

const measure = z
  .strictObject({
    sql: sql.optional(),
    derived: sql.optional(),
    of: ident.optional(),
    rolling: span.optional(),
    to_date: z.enum(GRAINS).optional(),
    versus: span.optional(),
    as: z.enum(['change', 'ratio', 'value']).optional(),
    unit: z.string().optional(),
    /** What a bucket without rows shows. */
    empty: z.enum(['zero', 'null']).default('null'),
  })
  .transform((given, context): KpiMeasure => {
    const complain = (message: string) => {
      context.addIssue({ code: 'custom', message });
      return z.NEVER;
    };
    const common = { unit: given.unit ?? null, empty: given.empty };
    const forms = [given.sql, given.derived, given.rolling, given.to_date, given.versus].filter((one) => one !== undefined);
    if (forms.length !== 1) return complain('expected one of sql, derived, or of with rolling, to_date or versus');
    if (given.as !== undefined && given.versus === undefined) return complain('"as" belongs to versus');
    if (given.sql !== undefined) return { ...common, kind: 'sql', sql: given.sql };
    if (given.derived !== undefined) return { ...common, kind: 'derived', sql: given.derived };
    if (given.of === undefined) return complain('expected "of": the measure that it is made from');
    if (given.rolling) return { ...common, kind: 'rolling', of: given.of, span: given.rolling };
    if (given.to_date) return { ...common, kind: 'to_date', of: given.of, grain: given.to_date };
    return { ...common, kind: 'versus', of: given.of, span: given.versus as Span, as: given.as ?? 'change' };
  });

/** Dimensions that an alert is divided by. */
const ALERT_BY_MAX = 4;
/** Every look is a question to DuckDB. */
const ALERT_EVERY_MS_MIN = 100;
/** How soon it is noticed that a bucket has closed. */
const CHECK_EVERY_MS = 5_000;
/** Columns that an answer has beside dimensions and measures. */
const ANSWER_NAMES = ['bucket', 'revision', 'closed'];

const alert = z.strictObject({
  name: ident,
  when: z.string().trim().min(1, 'expected a condition such as gmv(hour) < 100').max(2_000),
  by: z.array(ident).max(ALERT_BY_MAX).default([]),
  seen_within: duration('7d'),
  for: duration('0s'),
  keep_firing: duration('0s'),
  no_data: z.enum(['alert', 'ok', 'hold']).default('hold'),
  stale: z.enum(['hold', 'alert']).default('hold'),
  renotify: optionalDuration(),
  every: duration('10s'),
  to: z.array(z.string()).default([]),
});

export const kpi = z
  .strictObject({
    kind: z.literal('Kpi'),
    spec: z.literal(1, 'expected spec: 1').default(1),
    name: ident,
    owner: z.string().optional(),
    engine: ident.default('kpi'),
    sql: sql.optional(),
    every: duration('1s'),
    from: z.record(ident, z.union([table, joined], { error: 'expected SOURCE.SCHEMA.TABLE, or { table, on, as }' })).optional(),
    time: z
      .strictObject({
        column: sql,
        zone: z.string().refine(isZone, 'expected a time zone such as Europe/Berlin or UTC').default('UTC'),
        grains: z.array(z.enum(GRAINS)).min(1).default(['hour', 'day', 'week', 'month']),
        week_start: z.enum(['monday', 'sunday']).default('monday'),
      })
      .optional(),
    where: sql.optional(),
    dimensions: z.record(ident, sql).default({}),
    measures: z.record(ident, measure).optional(),
    history: z.strictObject({ keep: duration('7d') }).prefault({}),
    late: z.strictObject({ restate_for: duration('90d'), after: z.literal('flag').default('flag') }).prefault({}),
    targets: z
      .array(
        z.strictObject({
          measure: ident,
          grain: z.enum(GRAINS),
          good: z.enum(['up', 'down']).default('up'),
          target: z.number(),
          warn: z.number().optional(),
          crit: z.number().optional(),
          check: z.literal('on_close').optional(),
          to: z.array(z.string()).default([]),
        }),
      )
      .default([]),
    access: access.optional(),
    freshness: freshness.prefault({}),
    alerts: z.array(alert).default([]),
    publish: publish.optional(),
    tests: z.array(kpiTest).default([]),
  })
  .superRefine((document, context) => {
    const complain = (message: string, ...path: string[]) => context.addIssue({ code: 'custom', message, path });
    if (document.access)
      checkAccess(document.access, document.sql === undefined ? Object.keys(document.dimensions) : null, complain);
    checkFreshness(document.freshness, document.alerts, complain);
    if (document.sql !== undefined) {
      checkTests(document.tests, null, complain);
      for (const key of ['from', 'time', 'where', 'measures'] as const)
        if (document[key] !== undefined) complain('a Kpi has either sql, or from and measures', key);
      checkPublish(document, complain);
      for (const kind of ['alerts', 'targets'] as const)
        if (document[kind].length > 0) complain(`${kind} look at measures, which a Kpi of one SELECT does not have`, kind);
      return;
    }
    if (!document.from) return complain('"from" is missing: the tables of the Kpi, the fact first', 'from');
    if (!document.measures) return complain('"measures" is missing', 'measures');
    Object.entries(document.from).forEach(([alias, one], i) => {
      if (i === 0 && 'on' in one) complain('the first table is the fact, which joins nothing: leave out "on"', 'from', alias);
      if (i > 0 && !('on' in one)) complain('expected { table, on }: how it joins the tables before it', 'from', alias);
    });
    checkMeasures(document.measures, document.time !== undefined, complain);
    for (const [kind, names] of [
      ['dimensions', Object.keys(document.dimensions)],
      ['measures', Object.keys(document.measures)],
    ] as const)
      for (const name of names)
        if (ANSWER_NAMES.includes(name)) complain(`${name} is a column of every answer: call it otherwise`, kind, name);
    for (const name of Object.keys(document.dimensions))
      if (name in document.measures) complain('a dimension and a measure have the same name', 'dimensions', name);
    checkPublish(document, complain);
    checkAlerts(document, complain);
    const names = namesOf(document);
    const columns = [...(document.time ? ['bucket'] : []), ...Object.keys(document.dimensions), ...names.measures];
    checkTests(document.tests, { columns, grains: names.grains }, complain);
    const checked = document.targets.map((one) => (one.check ? checkNameOf(one) : null));
    document.targets.forEach((target, i) => {
      const name = checked[i];
      if (target.to.length > 0 && !target.check) complain('"to" goes with check: on_close', 'targets', String(i), 'to');
      if (name && (checked.indexOf(name) < i || document.alerts.some((one) => one.name === name)))
        complain(`there are two alerts called ${name}`, 'targets', String(i), 'check');
      if (!document.measures?.[target.measure])
        complain(`there is no measure ${target.measure}`, 'targets', String(i), 'measure');
      if (!document.time?.grains.includes(target.grain))
        complain(`${target.grain} is not among time.grains`, 'targets', String(i), 'grain');
    });
  });

function namesOf({
  measures = {},
  time,
}: {
  measures?: object | undefined;
  time?: { grains: readonly Grain[] } | undefined;
}): AlertNames {
  return { measures: Object.keys(measures), grains: time?.grains ?? [] };
}

function checkAlerts(
  document: Pick<KpiDocument, 'alerts' | 'measures' | 'time' | 'dimensions' | 'access'>,
  complain: (message: string, ...path: string[]) => void,
): void {
  const { alerts, dimensions, access: guarded } = document;
  const names = namesOf(document);
  alerts.forEach(({ name, when, every, by }, i) => {
    if (alerts.findIndex((one) => one.name === name) < i)
      complain(`there are two alerts called ${name}`, 'alerts', String(i), 'name');
    by.forEach((dimension, j) => {
      if (!(dimension in dimensions)) complain(`there is no dimension ${dimension}`, 'alerts', String(i), 'by', String(j));
      if (by.indexOf(dimension) < j) complain(`${dimension} is named twice`, 'alerts', String(i), 'by', String(j));
    });
    if (by.length > 0 && guarded)
      complain('everyone is told of alerts, and would see values of a Kpi with access', 'alerts', String(i), 'by');
    if (every < ALERT_EVERY_MS_MIN) complain(`expected at least ${ALERT_EVERY_MS_MIN} ms`, 'alerts', String(i), 'every');
    try {
      parseCondition(when, names);
    } catch (error) {
      if (!(error instanceof ConditionError)) throw error;
      complain(error.message, 'alerts', String(i), 'when');
    }
  });
}

function checkMeasures(
  measures: Readonly<Record<string, KpiMeasure>>,
  timed: boolean,
  complain: (message: string, ...path: string[]) => void,
): void {
  for (const [name, one] of Object.entries(measures)) {
    if (one.kind === 'sql' || one.kind === 'derived') continue;
    if (!timed) complain(`${one.kind} needs "time"`, 'measures', name);
    const of = measures[one.of];
    if (of?.kind !== 'sql') complain(`"of": there is no measure ${one.of} with sql`, 'measures', name, 'of');
  }
}

function isZone(text: string): boolean {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: text }).format() !== '';
  } catch {
    return false;
  }
}

export type KpiDocument = z.output<typeof kpi>;

/** @param place `file:line:column` of a path */
export function kpiOf(document: KpiDocument, place: (path: readonly string[]) => string): KpiConfig {
  const places: Record<string, string> = {};
  const note = (...path: string[]) => (places[path.join('.')] = place(path));
  const { watch, ...fresh } = freshnessOf(document.freshness);
  return {
    name: document.name,
    owner: document.owner ?? null,
    engine: document.engine,
    definition: document.sql === undefined ? measuresOf(document, note) : queryOf(document.sql, document.every, note),
    historyMs: document.history.keep,
    late: { restateForMs: document.late.restate_for },
    targets: document.targets.map(({ warn, crit, check: _check, to: _to, ...rest }) => {
      return { ...rest, warn: warn ?? null, crit: crit ?? null };
    }),
    ...fresh,
    alerts: [
      ...watch,
      ...document.alerts.map((one) => alertOf(one, namesOf(document))),
      ...document.targets.filter(({ check }) => check).map(checkOf),
    ],
    publish: document.publish ? publishOf(document, document.publish) : null,
    access: document.access ? accessOf(document.access, Object.keys(document.dimensions)) : null,
    places,
  };
}

function alertOf(document: z.output<typeof alert>, names: AlertNames): KpiAlert {
  const { keep_firing: keepFiringMs, no_data: noData, for: forMs, every: everyMs, renotify, ...others } = document;
  const { seen_within: seenWithinMs, ...rest } = others;
  const condition = parseCondition(rest.when, names);
  return {
    ...rest,
    about: 'values',
    condition,
    seenWithinMs,
    forMs,
    keepFiringMs,
    noData,
    everyMs,
    renotifyMs: renotify ?? null,
  };
}

/** Names the alert that a target is checked by. */
function checkNameOf({ measure: name, grain }: Pick<KpiTarget, 'measure' | 'grain'>): string {
  return `target_${name}_${grain}`;
}

/** A target that is checked when a bucket closes: an alert about the newest closed bucket. */
function checkOf(target: KpiDocument['targets'][number]): KpiAlert {
  const { measure: name, grain, good, warn, crit, to } = target;
  const limit = warn ?? crit ?? target.target;
  const operator = good === 'up' ? '<' : '>';
  const [left, right] = [
    { kind: 'value', measure: name, grain, bucket: 'closed' },
    { kind: 'number', value: limit },
  ] as const;
  return {
    name: checkNameOf(target),
    about: 'values',
    when: `${name}(${grain}) ${operator} ${limit}`,
    condition: { kind: 'operation', operator, left, right },
    by: [],
    seenWithinMs: 0,
    forMs: 0,
    keepFiringMs: 0,
    noData: 'hold',
    stale: 'hold',
    renotifyMs: null,
    everyMs: CHECK_EVERY_MS,
    to,
  };
}

function queryOf(text: string, everyMs: number, note: (...path: string[]) => string): KpiQuery {
  note('sql');
  return { kind: 'query', sql: text, everyMs };
}

function measuresOf(document: KpiDocument, note: (...path: string[]) => string): KpiDefinition {
  const { from = {}, time, where, dimensions, measures = {} } = document;
  for (const alias of Object.keys(from)) note('from', alias);
  if (time) note('time', 'column');
  if (where !== undefined) note('where');
  for (const name of Object.keys(dimensions)) note('dimensions', name);
  for (const [name, one] of Object.entries(measures))
    note('measures', name, ...(one.kind === 'sql' ? ['sql'] : one.kind === 'derived' ? ['derived'] : []));
  return {
    kind: 'measures',
    from: Object.entries(from).map(([alias, one]) =>
      'on' in one
        ? { alias, ...one.table, on: one.on, outer: one.as === 'dimension' }
        : { alias, ...one, on: null, outer: false },
    ),
    time: time ? { column: time.column, zone: time.zone, grains: time.grains, weekStart: time.week_start } : null,
    where: where ?? null,
    dimensions,
    measures,
  };
}
