import { definitionBody } from './definitions.ts';

/** What a caller may say of a question about a process. */
export interface ProcessAsked {
  readonly min_share?: number;
  readonly format?: string;
  readonly [other: string]: unknown;
}

const PICTURE_TYPES = {
  json: 'application/json',
  svg: 'image/svg+xml; charset=utf-8',
  dot: 'text/vnd.graphviz; charset=utf-8',
} as const;

/** A picture is opened by itself, too: it runs nothing and loads nothing. */
export const PICTURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'";

export function pictureType(format: string | undefined): string {
  return PICTURE_TYPES[format as keyof typeof PICTURE_TYPES] ?? PICTURE_TYPES.json;
}

export const params = { type: 'object', properties: { process: { type: 'string', maxLength: 64 } } } as const;
export const text = (description: string) => ({ type: 'string', maxLength: 256, description }) as const;
const choice = (values: readonly string[], description: string) => ({ type: 'string', enum: values, description }) as const;
const scope = {
  from: text('Events from there: ISO 8601'),
  to: text('Events before'),
  object: text('Type of object whose life is the case; default: the root'),
} as const;
export const limit = { type: 'integer', minimum: 1, maximum: 100_000, description: 'At most so many; default: 100' } as const;
export const object = { type: 'object' } as const;
export const viewer = { role: 'viewer' } as const;
export const analyst = { role: 'analyst' } as const;

export const asked = (summary: string, properties: object) => ({
  summary,
  params,
  querystring: { type: 'object', additionalProperties: false, properties },
  response: { 200: object },
});

const pictured = (summary: string, properties: object, formats: readonly (keyof typeof PICTURE_TYPES)[]) => ({
  ...asked(summary, { ...properties, format: { ...choice(formats, 'json, or a picture'), default: 'json' } }),
  produces: formats.map((format) => PICTURE_TYPES[format]),
});

export const validateSchema = {
  summary: 'Check the definition of a process',
  description: '400: what is wrong, with line and column. Hooks that it names are looked for when it is PUT.',
  body: definitionBody('Process'),
  response: { 200: object },
} as const;

export const replaySchema = {
  summary: 'What-if: how often another definition would have fired on the cases that are here, and where',
  description:
    'Body: a document of kind: Process (YAML or JSON) with the same objects, root and events and other rules; as YAML a second one behind it, to be compared with instead of the running one. Nothing is changed.',
  params,
  querystring: { type: 'object', additionalProperties: false, properties: { limit: { ...limit, maximum: 10_000 } } },
  response: { 200: object },
} as const;

/** Questions about one process, at `/v1/processes/{process}/…`, with who may ask. Cases name keys of rows and variants show single ones; the others only count. */
export const QUESTIONS = [
  [
    'problems',
    analyst,
    asked(
      'What is wrong now, in plain words, the worst first: rules that are broken or kept by all, what is stuck, missing or silent',
      {
        limit: { ...limit, maximum: 2_000, description: 'Cases that are named of each, the newest first; default: 20' },
      },
    ),
  ],
  [
    'map',
    viewer,
    pictured(
      'Directly-follows graph, with counts and times',
      {
        ...scope,
        object: text(
          'Type of object whose life is the case; default: the root. `*`: all types, each counted as couples, unique and total objects',
        ),
        min_share: { type: 'number', minimum: 0, maximum: 1, description: 'Leaves out edges of a smaller share of all steps' },
      },
      ['json', 'svg', 'dot'],
    ),
  ],
  ['variants', viewer, asked('Ways that cases took, the most frequent first', { ...scope, limit })],
  [
    'cases',
    analyst,
    asked('Cases, the newest first; of a process with rules each with its verdicts, unless sort or ended is given', {
      ...scope,
      limit,
      state: choice(
        ['open', 'done', 'met', 'violated', 'stuck', 'missing', 'silent'],
        'Cases in this state; stuck, missing, silent: with what is learned to be unusual in them',
      ),
      case: text('This case alone, with its verdicts'),
      rule: text('Cases of which this rule is violated, for good or for now'),
      ended: { type: 'boolean', description: 'Only cases that ended, or that go on' },
      sort: choice(
        ['newest', 'longest', 'waiting'],
        'By the last event (default), from the first event on, or since the last one',
      ),
    }),
  ],
  ['bottlenecks', viewer, asked('Where time passes and cases stand, activity by activity; rework', scope)],
  [
    'wip',
    viewer,
    pictured(
      'Cases that go on, by what happened last, over time',
      { ...scope, buckets: { type: 'integer', minimum: 1, maximum: 500, description: 'Stretches of time; default: 120' } },
      ['json', 'svg'],
    ),
  ],
  [
    'spectrum',
    viewer,
    {
      ...pictured(
        'How long cases took from one activity to the next, one by one',
        { ...scope, segment: text('Two activities that follow each other, as a>b'), limit: { ...limit, maximum: 2_000 } },
        ['json', 'svg'],
      ),
    },
  ],
  [
    'drift',
    viewer,
    asked('Do cases go other ways, or at another pace, than before? G-test and Kolmogorov-Smirnov', {
      ...scope,
      window: text('The newest stretch of time; default: 7d'),
      against: text('What it is compared with, before it; default: 28d'),
      alpha: {
        type: 'number',
        exclusiveMinimum: 0,
        exclusiveMaximum: 1,
        description: 'How probable a false alarm may be; default: 0.001',
      },
    }),
  ],
] as const;

/** The question as the worker takes it. */
export function questionOf(what: string, { min_share: minShare, ...rest }: ProcessAsked): object {
  return { what, ...rest, ...(minShare === undefined ? {} : { minShare }) };
}
