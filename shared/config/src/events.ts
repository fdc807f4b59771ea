import { z } from 'zod';
import { duration, size } from './units.ts';

/** What happened to a row, in the words of filters and subjects. */
export const EVENT_OPS = ['create', 'update', 'delete', 'truncate', 'read'] as const;
export type EventOp = (typeof EVENT_OPS)[number];

/** A value, several of which one must be met, or what it must not be. Compared with PostgreSQL's own text. */
export type Condition = Scalar | readonly Scalar[] | { readonly not: Scalar | readonly Scalar[] };
type Scalar = string | number | boolean | null;

export interface NatsTarget {
  /** Template with `{sink}`, `{source}`, `{schema}`, `{table}` and `{op}`. */
  readonly subject: string;
  /** Template with `{sink}` and `{source}`. */
  readonly stream: string;
  readonly maxAgeMs: number;
  /** 0 = unlimited. */
  readonly maxBytes: number;
}

export interface WebhookTarget {
  readonly url: string;
  /** The first one signs; the others too, while receivers go over to it. */
  readonly secrets: readonly string[];
  readonly headers: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
  /** Requests under way at once, each for other keys. */
  readonly concurrency: number;
  /** Events in one request. */
  readonly batch: number;
  readonly retries: { readonly attempts: number; readonly firstMs: number; readonly mostMs: number };
}

export interface EventsSinkConfig {
  readonly type: 'events';
  readonly name: string;
  readonly from: readonly string[];
  readonly format: 'cloudevents' | 'debezium';
  readonly target: { readonly nats: NatsTarget } | { readonly webhook: WebhookTarget };
  /** Patterns of `schema.table`; the last one that matches decides. */
  readonly tables: readonly string[];
  readonly ops: readonly EventOp[];
  /** By `schema.table`, then by column: only rows that meet every condition. */
  readonly where: Readonly<Record<string, Readonly<Record<string, Condition>>>>;
  /** Rows that snapshots read. */
  readonly snapshot: boolean;
  /** One event a transaction instead of one a change (Debezium: events of its begin and end, and `transaction` in each). */
  readonly transactions: boolean;
  /** The shape of the table in every event. */
  readonly schemas: boolean;
  /** Debezium: an event without a value behind every delete. */
  readonly tombstones: boolean;
  /** Debezium: `source.name`. */
  readonly serverName: string;
  /** After the last retry of a webhook. */
  readonly onError: 'halt' | 'quarantine';
}

const scalar = z.union([z.string(), z.number(), z.boolean(), z.null()]);
const condition = z.union([scalar, z.array(scalar).min(1), z.strictObject({ not: z.union([scalar, z.array(scalar).min(1)]) })], {
  error: 'expected a value, a list of values, or { not: … }',
});

/** Subjects that belong to Tributary and to NATS itself. */
const RESERVED = /^(changelog|tributary|deadletters|\$[^.]*|_INBOX)(\.|$)/;

/** A subject for programs outside, without placeholders. */
export const plainSubject = z
  .string()
  .regex(/^[^.\s*>]+(\.[^.\s*>]+)*$/, 'expected words between dots, without spaces, * and >')
  .refine(
    (text) => !RESERVED.test(text),
    'subjects of Tributary and NATS itself (changelog, tributary, deadletters, $…) are not for events',
  );
const subject = plainSubject.superRefine((text, context) =>
  placeholders(text, ['sink', 'source', 'schema', 'table', 'op'], context),
);

const stream = z
  .string()
  .regex(/^[A-Za-z0-9_{}-]+$/, 'expected letters, digits, _ and -')
  .superRefine((text, context) => placeholders(text, ['sink', 'source'], context));

function placeholders(text: string, known: readonly string[], context: z.core.$RefinementCtx): void {
  const unknown = [...text.matchAll(/\{([^}]*)\}/g)].map((match) => match[1] as string).filter((name) => !known.includes(name));
  if (unknown.length > 0)
    context.addIssue({
      code: 'custom',
      message: `unknown {${unknown[0]}}; known are ${known.map((name) => `{${name}}`).join(' ')}`,
    });
}

const nats = z.strictObject({
  subject: subject.default('{sink}.{source}.{schema}.{table}'),
  stream: stream.default('EVENTS_{sink}_{source}'),
  maxAge: duration('7d'),
  maxBytes: size('10GiB'),
});

const header = z
  .string()
  .regex(/^[A-Za-z0-9-]+$/, 'expected the name of an HTTP header')
  .refine(
    (text) => !/^(webhook-.*|content-type|content-length|host|connection|transfer-encoding)$/i.test(text),
    'this header is set by Tributary',
  );

/** Standard Webhooks wants keys of 24 to 64 bytes, written `whsec_` and base64. */
const secret = z
  .string()
  .refine(
    (text) => secretBytes(text) >= 24,
    'expected whsec_ and the base64 of 24 to 64 random bytes, or a text of at least 24 characters',
  );

