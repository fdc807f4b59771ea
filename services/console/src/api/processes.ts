import { Readable } from 'node:stream';
import { registeredActors } from '@tributary/cluster';
import { askOne, type Bus, Fault, type Kv } from '@tributary/core';
import type { FastifyInstance } from 'fastify';

/** A map over a long history takes its time. */
const ANSWER_IDLE_MS = 120_000;
/** A process that does not tell of itself for this long is listed without what it says. */
const SHOW_IDLE_MS = 3_000;

interface ProcessRoutesOptions {
  readonly bus: Bus;
  readonly kv: Kv;
}

interface Named {
  Params: { process: string };
}

interface Asked {
  readonly from?: string;
  readonly to?: string;
  readonly object?: string;
  readonly min_share?: number;
  readonly limit?: number;
  readonly state?: string;
  readonly rule?: string;
  readonly format?: keyof typeof CONTENT_TYPES;
}

const CONTENT_TYPES = {
  'ocel2-json': 'application/json',
  xes: 'application/xml; charset=utf-8',
  csv: 'text/csv; charset=utf-8',
} as const;

const params = { type: 'object', properties: { process: { type: 'string', maxLength: 64 } } } as const;
const text = (description: string) => ({ type: 'string', maxLength: 256, description }) as const;
const scope = {
  from: text('Events from there: ISO 8601'),
  to: text('Events before'),
  object: text('Type of object whose life is the case; default: the root'),
} as const;
const limit = { type: 'integer', minimum: 1, maximum: 100_000, description: 'At most so many; default: 100' } as const;
const judged = {
  state: { type: 'string', enum: ['open', 'done', 'met', 'violated'], description: 'Cases in this state' },
  rule: text('Cases of which this rule is violated, for good or for now'),
} as const;
const object = { type: 'object' } as const;
const viewer = { role: 'viewer' } as const;
const analyst = { role: 'analyst' } as const;

const asked = (summary: string, properties: object) => ({
  summary,
  params,
  querystring: { type: 'object', additionalProperties: false, properties },
  response: { 200: object },
});

/**
 * Declared processes over HTTP: the same questions that `tributary process` asks of the worker that runs one. Each answer says
 * how fresh it is. A process that is not there is a 404, one that nobody runs yet a 503.
 */
export function processRoutes(server: FastifyInstance, options: ProcessRoutesOptions): void {
  const { bus } = options;
  server.get(
    '/v1/processes',
    { config: viewer, schema: { summary: 'Declared processes', response: { 200: { type: 'array', items: object } } } },
    () => listed(options),
  );
  server.get<Named>(
    '/v1/processes/:process',
    { config: viewer, schema: { summary: 'A process: what it is made of', params, response: { 200: object } } },
    async (request) => {
      const name = await known(options, request.params.process);
      return answering(name, () => askOne<object>(bus, `tributary.process.${name}.show`, {}, { idleMs: ANSWER_IDLE_MS }));
    },
  );
  // Cases and variants name keys of rows; a map only counts.
  const questions = [
    [
      'map',
      viewer,
      asked('Directly-follows graph, with counts and times', { ...scope, min_share: { type: 'number', minimum: 0, maximum: 1 } }),
    ],
    ['variants', viewer, asked('Ways that cases took, the most frequent first', { ...scope, limit })],
    [
      'cases',
      analyst,
      asked('Cases, the newest first; of a process with rules each with its verdicts', { ...scope, limit, ...judged }),
    ],
  ] as const;
  for (const [what, config, schema] of questions)
    server.get<Named & { Querystring: Asked }>(
      `/v1/processes/:process/${what}`,
      { config, schema },
      async ({ params: at, query }) => {
        const name = await known(options, at.process);
        const { min_share: minShare, ...rest } = query;
        const question = { what, ...rest, ...(minShare === undefined ? {} : { minShare }) };
        const parts = bus.ask(`tributary.process.${name}.ask`, question, { idleMs: ANSWER_IDLE_MS });
        return { process: name, ...(await answering(name, () => whole(parts))) };
      },
    );
  exportRoute(server, options);
}

function exportRoute(server: FastifyInstance, options: ProcessRoutesOptions): void {
  const format = { type: 'string', enum: Object.keys(CONTENT_TYPES), default: 'ocel2-json' };
  const schema = { ...asked('All events of a process', { format }), produces: Object.values(CONTENT_TYPES) };
  server.get<Named & { Querystring: Asked }>(
    '/v1/processes/:process/export',
    { config: analyst, schema },
    async ({ params: at, query, raw }, reply) => {
      const name = await known(options, at.process);
      const asking = new AbortController();
      raw.socket.once('close', () => asking.abort(new Error('the caller has gone')));
      const question = { what: 'export', format: query.format };
      const ask = { idleMs: ANSWER_IDLE_MS, signal: asking.signal };
      const parts = options.bus.ask(`tributary.process.${name}.ask`, question, ask)[Symbol.asyncIterator]();
      // Before the answer begins, so that what is wrong with the question is a status.
      const first = await answering(name, () => parts.next());
      return reply.type(CONTENT_TYPES[query.format ?? 'ocel2-json']).send(Readable.from(texts(first, parts)));
    },
  );
}

/** Lists may come in several parts. */
async function whole(parts: AsyncIterable<unknown>): Promise<object> {
  const answer: Record<string, unknown> = {};
  for await (const part of parts) {
    for (const [name, value] of Object.entries(part as object)) {
      const before = answer[name];
      if (Array.isArray(before)) before.push(...(value as unknown[]));
      else answer[name] = value;
    }
  }
  return answer;
}

async function* texts(first: IteratorResult<unknown>, parts: AsyncIterator<unknown>): AsyncGenerator<string> {
  try {
    for (let part = first; !part.done; part = await parts.next()) yield (part.value as { text: string }).text;
  } finally {
    await parts.return?.();
  }
}

async function listed(options: ProcessRoutesOptions): Promise<object[]> {
  return Promise.all(
    (await processNames(options)).map(async (name) => {
      try {
        const { root, objects } = await askOne<{ root: string; objects: object[] }>(
          options.bus,
          `tributary.process.${name}.show`,
          {},
          { idleMs: SHOW_IDLE_MS },
        );
        return { name, state: 'running', root, objects };
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        return { name, state: 'unassigned', reason: 'no worker answers for it' };
      }
    }),
  );
}

async function processNames({ kv }: ProcessRoutesOptions): Promise<string[]> {
  const actors = await registeredActors(kv);
  return actors
    .flatMap(({ name, kind }) => (kind === 'query' && name.startsWith('process.') ? [name.slice('process.'.length)] : []))
    .toSorted();
}

/** @throws Fault `not_found` that lists the processes there are */
async function known(options: ProcessRoutesOptions, process: string): Promise<string> {
  const all = await processNames(options);
  if (all.includes(process)) return process;
  const list = all.length === 0 ? 'none is configured' : all.join(', ');
  throw new Fault('not_found', `there is no process named "${process.slice(0, 64)}". Processes: ${list}`, {
    parameter: 'process',
  });
}

/** Nobody answers for what is configured: its worker is away, or only starting. */
async function answering<T>(process: string, asking: () => Promise<T>): Promise<T> {
  try {
    return await asking();
  } catch (error) {
    if (!(error instanceof Fault) || error.kind !== 'not_found' || error.message.includes('no type of object')) throw error;
    throw new Fault('not_complete', `no worker answers for process ${process} yet`, {}, { cause: error });
  }
}
