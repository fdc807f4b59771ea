import type { Readable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import { object, text } from './process-questions.ts';
import { refusal, sendProblem } from './problem.ts';

/** A log of events that somebody sends. */
export interface SentLog {
  /** As it is, or gzipped. */
  readonly bytes: AsyncIterable<Uint8Array>;
  readonly format: LogFormat;
  /** Of CSV: names of its columns, where they are called otherwise than usual. */
  readonly columns: Readonly<Partial<Record<'case' | 'activity' | 'time', string>>>;
  /** Of an object-centric log: the type whose objects are the cases. */
  readonly root?: string;
}

/** Logs that were imported into the data folder of this console. */
export interface ImportedLogs {
  names(): Promise<string[]>;
  /** Takes the place of an earlier one of the name. @returns parts of its map. @throws Fault `config_invalid` with the line */
  take(name: string, log: SentLog): AsyncIterable<unknown>;
  /** Parts of an answer. @throws Fault */
  ask(name: string, question: object): AsyncIterable<unknown>;
  /** @returns was there one? */
  remove(name: string): Promise<boolean>;
}

const FORMATS = ['ocel2-json', 'xes', 'csv'] as const;
type LogFormat = (typeof FORMATS)[number];

/** What is sent at once; a larger log is gzipped, or imported with the command, which reads a file. */
const LOG_BYTES_MAX = 256 * 2 ** 20;

interface ImportQuery {
  readonly name: string;
  readonly format: LogFormat;
  readonly case?: string;
  readonly activity?: string;
  readonly time?: string;
  readonly root?: string;
}

const schema = {
  summary:
    'Import a log of events (XES, CSV, OCEL 2.0 JSON), in place of an earlier one of the name; then it is asked like any process',
  description:
    'Body: the file as it is, or gzipped; at most 256 MiB. It is kept in the data folder of the console that was asked. 400: what is wrong, with the line. 409: a process of that name is defined.',
  querystring: {
    type: 'object',
    additionalProperties: false,
    required: ['name', 'format'],
    properties: {
      name: { type: 'string', pattern: '^[a-z][a-z0-9_]{0,39}$', description: 'What the process is called' },
      format: { type: 'string', enum: FORMATS },
      case: text('Of CSV: the column of the case'),
      activity: text('Of CSV: the column of the activity'),
      time: text('Of CSV: the column of the time'),
      root: text('Of OCEL: the type of object whose objects are the cases'),
    },
  },
  response: { 201: object },
};

/** @param isDefined is there a process of this name? */
export function importRoute(
  server: FastifyInstance,
  {
    logs,
    isDefined,
    whole,
  }: {
    readonly logs: ImportedLogs;
    readonly isDefined: (name: string) => Promise<boolean>;
    readonly whole: (parts: AsyncIterable<unknown>) => Promise<object>;
  },
): void {
  // A body of any type is passed on as it comes, and nowhere else.
  void server.register(async (scope) => {
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser('*', (_request, _payload, done) => done(null));
    scope.post<{ Querystring: ImportQuery }>(
      '/v1/processes::import',
      { config: { role: 'operator' }, schema },
      async (request, reply) => {
        const { name, format, root, ...columns } = request.query;
        if (await isDefined(name))
          return sendProblem(request, reply, refusal(409, `A process ${name} is defined: call the log otherwise.`));
        const bytes = atMost(request.raw, LOG_BYTES_MAX);
        const map = await whole(logs.take(name, { bytes, format, columns, ...(root === undefined ? {} : { root }) }));
        return reply.code(201).send({ process: name, ...map });
      },
    );
  });
}

/** @throws an error with the status 413 when there is more */
async function* atMost(body: Readable, bytesMax: number): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const piece of body as AsyncIterable<Uint8Array>) {
    bytes += piece.byteLength;
    if (bytes > bytesMax)
      throw Object.assign(new Error(`body: more than ${bytesMax} bytes; send it gzipped, or import the file with the command`), {
        statusCode: 413,
      });
    yield piece;
  }
}
