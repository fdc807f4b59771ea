import { type Changelogs, changesOf, startOf } from '@tributary/changelog';
import type { Log } from '@tributary/cluster';
import {
  describeError,
  Fault,
  formatSourcePosition,
  parseSourcePosition,
  type Position,
  type StoredBatch,
} from '@tributary/core';
import type { FastifyInstance } from 'fastify';
import { type EventStream, openStream } from './event-stream.ts';

/** Where a follower stands: what it holds before a batch, and how many changes of that batch it has seen. */
interface Place {
  readonly after: Position;
  readonly skip: number;
  /** Messages stored before this time (ms since 1970) are passed over. */
  readonly notBefore: number;
}

interface ChangesRequest {
  Params: { source: string };
  Querystring: { from?: string; table?: string; limit?: number };
}

const querystring = {
  type: 'object',
  additionalProperties: false,
  properties: {
    from: { type: 'string', description: '`start`, `now` (default), a position such as 16/B374D848+3, or a time', maxLength: 64 },
    table: { type: 'string', description: 'Only this table, as schema.table', maxLength: 256 },
    limit: { type: 'integer', minimum: 1, description: 'Ends after this many changes; without it the answer never ends' },
  },
} as const;

/**
 * Follows a changelog over HTTP, one change an event (or a line). The id of an event names the place after it, so a
 * follower that comes back with `Last-Event-ID` misses nothing and sees nothing twice, whatever cut its line.
 */
export function changesRoute(server: FastifyInstance, changelogs: Changelogs, log: Log): void {
  server.get<ChangesRequest>(
    '/v1/changes/:source',
    {
      config: { role: 'analyst' },
      schema: {
        summary: 'Follow the changes of a source',
        description: 'Server-sent events for `Accept: text/event-stream`, JSON lines otherwise. Goes on after `Last-Event-ID`.',
        params: { type: 'object', properties: { source: { type: 'string' } } },
        querystring,
        response: { 200: { type: 'object', description: 'One change' } },
        produces: ['application/x-ndjson', 'text/event-stream'],
      },
    },
    async (request, reply) => {
      const { source } = request.params;
      if (!(await changelogs.list()).includes(source)) {
        throw new Fault('not_found', `there is no changelog named "${source.slice(0, 64)}"`);
      }
      const seen = request.headers['last-event-id'];
      const place =
        typeof seen === 'string' ? parseEventId(seen) : { ...(await startOf(changelogs, source, request.query.from)), skip: 0 };
      const sse = (request.headers.accept ?? '').includes('text/event-stream');
      const stream = openStream(reply, sse ? 'sse' : 'ndjson');
      try {
        await follow(changelogs.read(source, { after: place.after, signal: stream.signal }), place, request.query, stream);
      } catch (error) {
        if (stream.signal.aborted) return;
        log.warn({ source, error: describeError(error) }, 'a follower of a changelog was cut off');
        stream.send('fault', { fault: error instanceof Fault ? error.kind : 'bug', detail: describeError(error) });
      } finally {
        stream.end();
      }
    },
  );
}

async function follow(
  batches: AsyncIterable<StoredBatch>,
  place: Place,
  { table, limit }: ChangesRequest['Querystring'],
  stream: EventStream,
): Promise<void> {
  let { after, skip } = place;
  let sent = 0;
  for await (const batch of batches) {
    let number = 0;
    const wanted = batch.storedAt >= place.notBefore;
    for (const change of wanted ? changesOf(batch) : []) {
      number++;
      if (number <= skip || (table !== undefined && `${change.schema}.${change.table}` !== table)) continue;
      await stream.drained();
      stream.send('change', change, formatEventId({ after, skip: number }));
      if (++sent === limit) return;
    }
    after = { seq: batch.seq, ...batch.header.position };
    skip = 0;
  }
}

function formatEventId({ after, skip }: Omit<Place, 'notBefore'>): string {
  return `${after.seq}:${formatSourcePosition(after)}:${skip}`;
}

function parseEventId(id: string): Place {
  const match = /^(\d{1,15}):([0-9A-F]+\/[0-9A-F]+\+\d+):(\d{1,12})$/i.exec(id);
  if (!match) throw new Fault('config_invalid', 'Last-Event-ID is not an id that this service gave');
  return { after: { seq: Number(match[1]), ...parseSourcePosition(match[2] as string) }, skip: Number(match[3]), notBefore: 0 };
}