function secretBytes(text: string): number {
  if (!text.startsWith('whsec_')) return Buffer.byteLength(text);
  const bytes = Buffer.from(text.slice('whsec_'.length), 'base64').length;
  return bytes <= 64 ? bytes : 0;
}

export const webhook = z.strictObject({
  url: z.url({ protocol: /^https?$/, error: 'expected a URL that begins with https:// (or http://)' }),
  /** One, or several while receivers go over to another. */
  secret: z.union([secret, z.array(secret).min(1).max(4)], {
    error: 'expected a secret, or a list of them; none holds less than 24 bytes',
  }),
  headers: z.record(header, z.string().regex(/^[\t\x20-\x7e]*$/, 'expected one line of ASCII')).default({}),
  timeout: duration('15s'),
  concurrency: z.number().int().min(1).max(256).default(16),
  batch: z.number().int().min(1).max(500).default(1),
  retries: z
    .strictObject({ attempts: z.number().int().min(1).max(100).default(10), first: duration('1s'), most: duration('5m') })
    .prefault({}),
});

/** All keys of a Sink of type events beyond those that every sink has. */
export const eventsKeys = {
  format: z.enum(['cloudevents', 'debezium']).default('cloudevents'),
  nats: nats.optional(),
  webhook: webhook.optional(),
  tables: z
    .array(z.string().regex(/^!?[^.]+\.[^.]+$/, 'expected schema.table, with * for any and ! in front to leave out'))
    .min(1)
    .default(['*.*']),
  ops: z
    .array(z.enum(EVENT_OPS))
    .min(1)
    .default([...EVENT_OPS]),
  where: z.record(z.string().regex(/^[^.]+\.[^.]+$/, 'expected schema.table'), z.record(z.string(), condition)).default({}),
  snapshot: z.boolean().default(true),
  transactions: z.boolean().default(false),
  schemas: z.boolean().default(false),
  tombstones: z.boolean().default(false),
  serverName: z.string().min(1).optional(),
  onError: z.enum(['halt', 'quarantine']).optional(),
};

/** What one key says beside another; each issue stands at the key that should change. */
export function checkEvents(document: z.output<z.ZodObject<typeof eventsKeys>>, context: z.core.$RefinementCtx): void {
  const complain = (message: string, ...path: string[]) => context.addIssue({ code: 'custom', message, path });
  const { nats: toNats, webhook: toWebhook, format, transactions, tombstones, schemas } = document;
  if (toNats && toWebhook) complain('a sink sends to one place: write two sinks, one with nats and one with webhook', 'webhook');
  if (!toNats && !toWebhook) complain('expected nats: {…} or webhook: {…}: where events go', 'type');
  if (toNats && transactions && format === 'cloudevents' && /\{(schema|table|op)\}/.test(toNats.subject))
    complain(
      'with transactions: true an event is of many tables: its subject knows {sink} and {source} alone',
      'nats',
      'subject',
    );
  if (tombstones && format !== 'debezium') complain('tombstones are of format: debezium', 'tombstones');
  if (tombstones && toWebhook) complain('a webhook cannot send an event without a body; tombstones are for nats', 'tombstones');
  if (schemas && transactions && format === 'cloudevents')
    complain('schemas: true needs one event a change (transactions: false)', 'schemas');
  if (document.serverName !== undefined && format !== 'debezium') complain('serverName is of format: debezium', 'serverName');
  if (toNats && document.onError !== undefined)
    complain('onError is for webhooks: a JetStream stream refuses no single event', 'onError');
}

type EventsDocument = z.output<z.ZodObject<typeof eventsKeys>> & { readonly name: string; readonly from: readonly string[] };

export function eventsSinkOf({ name, from, nats: toNats, webhook: toWebhook, ...document }: EventsDocument): EventsSinkConfig {
  const { format, tables, ops, where, snapshot, transactions, schemas, tombstones, serverName, onError } = document;
  return {
    type: 'events',
    name,
    from,
    format,
    target: toNats ? { nats: natsTarget(toNats) } : { webhook: webhookTarget(toWebhook as z.output<typeof webhook>) },
    tables,
    ops,
    where,
    snapshot,
    transactions,
    schemas,
    tombstones,
    serverName: serverName ?? '{source}',
    onError: onError ?? 'halt',
  };
}

function natsTarget({ subject: template, stream: name, maxAge, maxBytes }: z.output<typeof nats>): NatsTarget {
  return { subject: template, stream: name, maxAgeMs: maxAge, maxBytes };
}

export function webhookTarget({ secret: given, timeout, retries, ...rest }: z.output<typeof webhook>): WebhookTarget {
  return {
    ...rest,
    secrets: [given].flat(),
    timeoutMs: timeout,
    retries: { attempts: retries.attempts, firstMs: retries.first, mostMs: retries.most },
  };
}
