import { randomUUID } from 'node:crypto';
import { registeredActors } from '@tributary/cluster';
import { configReading, type KpiConfig, type KpiReader } from '@tributary/config';
import type { Changelogs } from '@tributary/changelog';
import { askOne, type Bus, csvLine, Fault, type Kv, outlasting, outlastingLoss } from '@tributary/core';
import type { OpsLog } from '@tributary/ops';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { TypedColumn } from './arrow.ts';
import { openStream } from './event-stream.ts';
import { type Definitions, definitionRoutes } from './definitions.ts';
import * as asks from './kpi-schemas.ts';
import { Reading } from './reading.ts';

/** Rows one answer may hold; more is asked for with a shorter range, or through the command line. */
const ANSWER_ROWS_MAX = 100_000;
/** An engine may be busy computing a KPI for the first time. */
const ANSWER_IDLE_MS = 120_000;
/** An engine that starts anew answers again within so long, or nobody runs it. */
const ENGINE_MS = 15_000;
/** A KPI that does not tell of itself for this long is listed without what it says. */
const SHOW_IDLE_MS = 3_000;
/** The worker of a KPI says something every ten seconds, however still its tables are. */
const STREAM_IDLE_MS = 30_000;

export interface KpiRoutesOptions {
  readonly bus: Bus;
  readonly kv: Kv;
  readonly changelogs: Changelogs;
  /** Null: definitions cannot be changed here. */
  readonly documents: Definitions | null;
  readonly log: Pick<OpsLog, 'info'>;
}

/** What a KPI says of itself, among other things. */
interface Shown {
  readonly version: string;
  readonly position: string;
  readonly scope: string | null;
}

interface Part {
  readonly columns?: readonly TypedColumn[];
  readonly rows?: readonly Readonly<Record<string, unknown>>[];
  readonly freshness?: { readonly position: string; readonly definitionVersion: string };
  readonly bytes?: Uint8Array;
  /** What the caller may see of it, in one word; null: everything. */
  readonly scope?: string | null;
}

interface Named {
  Params: { kpi: string };
}

interface Asking {
  readonly params: { readonly kpi: string };
  readonly reader: KpiReader | null;
}

/**
 * KPIs over HTTP: the same questions that `tributary kpi` asks of the worker that runs a KPI.
 * A KPI that is not there is a 404, one that nobody runs or that is still being read a 503 with `Retry-After`; what a worker held when it died is asked of its successor; a parameter that the
 * KPI cannot answer is named in the problem's `parameter`.
 */
export function kpiRoutes(server: FastifyInstance, options: KpiRoutesOptions): void {
  const { bus } = options;
  const ask = async <T>({ params: { kpi }, reader }: Asking, what: string, question: object): Promise<T> => {
    const subject = `tributary.kpi.${await known(options, kpi, reader)}.${what}`;
    const once = () => askOne<T>(bus, subject, { ...question, reader }, { idleMs: ANSWER_IDLE_MS });
    return running(kpi, what === 'backfill' ? once : () => outlastingLoss(once));
  };

  server.get('/v1/kpis', { config: { role: 'viewer' }, schema: asks.list }, ({ reader }) => listed(options, reader));
  server.get<Named>('/v1/kpis/:kpi', { config: { role: 'viewer' }, schema: asks.show }, async (request, reply) => {
    const shown = await ask<object>(request, 'show', {});
    const document = (await options.documents?.find({ kind: 'Kpi', name: request.params.kpi })) ?? null;
    if (document?.origin === 'api') void reply.header('ETag', `"${document.tag}"`);
    return { ...shown, document };
  });
  valueRoutes(server, options);
  server.get<Named & { Querystring: asks.RowsQuery }>(
    '/v1/kpis/:kpi/rows',
    { config: { role: 'analyst' }, schema: asks.rows },
    (request) => ask(request, 'rows', rowsQuestion(request.query)),
  );
  server.get<Named & { Querystring: asks.RevisionsQuery }>(
    '/v1/kpis/:kpi/revisions',
    { config: { role: 'viewer' }, schema: asks.revisions },
    (request) => ask(request, 'revisions', request.query),
  );
  server.post<Named>('/v1/kpis/:kpi/backfills', { config: { role: 'operator' }, schema: asks.backfill }, (request) =>
    ask(request, 'backfill', {}),
  );
  askingRoutes(server, options);
}

