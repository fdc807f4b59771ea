import { Readable } from 'node:stream';
import type { Changelogs } from '@tributary/changelog';
import { registeredActors } from '@tributary/cluster';
import { configReading, type ProcessConfig } from '@tributary/config';
import { askOne, type Bus, Fault, type Kv, outlastingLoss } from '@tributary/core';
import type { OpsLog } from '@tributary/ops';
import type { FastifyInstance } from 'fastify';
import { type Definitions, definitionRoutes } from './definitions.ts';
import { type ImportedLogs, importRoute } from './imported-logs.ts';
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
  validateSchema,
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
  /** Null: definitions cannot be changed here. */
  readonly documents: Definitions | null;
  /** Null: none are kept here. */
  readonly logs: ImportedLogs | null;
  readonly log: Pick<OpsLog, 'info'>;
}

interface Named {
  Params: { process: string };
}

const CONTENT_TYPES = {
  'ocel2-json': 'application/json',
  xes: 'application/xml; charset=utf-8',
  csv: 'text/csv; charset=utf-8',
} as const;

/** Asks a process. `signal`: nobody wants the answer any more. */
type Asking = (question: object, signal?: AbortSignal) => AsyncIterable<unknown>;

/**
 * Processes over HTTP: the same questions that `tributary process` asks of the worker that runs a declared one, and of imported logs. An
 * answer of a declared one says how fresh it is. A process that is not there is a 404, one that nobody runs yet a 503.
 */
export function processRoutes(server: FastifyInstance, options: ProcessRoutesOptions): void {
  const { bus } = options;
  server.get(
    '/v1/processes',
    {
      config: viewer,
      schema: { summary: 'Declared processes, and imported logs', response: { 200: { type: 'array', items: object } } },
    },
    () => listed(options),
  );
  server.get<Named>(
    '/v1/processes/:process',
    { config: viewer, schema: { summary: 'A process: what it is made of', params, response: { 200: object } } },
    async (request, reply) => {
      const { process: name } = request.params;
      if ((await kindOf(options, name)) === 'imported') return { name, kind: 'imported' };
      const show = () => askOne<object>(bus, `tributary.process.${name}.show`, {}, { idleMs: ANSWER_IDLE_MS });
      const shown = await answering(name, () => outlastingLoss(show));
      const document = (await options.documents?.find({ kind: 'Process', name })) ?? null;
      if (document?.origin === 'api') void reply.header('ETag', `"${document.tag}"`);
      return { ...shown, document };
    },
  );
  for (const [what, config, schema] of QUESTIONS)
    server.get<Named & { Querystring: ProcessAsked }>(
      `/v1/processes/:process/${what}`,
      { config, schema },
      async ({ params: at, query }, reply) => {
        const answer = await answered(options, at.process, questionOf(what, query));
        if (!('text' in answer)) return answer;
        void reply.header('Content-Security-Policy', PICTURE_POLICY).header('X-Content-Type-Options', 'nosniff');
        return reply.type(pictureType(query.format)).send(answer.text);
      },
    );
  definitionsOf(server, options);
  const { logs } = options;
  if (logs)
    importRoute(server, {
      logs,
      isDefined: async (name) => (await processNames(options)).includes(name) || isDefined(options, name),
      whole,
    });
  replayRoute(server, options);
  timelineRoute(server, options);
  exportRoute(server, options);
}

function definitionsOf(server: FastifyInstance, options: ProcessRoutesOptions): void {
  const { documents, logs, log } = options;
  if (documents)
    definitionRoutes(server, {
      kind: 'Process',
      path: 'processes',
      parameter: 'process',
      documents,
      definitionIn: (body) => definitionIn(options, body),
      validate: async (config) => {
        if ((await logs?.names())?.includes(config.name))
          throw new Fault('config_invalid', `an imported log is called ${config.name}: DELETE it, or call this one otherwise`);
        return madeOf(config);
      },
      removeOther: async (name) => (await logs?.remove(name)) ?? false,
      log,
    });
  server.post<{ Body: unknown }>('/v1/processes::validate', { config: analyst, schema: validateSchema }, async ({ body }) => {
    const config = await definitionIn(options, body);
    return { valid: true, process: config.name, ...madeOf(config) };
  });
}

/** The one definition in a body, checked by itself. References to secrets stay text. @throws Fault `config_invalid` with line and column */
async function definitionIn(options: ProcessRoutesOptions, body: unknown): Promise<ProcessConfig> {
  const [config, ...more] = await definitionsIn(options, body);
  if (!config || more.length > 0) throw new Fault('config_invalid', 'body: expected one document of kind: Process');
  return config;
}

