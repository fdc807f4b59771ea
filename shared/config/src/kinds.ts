import { z } from 'zod';
import { matchesTable, ROLES } from './config.ts';
import { connection } from './connection.ts';
import { contract } from './contract.ts';
import { checkEvents, eventsKeys } from './events.ts';
import { checkTransform, transformKeys } from './transforms.ts';
import { duration, optionalDuration, size } from './units.ts';

/** Names become stream, subject, slot and schema names: lower case keeps them equal everywhere. */
const name = z.string().regex(/^[a-z][a-z0-9_]{0,39}$/, 'expected lower-case letters, digits and _ (at most 40, a letter first)');

const tablePattern = z.string().regex(/^!?[^.]+\.[^.]+$/, 'expected schema.table, with * for any and ! in front to leave out');

const claimName = z.string().regex(/^[a-z][a-z0-9_]*$/, 'expected lower-case letters, digits and _ (a letter first)');
const claimed = z.union([z.string(), z.number(), z.boolean()]).transform(String);
const claim = z.union([claimed.transform((one) => [one]), z.array(claimed).min(1, 'expected at least one value')], {
  error: 'expected text, a number, or a list of them',
});

export const cluster = z.strictObject({
  kind: z.literal('Cluster'),
  nats: z
    .strictObject({
      /** One server, or several members of a cluster: as a list, or separated by commas. */
      url: z
        .union([z.string().min(1), z.array(z.string().min(1)).min(1, 'expected an address, or a list of them')], {
          error: 'expected an address, or a list of them',
        })
        .optional(),
      replicas: z.number().int().min(1).max(5).default(1),
      creds: z.string().optional(),
    })
    .prefault({}),
  changelog: z
    .strictObject({
      maxAge: duration('7d'),
      maxBytes: size('100GiB'),
      linger: duration('5ms'),
      /** How long a batch must have been stored before PostgreSQL may forget it. Default: {@link CONFIRM_AFTER_MS}. */
      confirmAfter: optionalDuration(),
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
  kpi: z.strictObject({ memory: size('256MiB'), threads: z.number().int().min(1).max(64).default(2) }).prefault({}),
  http: z
    .strictObject({
      port: z.number().int().min(0).max(65_535).default(8080),
      tokens: z
        .array(
          z
            .strictObject({
              name: z.string().min(1),
              token: z.string().min(16, 'a token needs at least 16 characters'),
              role: z.enum(ROLES),
              tables: z
                .array(z.string().regex(/^[^.*]+\.([^.*]+|\*)$/, 'expected SCHEMA.TABLE or SCHEMA.*, as queries name tables'))
                .optional(),
              claims: z.record(claimName, claim).default({}),
            })
            .refine(({ role, tables }) => tables === undefined || role === 'analyst', {
              path: ['tables'],
              message: 'only an analyst can be limited to tables',
            }),
        )
        .default([]),
    })
    .prefault({}),
});

export const source = z
  .strictObject({
    kind: z.literal('Source'),
    name,
    postgres: connection,
    tables: z.array(tablePattern).min(1).default(['public.*']),
    snapshot: z.enum(['initial', 'none']).default('initial'),
    labels: z.record(z.string(), z.string()).default({}),
    /** What happens when a table breaks the contract; changes that keep it always pass. */
    schemaChanges: z.enum(['apply', 'keep', 'halt']).default('apply'),
    contract: contract.optional(),
    heartbeat: duration('1s'),
  })
  .superRefine(({ tables, schemaChanges, contract }, context) => {
    if (schemaChanges !== 'apply' && !contract) {
      const message = `${schemaChanges} needs a "contract", which says what must not change`;
      context.addIssue({ code: 'custom', path: ['schemaChanges'], message });
    }
    for (const table of Object.keys(contract?.tables ?? {})) {
      if (matchesTable(tables, table)) continue;
      context.addIssue({
        code: 'custom',
        path: ['contract', 'tables', table],
        message: 'this source does not capture it: see "tables"',
      });
    }
  });

const from = z.array(z.string().regex(/^(\*|[a-z0-9_*]+(\.[^.]+){1,2})$/, 'expected *, SOURCE.* or SOURCE.SCHEMA.TABLE')).min(1);

/** More parts would read the same changelog more often than they gain. */
const PARTITIONS_MAX = 32;

export const odsSink = z
  .strictObject({
    kind: z.literal('Sink'),
    type: z.literal('ods'),
    name,
    from: from.default(['*']),
    postgres: connection,
    /** Target schema; `{source}` and `{schema}` are filled in. Default: source, or source_schema where the schema is not public. */
    schema: z.string().min(1).optional(),
    /** How many actors share the tables of each source. Each is consistent at transaction ends, for its own tables. */
    partitions: z.number().int().min(1).max(PARTITIONS_MAX).default(1),
    /**
     * Sources that are shards of one database: each table of that name stands once, in schema `into` (`{schema}` is filled in), with the
     * source's name in the column `shard`.
     */
    merge: z
      .strictObject({
        into: z
          .string()
          .min(1)
          .regex(/^(?!.*\{source\})/, 'must be the same for all sources: leave {source} out'),
        shard: z.string().min(1).default('shard'),
      })
      .optional(),
    /** Tables of the target that Tributary did not make: an error, or filled as their owner made them. */
    existing: z.enum(['refuse', 'adopt']).default('refuse'),
    /** Of the target's owner: checked when a transaction is complete, or not at all (`session_replication_role = replica`). */
    foreignKeys: z.enum(['check', 'replica']).default('check'),
    /** A row that is deleted stays, marked with when and where (`_deleted_at`, `_deleted_lsn`, `_deleted_ordinal`). */
    softDelete: z.boolean().default(false),
    /** Every version of every row is kept, in schema `<target schema>_history`. */
    history: z.boolean().default(false),
    /** A change that cannot be applied: the projection halts, or its table is put aside and other tables go on. */
    onError: z.enum(['halt', 'quarantine']).default('halt'),
  })
  .refine((sink) => !sink.merge || sink.schema === undefined || sink.schema.includes('{source}'), {
    path: ['schema'],
    error: 'with "merge" it names where each shard\'s own partition stands, so it needs {source} in it',
  })
  .refine((sink) => !sink.merge || sink.existing === 'refuse', {
    path: ['existing'],
    error: 'with "merge" every table is made by Tributary, so none can be adopted',
  });

export const lakeSink = z.strictObject({
  kind: z.literal('Sink'),
  type: z.literal('lake'),
  name,
  from: from.default(['*']),
  flush: z.strictObject({ every: duration('30s'), bytes: size('128MiB') }).prefault({}),
  compact: z.strictObject({ every: duration('5m') }).prefault({}),
});

export const eventsSink = z
  .strictObject({ kind: z.literal('Sink'), type: z.literal('events'), name, from: from.default(['*']), ...eventsKeys })
  .superRefine(checkEvents);

export const transform = z.strictObject({ kind: z.literal('Transform'), name, ...transformKeys }).superRefine(checkTransform);

/** What a transform's step names by its path: written by `readFiles`, and by nobody else. */
export const module = z.strictObject({ kind: z.literal('Module'), name: z.string().min(1), code: z.string() });

/**
 * JetStream acknowledges before its disk does: one server may lose what it said it had within its sync interval (2 min
 * by default). What stands on several servers outlives the crash of any of them, and is confirmed at once.
 */
export const CONFIRM_AFTER_MS = { alone: 120_000, replicated: 0 } as const;

export const LAKE_IS_WHOLE =
  '"partitions" is for a Sink of type ods: the state of a lake is one DuckDB file, which one worker writes. Leave "partitions" out here.';

export type ClusterDocument = z.output<typeof cluster>;
export type SourceDocument = z.output<typeof source>;
export type OdsDocument = z.output<typeof odsSink>;
export type LakeDocument = z.output<typeof lakeSink>;
export type ModuleDocument = z.output<typeof module>;
export type TransformDocument = z.output<typeof transform>;
export type EventsDocument = z.output<typeof eventsSink>;
