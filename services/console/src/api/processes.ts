import { Readable } from 'node:stream';
import type { Changelogs } from '@tributary/changelog';
import { registeredActors } from '@tributary/cluster';
import { configReading } from '@tributary/config';
import { askOne, type Bus, Fault, type Kv, outlastingLoss } from '@tributary/core';
import type { FastifyInstance } from 'fastify';
import {
  analyst,
  asked,
  limit,
  object,
  params,
  PICTURE_POLICY,
  pictureType,
  type ProcessAsked,
  QUESTIONS,
  questionOf,
  replaySchema,
  text,
  viewer,
} from './process-questions.ts';

/** A map over a long history takes its time. */
const ANSWER_IDLE_MS = 120_000;
/** A process that does not tell of itself for this long is listed without what it says. */
const SHOW_IDLE_MS = 3_000;

interface ProcessRoutesOptions {
  readonly changelogs: Changelogs;
  readonly bus: Bus;
  readonly kv: Kv;
}

interface Named {
  Params: { process: string };
}

const CONTENT_TYPES = {
  'ocel2-json': 'application/json',
  xes: 'application/xml; charset=utf-8',
  csv: 'text/csv; charset=utf-8',
} as const;

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
      const show = () => askOne<object>(bus, `tributary.process.${name}.show`, {}, { idleMs: ANSWER_IDLE_MS });
      return answering(name, () => outlastingLoss(show));
    },
  );
  for (const [what, config, schema] of QUESTIONS)
    server.get<Named & { Querystring: ProcessAsked }>(
      `/v1/processes/:process/${what}`,
      { config, schema },
      async ({ params: at, query }, reply) => {
        const name = await known(options, at.process);
        const answer = await answered(bus, name, questionOf(what, query));
        if (!('text' in answer)) return answer;
        void reply.header('Content-Security-Policy', PICTURE_POLICY).header('X-Content-Type-Options', 'nosniff');
        return reply.type(pictureType(query.format)).send(answer.text);
      },
    );
  replayRoute(server, options);
  timelineRoute(server, options);
  exportRoute(server, options);
}

/** What another definition would say of the cases that are here; nothing is changed. References to secrets stay text. */
function replayRoute(server: FastifyInstance, options: ProcessRoutesOptions): void {
  server.post<Named & { Body: unknown; Querystring: { limit?: number } }>(
    '/v1/processes/:process(^[a-z0-9_]+)::replay',
    { config: analyst, schema: replaySchema },
    async ({ params: at, body, query }) => {
      const name = await known(options, at.process);
      const { processesOf } = await configReading();
      const text = typeof body === 'string' ? body : JSON.stringify(body, null, 2);
      const [config, ...more] = processesOf({ name: 'body', text }, await options.changelogs.list());
      if (!config || more.length > 0) throw new Fault('config_invalid', 'body: expected one document of kind: Process');
      const subject = `tributary.process.${name}.replay`;
      const replay = () => askOne<object>(options.bus, subject, { config, ...query }, { idleMs: ANSWER_IDLE_MS });
      const told = await answering(name, () => outlastingLoss(replay));
      return { process: name, ...told };
    },
  );
}

async function answered(bus: Bus, name: string, question: object): Promise<Record<string, unknown>> {
  const ask = () => whole(bus.ask(`tributary.process.${name}.ask`, question, { idleMs: ANSWER_IDLE_MS }));
  return { process: name, ...(await answering(name, () => outlastingLoss(ask))) };
}

/** An object is of the process that has its type; where several have, the caller says which. */
function timelineRoute(server: FastifyInstance, options: ProcessRoutesOptions): void {
  const schema = {
    ...asked(
      'What happened to an object, in order: every event with its source, position, before and after; of a root everything in its case',
      {
        process: text('Where several processes have the type: which one'),
        limit: { ...limit, maximum: 2_000 },
      },
    ),
    params: { type: 'object', properties: { type: text('Type of object'), key: text('Its key') } },
  };
  server.get<{ Params: { type: string; key: string }; Querystring: { process?: string; limit?: number } }>(
    '/v1/objects/:type/:key/timeline',
    { config: analyst, schema },
    async ({ params: { type, key }, query: { process, ...rest } }) => {
      const name = process === undefined ? await processOfType(options, type) : await known(options, process);
      return answered(options.bus, name, { what: 'timeline', object: type, key, ...rest });
    },
  );
}

async function processOfType(options: ProcessRoutesOptions, type: string): Promise<string> {
  const all = (await listed(options)) as { name: string; objects?: { object: string }[] }[];
  const [first, ...more] = all.filter(({ objects = [] }) => objects.some((one) => one.object === type)).map(({ name }) => name);
  if (first === undefined)
    throw new Fault('not_found', `no process has objects of type "${type.slice(0, 64)}"`, { parameter: 'type' });
  if (more.length === 0) return first;
  throw new Fault('config_invalid', `several processes have this type: say process= with one of ${[first, ...more].join(', ')}`);
}

function exportRoute(server: FastifyInstance, options: ProcessRoutesOptions): void {
  const format = { type: 'string', enum: Object.keys(CONTENT_TYPES), default: 'ocel2-json' };
  const schema = { ...asked('All events of a process', { format }), produces: Object.values(CONTENT_TYPES) };
  server.get<Named & { Querystring: { format?: string } }>(
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
      return reply
        .type(CONTENT_TYPES[(query.format ?? 'ocel2-json') as keyof typeof CONTENT_TYPES])
        .send(Readable.from(texts(first, parts)));
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
    if (
      !(error instanceof Fault) ||
      error.kind !== 'not_found' ||
      /no type of object|of this key in the process/.test(error.message)
    )
      throw error;
    throw new Fault('not_complete', `no worker answers for process ${process} yet`, {}, { cause: error });
  }
}