async function definitionsIn({ changelogs }: ProcessRoutesOptions, body: unknown): Promise<ProcessConfig[]> {
  const { processesOf } = await configReading();
  const text = typeof body === 'string' ? body : JSON.stringify(body, null, 2);
  return processesOf({ name: 'body', text }, await changelogs.list());
}

function madeOf({ root, objects }: ProcessConfig): object {
  return { root, objects: objects.map(({ name, source, table }) => ({ object: name, table: `${source}.${table}` })) };
}

/** What another definition would say of the cases that are here; nothing is changed. */
function replayRoute(server: FastifyInstance, options: ProcessRoutesOptions): void {
  server.post<Named & { Body: unknown; Querystring: { limit?: number } }>(
    '/v1/processes/:process(^[a-z0-9_]+)::replay',
    { config: analyst, schema: replaySchema },
    async ({ params: at, body, query }) => {
      const { process: name } = at;
      if ((await kindOf(options, name)) === 'imported')
        throw new Fault('config_invalid', `${name} is an imported log: it has no rules`, { parameter: 'process' });
      const [config, against, ...more] = await definitionsIn(options, body);
      if (!config || more.length > 0)
        throw new Fault('config_invalid', 'body: expected one document of kind: Process, or a second one to compare it with');
      const subject = `tributary.process.${name}.replay`;
      const replay = () =>
        askOne<object>(options.bus, subject, { config, ...(against ? { against } : {}), ...query }, { idleMs: ANSWER_IDLE_MS });
      const told = await answering(name, () => outlastingLoss(replay));
      return { process: name, ...told };
    },
  );
}

async function answered(options: ProcessRoutesOptions, name: string, question: object): Promise<Record<string, unknown>> {
  const ask = await askingOf(options, name);
  return { process: name, ...(await answering(name, () => outlastingLoss(() => whole(ask(question))))) };
}

/** @throws Fault `not_found` */
async function askingOf(options: ProcessRoutesOptions, name: string): Promise<Asking> {
  const { bus, logs } = options;
  if ((await kindOf(options, name)) === 'imported' && logs) return (question) => logs.ask(name, question);
  const subject = `tributary.process.${name}.ask`;
  return (question, signal) => bus.ask(subject, question, { idleMs: ANSWER_IDLE_MS, ...(signal ? { signal } : {}) });
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
      const name = process ?? (await processOfType(options, type));
      return answered(options, name, { what: 'timeline', object: type, key, ...rest });
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
      const { process: name } = at;
      const ask = await askingOf(options, name);
      const asking = new AbortController();
      raw.socket.once('close', () => asking.abort(new Error('the caller has gone')));
      const question = { what: 'export', format: query.format };
      const parts = ask(question, asking.signal)[Symbol.asyncIterator]();
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
  const declared = await processNames(options);
  const told = declared.map(async (name) => {
    try {
      const { root, objects } = await askOne<{ root: string; objects: object[] }>(
        options.bus,
        `tributary.process.${name}.show`,
        {},
        { idleMs: SHOW_IDLE_MS },
      );
      return { name, kind: 'declared', state: 'running', root, objects };
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      return { name, kind: 'declared', state: 'unassigned', reason: 'no worker answers for it' };
    }
  });
  const logs = ((await options.logs?.names()) ?? []).filter((name) => !declared.includes(name));
  return [...(await Promise.all(told)), ...logs.map((name) => ({ name, kind: 'imported' }))];
}

async function processNames({ kv }: ProcessRoutesOptions): Promise<string[]> {
  const actors = await registeredActors(kv);
  return actors
    .flatMap(({ name, kind }) => (kind === 'query' && name.startsWith('process.') ? [name.slice('process.'.length)] : []))
    .toSorted();
}

/** @throws Fault `not_found` that lists the processes there are, `not_complete` for one that was defined a moment ago */
async function kindOf(options: ProcessRoutesOptions, name: string): Promise<'declared' | 'imported'> {
  const declared = await processNames(options);
  if (declared.includes(name)) return 'declared';
  const logs = (await options.logs?.names()) ?? [];
  if (logs.includes(name)) return 'imported';
  if (await isDefined(options, name)) throw new Fault('not_complete', `no worker runs process ${name} yet`);
  const list = [...declared, ...logs].join(', ') || 'none is configured';
  throw new Fault('not_found', `there is no process named "${name.slice(0, 64)}". Processes: ${list}`, {
    parameter: 'process',
  });
}

async function isDefined({ documents }: ProcessRoutesOptions, name: string): Promise<boolean> {
  return ((await documents?.find({ kind: 'Process', name })) ?? null) !== null;
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