function valueRoutes(server: FastifyInstance, options: KpiRoutesOptions): void {
  const { bus } = options;
  server.get<Named & { Querystring: asks.ValuesQuery }>(
    '/v1/kpis/:kpi/values',
    { config: { role: 'viewer' }, schema: asks.values },
    async (request, reply) => {
      const { format = formatOf(request), ...query } = request.query;
      const { reader } = request;
      const kpi = await known(options, request.params.kpi, reader);
      const question = { ...valuesQuestion(query), reader };
      // Where a KPI stands is asked before it is computed: what the caller has already need not be.
      const show = () => askOne<Shown>(bus, `tributary.kpi.${kpi}.show`, { reader }, { idleMs: ANSWER_IDLE_MS });
      const shown = await running(kpi, () => outlastingLoss(show));
      void reply.header('Vary', 'Authorization, Accept').header('Cache-Control', 'private, no-cache');
      const tag = etagOf(shown, format);
      if (query.asof === undefined && matches(request, tag)) return reply.code(304).header('ETag', tag).send();
      const { columns, rows, bytes, freshness, scope } = await answered(bus, request, { kpi, question, format });
      const etag = etagOf({ version: freshness.definitionVersion, position: freshness.position, scope }, format);
      void reply.header('ETag', etag).header('Tributary-Position', freshness.position);
      if (matches(request, etag)) return reply.code(304).send();
      if (format === 'json') return { kpi, rows, freshness };
      void reply.type(CONTENT_TYPES[format]);
      if (format === 'parquet') return reply.send(bytes);
      if (format !== 'arrow') return reply.send(textOf(rows, format));
      const { arrowStream } = await import('./arrow.ts');
      return reply.send(Buffer.from(arrowStream(columns, rows, { kpi, ...freshness })));
    },
  );

  server.get<Named & { Querystring: asks.StreamQuery }>(
    '/v1/kpis/:kpi/stream',
    { config: { role: 'viewer' }, schema: asks.stream },
    async (request, reply) => {
      const { reader } = request;
      const kpi = await known(options, request.params.kpi, reader);
      const asking = new AbortController();
      // Who answers for its line is still there; the worker asks behind every part, and ends a stream that nobody reads.
      const line = `tributary.kpi-line.${randomUUID()}`;
      const reading = new Reading();
      const hangUp = await bus.serve(line, (question) => reading.until(question));
      try {
        const question = { ...valuesQuestion(request.query), reader, line };
        const options = { idleMs: STREAM_IDLE_MS, signal: asking.signal };
        const parts = bus.ask(`tributary.kpi.${kpi}.stream`, question, options)[Symbol.asyncIterator]();
        // The first values come before the answer begins, so that what is wrong with the question is a status.
        const first = await running(kpi, () => parts.next());
        const stream = openStream(reply, 'sse');
        stream.signal.addEventListener('abort', () => asking.abort(), { once: true });
        await followed({ stream, reading }, parts, first);
      } finally {
        reading.end();
        await hangUp();
      }
    },
  );

  server.get<Named & { Querystring: asks.GrafanaQuery }>(
    '/v1/grafana/:kpi',
    { config: { role: 'viewer' }, schema: asks.grafana },
    async (request) => {
      const { reader } = request;
      const kpi = await known(options, request.params.kpi, reader);
      const { from, to, ...query } = request.query;
      const question = { ...valuesQuestion({ ...query, ...timeOf('from', from), ...timeOf('to', to) }), reader };
      const { rows } = await answered(bus, request, { kpi, question, format: 'ndjson' });
      return rows.map(({ bucket, ...row }) => (typeof bucket === 'string' ? { time: Date.parse(bucket), ...row } : row));
    },
  );
}

function askingRoutes(server: FastifyInstance, options: KpiRoutesOptions): void {
  const { bus, kv, documents } = options;
  const validate = async (config: KpiConfig): Promise<{ readonly bound?: boolean; readonly reason?: string | null }> => {
    const engine = `kpi-engine.${config.engine}`;
    const ask = () => askOne<{ bound?: boolean }>(bus, `tributary.${engine}.validate`, { config }, { idleMs: ANSWER_IDLE_MS });
    // One that some worker runs only starts anew, with another definition perhaps: nothing is let pass unchecked for that.
    const actors = await outlasting(Date.now() + ENGINE_MS, () => registeredActors(kv));
    const there = actors.some(({ name }) => name === engine);
    try {
      return await (there ? outlasting(Date.now() + ENGINE_MS, ask) : ask());
    } catch (error) {
      if (!(error instanceof Fault) || error.kind !== 'not_found') throw error;
      const reason = `no engine ${config.engine} runs yet: the SQL was not checked against tables`;
      return { bound: false, reason };
    }
  };
  if (documents)
    definitionRoutes(server, {
      kind: 'Kpi',
      path: 'kpis',
      parameter: 'kpi',
      documents,
      definitionIn: (body) => definitionIn(options, body),
      validate: async (config) => {
        const { bound, reason } = await validate(config);
        return { bound, reason };
      },
      log: options.log,
    });
  server.post<{ Body: unknown }>(
    '/v1/kpis::validate',
    { config: { role: 'analyst' }, schema: asks.validate },
    async ({ body }) => {
      const config = await definitionIn(options, body);
      return { valid: true, kpi: config.name, ...(await validate(config)) };
    },
  );

  server.post<Named & { Body: unknown; Querystring: asks.StreamQuery }>(
    '/v1/kpis/:kpi(^[a-z0-9_]+)::preview',
    { config: { role: 'analyst' }, schema: asks.preview },
    async ({ params, body, query, reader }) => {
      const config = await definitionIn(options, body);
      if (config.name !== params.kpi)
        throw new Fault('config_invalid', `the definition is of ${config.name}, not of ${params.kpi}`, { parameter: 'kpi' });
      const question = { config, ask: valuesQuestion(query), reader };
      const subject = `tributary.kpi-engine.${config.engine}.preview`;
      const preview = () => askOne(bus, subject, question, { idleMs: ANSWER_IDLE_MS });
      return running(`engine ${config.engine}`, () => outlastingLoss(preview));
    },
  );
}

