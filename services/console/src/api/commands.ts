import type { Log } from '@tributary/cluster';
import { type Bus, describeError, Fault, outlastingLoss } from '@tributary/core';
import type { FastifyInstance } from 'fastify';
import type { Observer } from './observer.ts';
import { accepted, queryAnswer, queryRequest, replayRequest, snapshotRequest } from './schemas.ts';

/** Rows one HTTP answer may hold; more is asked for with LIMIT, or through the command line. */
const ANSWER_ROWS_MAX = 100_000;

export interface CommandOptions {
  readonly bus: Bus;
  readonly observer: Observer;
  readonly log: Log;
}

/**
 * Commands are questions to the actor they concern. Long ones are answered with 202 as soon as the actor says
 * its first word; the rest of its answer is followed in the background, because an asker that goes away would end
 * the work, and is seen in `/v1/status`.
 */
export function commandRoutes(server: FastifyInstance, options: CommandOptions): void {
  server.post<{ Params: { source: string }; Body: { table?: string; where?: string } | null }>(
    '/v1/sources/:source/snapshots',
    {
      config: { role: 'operator' },
      schema: {
        summary: 'Read tables of a source again',
        params: { type: 'object', properties: { source: { type: 'string' } } },
        body: snapshotRequest,
        response: { 202: accepted },
      },
    },
    async (request, reply) => {
      const { source } = request.params;
      const progress = await begin(options, `tributary.source.${subjectToken(source)}.snapshot`, request.body ?? {});
      return reply.code(202).send({ accepted: true, progress });
    },
  );

  server.post<{ Params: { projection: string }; Body: { from?: string } | null }>(
    '/v1/projections/:projection/replays',
    {
      config: { role: 'operator' },
      schema: {
        summary: 'Rebuild a projection from history',
        params: {
          type: 'object',
          properties: {
            projection: { type: 'string', description: 'URL-encoded sink/source, or a sink: all of its projections' },
          },
        },
        body: replayRequest,
        response: { 202: accepted },
      },
    },
    async (request, reply) => {
      const { projection } = request.params;
      const question = { from: request.body?.from ?? 'start' };
      const names = actorNames(options.observer, projection);
      const progress = await Promise.all(
        names.map((name) => {
          const [sink = '', source = ''] = name.split('/');
          return begin(options, `tributary.projection.${subjectToken(sink)}.${subjectToken(source)}.replay`, question);
        }),
      );
      return reply.code(202).send({ accepted: true, progress: names.length === 1 ? progress[0] : progress });
    },
  );

  queryRoute(server, options.bus);
}

function queryRoute(server: FastifyInstance, bus: Bus): void {
  server.post<{ Body: { sql: string; asOf?: string } }>(
    '/v1/query',
    {
      config: { role: 'analyst', perTable: true },
      schema: {
        summary: 'Ask the lake',
        description: `One SELECT over the captured tables; at most ${ANSWER_ROWS_MAX} rows.`,
        body: queryRequest,
        response: { 200: queryAnswer },
      },
    },
    async (request) => {
      const asking = new AbortController();
      request.raw.socket.once('close', () => asking.abort());
      const question = { ...request.body, ...(request.tables === null ? {} : { tables: request.tables }) };
      const whole = async () => {
        const answer: Record<string, unknown> = {};
        const rows: unknown[] = [];
        for await (const part of bus.ask('tributary.query', question, { signal: asking.signal })) {
          const { rows: more, ...rest } = part as { rows?: unknown[] };
          Object.assign(answer, rest);
          for (const row of more ?? []) rows.push(row);
          if (rows.length > ANSWER_ROWS_MAX) {
            throw new Fault('query_refused', `more than ${ANSWER_ROWS_MAX} rows; add a LIMIT`, { rows: ANSWER_ROWS_MAX });
          }
        }
        return { ...answer, rows };
      };
      return outlastingLoss(whole);
    },
  );
}

/** Names may hold what a subject may not; such a name cannot belong to anyone. */
function subjectToken(name: string): string {
  if (/^[A-Za-z0-9_-]+(#\d+)?$/.test(name)) return name;
  throw new Fault('not_found', `there is nothing named "${name.slice(0, 64)}"`);
}

/** The actors of a projection, or of all projections of a sink. */
function actorNames(observer: Observer, asked: string): string[] {
  const chosen = observer.status().projections.filter(({ name }) => name === asked || name.startsWith(`${asked}/`));
  const names = chosen.flatMap(({ name, parts }) => parts?.map((part) => part.name) ?? [name]);
  if (names.length === 0 && asked.includes('/')) return [asked];
  if (names.length === 0) throw new Fault('not_found', `no worker tells of a projection of the sink ${asked}`);
  return names;
}

async function begin(options: CommandOptions, subject: string, question: unknown): Promise<unknown> {
  const parts = options.bus.ask(subject, question)[Symbol.asyncIterator]();
  const first = await parts.next();
  void follow(parts, first).catch((error: unknown) => {
    options.log.warn({ subject, error: describeError(error) }, 'a command that was accepted failed later');
  });
  return first.done ? null : first.value;
}

async function follow(parts: AsyncIterator<unknown>, first: IteratorResult<unknown>): Promise<void> {
  let part = first;
  while (!part.done) part = await parts.next();
}
