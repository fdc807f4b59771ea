import { z } from 'zod';
import { connection } from './connection.ts';
import { duration, size } from './units.ts';

/** Names become stream, subject, slot and schema names: lower case keeps them equal everywhere. */
const name = z.string().regex(/^[a-z][a-z0-9_]{0,39}$/, 'expected lower-case letters, digits and _ (at most 40, a letter first)');

const tablePattern = z.string().regex(/^!?[^.]+\.[^.]+$/, 'expected schema.table, with * for any and ! in front to leave out');

export const cluster = z.strictObject({
  kind: z.literal('Cluster'),
  nats: z
    .strictObject({
      url: z.string().min(1).optional(),
      replicas: z.number().int().min(1).max(5).default(1),
      creds: z.string().optional(),
    })
    .prefault({}),
  changelog: z
    .strictObject({
      maxAge: duration('7d'),
      maxBytes: size('100GiB'),
      linger: duration('5ms'),
      /** How long a batch must have been stored before PostgreSQL may forget it: the broker's sync interval. */
      confirmAfter: duration('2m'),
    })
    .prefault({}),
  lake: z
    .strictObject({
      url: z
        .string()
        .regex(/^file:/, 'expected file:FOLDER; s3:// is not built yet')
        .optional(),
    })
    .prefault({}),
  http: z
    .strictObject({
      port: z.number().int().min(0).max(65_535).default(8080),
      tokens: z
        .array(
          z.strictObject({
            name: z.string().min(1),
            token: z.string().min(16, 'a token needs at least 16 characters'),
            role: z.enum(['viewer', 'analyst', 'operator', 'admin']),
          }),
        )
        .default([]),
    })
    .prefault({}),
});

export const source = z.strictObject({
  kind: z.literal('Source'),
  name,
  postgres: connection,
  tables: z.array(tablePattern).min(1).default(['public.*']),
  snapshot: z.enum(['initial', 'none']).default('initial'),
  labels: z.record(z.string(), z.string()).default({}),
  schemaChanges: z.literal('apply', 'only "apply" is built yet').default('apply'),
  heartbeat: duration('1s'),
});

const from = z.array(z.string().regex(/^(\*|[a-z0-9_*]+(\.[^.]+){1,2})$/, 'expected *, SOURCE.* or SOURCE.SCHEMA.TABLE')).min(1);

export const odsSink = z.strictObject({
  kind: z.literal('Sink'),
  type: z.literal('ods'),
  name,
  from: from.default(['*']),
  postgres: connection,
  /** Target schema; `{source}` and `{schema}` are filled in. Default: source, or source_schema where the schema is not public. */
  schema: z.string().min(1).optional(),
  history: z.literal(false, 'history: true is not built yet').default(false),
  onError: z.literal('halt', 'only "halt" is built yet').default('halt'),
});

export const lakeSink = z.strictObject({
  kind: z.literal('Sink'),
  type: z.literal('lake'),
  name,
  from: from.default(['*']),
  flush: z.strictObject({ every: duration('30s'), bytes: size('128MiB') }).prefault({}),
  compact: z.strictObject({ every: duration('5m') }).prefault({}),
});

/** Kinds, types and keys that the interface names and that later versions bring. */
export const NOT_BUILT: Readonly<Record<string, string>> = {
  Transform: 'kind: Transform is not built yet',
  Kpi: 'kind: Kpi is not built yet',
  Process: 'kind: Process is not built yet',
};

export type ClusterDocument = z.output<typeof cluster>;
export type SourceDocument = z.output<typeof source>;
export type OdsDocument = z.output<typeof odsSink>;
export type LakeDocument = z.output<typeof lakeSink>;