async function definitionIn({ changelogs }: KpiRoutesOptions, body: unknown): Promise<KpiConfig> {
  const { kpisOf } = await configReading();
  const text = typeof body === 'string' ? body : JSON.stringify(body, null, 2);
  const [config, ...more] = kpisOf({ name: 'body', text }, await changelogs.list());
  if (!config || more.length > 0) throw new Fault('config_invalid', 'body: expected one document of kind: Kpi');
  return config;
}

const CONTENT_TYPES = {
  csv: 'text/csv; charset=utf-8; header=present',
  ndjson: 'application/x-ndjson',
  parquet: 'application/vnd.apache.parquet',
  arrow: 'application/vnd.apache.arrow.stream',
} as const;
/** Forms that a caller can name by what he accepts: those that nothing else is. */
const ACCEPTED = ['arrow', 'parquet'] as const;

function formatOf({ headers }: FastifyRequest): asks.ValuesFormat {
  const { accept = '' } = headers;
  const [first] = ACCEPTED.filter((format) => accept.includes(CONTENT_TYPES[format])).toSorted(
    (a, b) => accept.indexOf(CONTENT_TYPES[a]) - accept.indexOf(CONTENT_TYPES[b]),
  );
  return first ?? 'json';
}

function textOf(rows: readonly Readonly<Record<string, unknown>>[], format: 'csv' | 'ndjson'): string {
  if (format === 'ndjson') return rows.map((row) => `${JSON.stringify(row)}\n`).join('');
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))];
  return lines.map((line) => `${csvLine(line)}\r\n`).join('');
}

/** The same definition at the same position says the same, in one form of it, to those who may see the same of it. */
function etagOf({ version, position, scope }: Shown, format: string): string {
  return `"${version};${format};${scope === null ? '' : `${scope};`}${position}"`;
}

