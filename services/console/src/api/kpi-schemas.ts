import { definitionBody } from './definitions.ts';

/** What may be asked of a KPI over HTTP; see `schemas.ts`. */

const text = { type: 'string', maxLength: 256 } as const;
const grain = {
  type: 'string',
  enum: ['minute', 'hour', 'day', 'week', 'month', 'quarter', 'year'],
  description: 'Length of a bucket; default: day, or the first that the KPI has',
} as const;
const time = (description: string) => ({ ...text, description }) as const;

const range = {
  grain,
  from: time('Buckets from there: ISO 8601; without an offset in the zone of the KPI'),
  to: time('Buckets that begin before'),
} as const;
const chosen = {
  ...range,
  measure: { type: 'string', maxLength: 4_096, description: 'Only these, separated by commas' },
  by: {
    type: 'string',
    maxLength: 4_096,
    description: 'Divided by these dimensions, separated by commas, or `none`; default: all',
  },
  filter: {
    type: 'array',
    items: { type: 'string', maxLength: 1_024 },
    maxItems: 256,
    description: 'dimension=value; may be repeated',
  },
  fill: { type: 'string', enum: ['none', 'empty'], description: '`empty`: buckets without rows too' },
} as const;
const asof = {
  type: 'string',
  maxLength: 4_096,
  description: 'As it was: a time, or the position of an earlier answer',
} as const;

const queryOf = <Properties extends object>(properties: Properties) =>
  ({ type: 'object', additionalProperties: false, properties }) as const;
const params = { type: 'object', properties: { kpi: { type: 'string', maxLength: 64 } } } as const;
const object = { type: 'object' } as const;

const FORMATS = ['json', 'csv', 'ndjson', 'parquet', 'arrow'] as const;

export interface RevisionsQuery {
  readonly grain?: string;
  readonly from?: string;
  readonly to?: string;
}

export interface StreamQuery extends RevisionsQuery {
  readonly measure?: string;
  readonly by?: string;
  readonly filter?: readonly string[];
  readonly fill?: 'none' | 'empty';
}

export type GrafanaQuery = StreamQuery;

export interface ValuesQuery extends StreamQuery {
  readonly asof?: string;
  readonly format?: ValuesFormat;
}

export type ValuesFormat = (typeof FORMATS)[number];

export interface RowsQuery extends Omit<ValuesQuery, 'format'> {
  readonly bucket?: string;
  readonly limit?: number;
}

export const list = { summary: 'KPIs, and how each is doing', response: { 200: { type: 'array', items: object } } };
export const show = { summary: 'A KPI: its definition, state and position', params, response: { 200: object } };

export const values = {
  summary: 'Values of a KPI, with how fresh they are',
  description:
    'The ETag names definition and position vector: with If-None-Match the answer is 304 until either moves. `Tributary-Position` is what `asof` takes.',
  params,
  querystring: queryOf({
    ...chosen,
    asof,
    format: { type: 'string', enum: FORMATS, description: 'Default: what `Accept` names first of them, or json' },
  }),
  response: { 200: object },
  produces: [
    'application/json',
    'text/csv',
    'application/x-ndjson',
    'application/vnd.apache.parquet',
    'application/vnd.apache.arrow.stream',
  ],
};

export const stream = {
  summary: 'Follow the values of a KPI',
  description:
    'Server-sent events: `values` (`whole`: all of them, else those that changed) and, while nothing changes, `freshness`. The id of each is its position.',
  params,
  querystring: queryOf(chosen),
  response: { 200: { type: 'string' } },
  produces: ['text/event-stream'],
};

export const grafana = {
  summary: 'Flat rows of a KPI, as Grafana takes them from a JSON source',
  description: '`time` in milliseconds since 1970 beside dimensions and measures; `from` and `to` may be that too.',
  params,
  querystring: queryOf(chosen),
  response: { 200: { type: 'array', items: object } },
};

export const rows = {
  summary: 'Rows that a bucket was made from',
  params,
  querystring: queryOf({
    grain,
    filter: chosen.filter,
    bucket: time('An instant in the bucket; a KPI without time takes none'),
    limit: { type: 'integer', minimum: 1, maximum: 1_000, description: 'At most so many rows; default: 100' },
    asof,
  }),
  response: { 200: object },
};

export const revisions = {
  summary: 'Changes of buckets that were closed, newest bucket first',
  description: '`position`: the last one before the change; as `asof` it shows the bucket as it was.',
  params,
  querystring: queryOf(range),
  response: { 200: object },
};

export const backfill = {
  summary: 'Compute what is kept of a KPI anew, and say how much of it differed',
  params,
  response: { 200: object },
};

const definition = definitionBody('Kpi');

export const validate = {
  summary: 'Check the definition of a KPI',
  description: '`bound`: its SQL was checked against the tables. 400: what is wrong, with line and column.',
  body: definition,
  response: { 200: object },
};

export const preview = {
  summary: 'How a definition would differ from the running one, bucket by bucket',
  params,
  querystring: queryOf(chosen),
  body: definition,
  response: { 200: object },
};
