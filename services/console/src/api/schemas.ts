/** JSON Schemas of the HTTP interface: fastify checks requests by them, `/openapi.json` shows them. */

const text = { type: 'string' } as const;
const textOrNull = { type: ['string', 'null'] } as const;
const numberOrNull = { type: ['number', 'null'] } as const;
const integer = { type: 'integer' } as const;
const state = {
  type: 'string',
  enum: ['starting', 'running', 'draining', 'stopped', 'failed', 'waiting', 'unassigned'],
} as const;
const fault = {
  type: ['object', 'null'],
  properties: { kind: text, message: text, advice: text },
} as const;
const faults = { type: 'object', additionalProperties: integer } as const;

const source = {
  type: 'object',
  properties: {
    name: text,
    state,
    worker: textOrNull,
    restarts: integer,
    fault,
    faults,
    lsn: textOrNull,
    confirmedLsn: textOrNull,
    lagMs: numberOrNull,
    pendingBytes: numberOrNull,
    heldMs: numberOrNull,
    changes: numberOrNull,
    changesPerSecond: numberOrNull,
    tables: numberOrNull,
    slot: {
      type: ['object', 'null'],
      properties: {
        name: textOrNull,
        active: { type: ['boolean', 'null'] },
        retainedBytes: numberOrNull,
        walStatus: textOrNull,
        safeBytes: numberOrNull,
        confirmAgeMs: numberOrNull,
      },
    },
    snapshot: {
      type: ['object', 'null'],
      properties: {
        table: textOrNull,
        tablesDone: numberOrNull,
        tablesTotal: numberOrNull,
        rows: numberOrNull,
        fraction: numberOrNull,
      },
    },
  },
} as const;

const part = {
  type: 'object',
  properties: {
    name: text,
    kind: text,
    changelog: text,
    state,
    worker: textOrNull,
    restarts: integer,
    fault,
    faults,
    position: { type: ['object', 'null'], properties: { seq: integer, lsn: text } },
    lagMs: numberOrNull,
    lagMessages: numberOrNull,
    lagBytes: numberOrNull,
    watermark: numberOrNull,
    heldMs: numberOrNull,
    applied: numberOrNull,
    quarantinedTables: { type: 'array', items: text },
    quarantinedBatches: numberOrNull,
    appliedPerSecond: numberOrNull,
  },
} as const;

const projection = { ...part, properties: { ...part.properties, parts: { type: 'array', items: part } } } as const;

const changelog = {
  type: 'object',
  properties: { name: text, firstSeq: integer, lastSeq: integer, messages: integer, bytes: integer },
} as const;

const worker = {
  type: 'object',
  properties: {
    worker: text,
    services: { type: 'array', items: text },
    labels: { type: ['object', 'null'], additionalProperties: text },
    capacity: numberOrNull,
    takeovers: integer,
    actors: integer,
    failed: integer,
    heardAt: integer,
    alive: { type: 'boolean' },
  },
} as const;

const lease = {
  type: 'object',
  properties: { assignment: text, worker: text, epoch: integer, heldMs: { type: 'number' }, renewedMs: { type: 'number' } },
} as const;

const alert = {
  type: 'object',
  properties: {
    kind: { type: 'string', enum: ['contract', 'kpi', 'process'] },
    id: { type: 'string', description: 'Of a KPI or process: for :ack' },
    source: { type: 'string', description: 'Of a contract' },
    table: { type: 'string', description: 'Of a contract' },
    column: { ...textOrNull, description: 'Of a contract' },
    kpi: { type: 'string', description: 'Of a KPI' },
    process: { type: 'string', description: 'Of a process' },
    alert: { type: 'string', description: 'Of a KPI or process' },
    on: { type: 'array', items: text, description: 'Of a process: rule, sla, stuck, missing, silent, drift' },
    severity: { type: 'string', description: 'Of a process' },
    acknowledged: { type: ['object', 'null'], properties: { by: text, at: integer }, description: 'Who has taken note of it' },
    state: { type: 'string', enum: ['pending', 'firing', 'keep_firing', 'resolved'], description: 'Of a KPI or process' },
    cause: { type: ['string', 'null'], enum: ['condition', 'no_data', 'stale', null], description: 'Of a KPI' },
    problem: text,
    owner: text,
    raisedAt: integer,
    resolvedAt: { type: ['integer', 'null'], description: 'null while it lasts' },
  },
} as const;

export const list = <Item extends object>(items: Item) => ({ type: 'array', items }) as const;

export const views = { source, projection, changelog, worker, lease, alert } as const;

export const status = {
  type: 'object',
  properties: {
    at: integer,
    alerts: list(alert),
    sources: list(source),
    changelogs: list(changelog),
    projections: list(projection),
    workers: list(worker),
    leases: list(lease),
  },
} as const;

export const alertsAsked = {
  type: 'object',
  additionalProperties: false,
  properties: {
    state: { type: 'string', enum: ['raised', 'all'], default: 'raised', description: '`all`: also those that are over' },
  },
} as const;

export const problem = {
  type: 'object',
  required: ['type', 'title', 'status', 'detail'],
  properties: { type: text, title: text, status: integer, detail: text, instance: text, advice: text, parameter: text },
} as const;

export const accepted = {
  type: 'object',
  properties: { accepted: { type: 'boolean' }, progress: { description: 'The first word about it.' } },
} as const;

export const snapshotRequest = {
  type: ['object', 'null'],
  additionalProperties: false,
  properties: {
    table: { type: 'string', description: 'schema.table; without it every table of the source', maxLength: 256 },
    where: { type: 'string', description: 'SQL condition on the rows to read', maxLength: 10_000 },
  },
} as const;

export const replayRequest = {
  type: ['object', 'null'],
  additionalProperties: false,
  properties: { from: { type: 'string', description: '`start`, a position or a time', default: 'start', maxLength: 64 } },
} as const;

export const queryRequest = {
  type: 'object',
  additionalProperties: false,
  required: ['sql'],
  properties: {
    sql: { type: 'string', minLength: 1, maxLength: 100_000 },
    asOf: { type: 'string', description: 'A position or a time', maxLength: 64 },
  },
} as const;

export const queryAnswer = {
  type: 'object',
  properties: {
    columns: { type: 'array' },
    rows: { type: 'array', items: { type: 'object' } },
    freshness: {},
  },
} as const;