function matches({ headers }: FastifyRequest, etag: string): boolean {
  const known = headers['if-none-match'];
  // A position holds commas, so tags are told apart by their quotes.
  return known === '*' || [...(known ?? '').matchAll(/"[^"]*"/g)].some(([tag]) => tag === etag);
}

interface Answer {
  /** Of the form `arrow` alone. */
  readonly columns: readonly TypedColumn[];
  readonly rows: readonly Readonly<Record<string, unknown>>[];
  readonly bytes: Buffer;
  readonly freshness: NonNullable<Part['freshness']>;
  readonly scope: string | null;
}

/** A whole answer; not longer than the caller listens. */
async function answered(
  bus: Bus,
  request: FastifyRequest,
  { kpi, question, format }: { kpi: string; question: object; format: asks.ValuesFormat },
): Promise<Answer> {
  const asking = new AbortController();
  const gone = () => asking.abort(new Error('the caller has gone'));
  request.raw.socket.once('close', gone);
  try {
    const whole = async (): Promise<Answer> => {
      const rows: Readonly<Record<string, unknown>>[] = [];
      const bytes: Uint8Array[] = [];
      let freshness: Part['freshness'];
      let scope: string | null = null;
      let columns: readonly TypedColumn[] = [];
      const what = format === 'parquet' ? 'parquet' : format === 'arrow' ? 'typed' : 'values';
      const asked = { ...question, flat: format !== 'json' };
      for await (const part of bus.ask(`tributary.kpi.${kpi}.${what}`, asked, {
        idleMs: ANSWER_IDLE_MS,
        signal: asking.signal,
      })) {
        const one = part as Part;
        freshness ??= one.freshness;
        columns = one.columns ?? columns;
        scope ??= one.scope ?? null;
        if (one.bytes) bytes.push(one.bytes);
        for (const row of one.rows ?? []) rows.push(row);
        if (rows.length > ANSWER_ROWS_MAX)
          throw new Fault('query_refused', `from: more than ${ANSWER_ROWS_MAX} rows; name a shorter range, or fewer dimensions`, {
            parameter: 'from',
          });
      }
      if (!freshness) throw new Fault('not_complete', `Kpi ${kpi} gave no answer`);
      return { columns, rows, bytes: Buffer.concat(bytes), freshness, scope };
    };
    return await running(kpi, () => outlastingLoss(whole));
  } finally {
    request.raw.socket.off('close', gone);
  }
}

/** Events `values` (`whole`: all of them, else those that changed), and `freshness` while nothing changes. */
async function followed(
  { stream, reading }: { stream: ReturnType<typeof openStream>; reading: Reading },
  parts: AsyncIterator<unknown>,
  first: IteratorResult<unknown>,
): Promise<void> {
  try {
    for (let part = first; !part.done; part = await parts.next()) {
      const { whole, rows = [], freshness } = part.value as Part & { readonly whole?: boolean };
      if (whole || rows.length > 0) stream.send('values', { whole, rows, freshness }, freshness?.position);
      else stream.send('freshness', freshness, freshness?.position);
      await stream.drained();
      reading.took();
    }
  } catch (error) {
    if (!stream.signal.aborted) stream.send('fault', { fault: error instanceof Fault ? error.kind : 'bug' });
  } finally {
    await parts.return?.();
    stream.end();
  }
}

/** Those that the caller may read. */
async function listed(options: KpiRoutesOptions, reader: KpiReader | null): Promise<object[]> {
  const shown = await Promise.all(
    (await kpiNames(options)).map(async (name) => {
      try {
        return await askOne<object>(options.bus, `tributary.kpi.${name}.show`, { reader }, { idleMs: SHOW_IDLE_MS });
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        if (error.kind === 'access_refused') return null;
        return { name, state: 'unassigned', reason: 'no worker answers for it' };
      }
    }),
  );
  return shown.filter((one) => one !== null);
}

/** KPIs that some worker could run. */
export async function kpiNames({ kv }: Pick<KpiRoutesOptions, 'kv'>): Promise<string[]> {
  const actors = await registeredActors(kv);
  return actors.flatMap(({ name }) => (name.startsWith('kpi.') ? [name.slice('kpi.'.length)] : [])).toSorted();
}

/** @throws Fault `not_found` that says which KPIs there are */
async function known(options: KpiRoutesOptions, kpi: string, reader: KpiReader | null): Promise<string> {
  const all = await kpiNames(options);
  if (all.includes(kpi)) return kpi;
  // A token need not know of every KPI: its list is at /v1/kpis.
  const list = reader !== 'local' ? 'see /v1/kpis' : all.length === 0 ? 'none is configured' : all.join(', ');
  throw new Fault('not_found', `there is no KPI named "${kpi.slice(0, 64)}". KPIs: ${list}`, { parameter: 'kpi' });
}

/** Nobody answers for what is configured: its worker is away, or its engine is only starting. */
async function running<T>(what: string, asking: () => Promise<T>): Promise<T> {
  try {
    return await asking();
  } catch (error) {
    if (!(error instanceof Fault) || error.kind !== 'not_found') throw error;
    throw new Fault('not_complete', `no worker answers for ${what} yet`, {}, { cause: error });
  }
}

function valuesQuestion(query: Omit<asks.ValuesQuery, 'format'>): object {
  const { measure, by, filter, fill, asof, ...rest } = query;
  const chosen: Record<string, string[]> = {};
  for (const text of filter ?? []) {
    const [, dimension = '', value = ''] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
    if (dimension === '')
      throw new Fault('query_refused', `filter: expected dimension=value, not "${text}"`, { parameter: 'filter' });
    chosen[dimension] = [...(chosen[dimension] ?? []), value];
  }
  return {
    ...rest,
    ...(measure === undefined ? {} : { measures: words(measure) }),
    ...(by === undefined ? {} : { by: words(by) }),
    ...(filter === undefined ? {} : { filter: chosen }),
    ...(fill === undefined ? {} : { fill }),
    ...(asof === undefined ? {} : { asOf: asof }),
  };
}

function rowsQuestion({ bucket, limit, ...query }: asks.RowsQuery): object {
  return { ...valuesQuestion(query), ...(bucket === undefined ? {} : { bucket }), ...(limit === undefined ? {} : { limit }) };
}

/** Grafana writes times as milliseconds since 1970. */
function timeOf(name: 'from' | 'to', text: string | undefined): { from?: string; to?: string } {
  if (text === undefined) return {};
  return { [name]: /^\d{9,}$/.test(text) ? new Date(Number(text)).toISOString() : text };
}

/** Names between commas; `none` alone is none of them. */
function words(text: string): string[] {
  return text
    .split(',')
    .map((one) => one.trim())
    .filter((one) => one !== '' && one !== 'none');
}
