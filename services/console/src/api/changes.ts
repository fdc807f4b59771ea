import { type Changelogs, changesOf, startOf } from '@tributary/changelog';
import type { Log } from '@tributary/cluster';
import {
  compareSourcePosition,
  describeError,
  Fault,
  formatSourcePosition,
  ORIGIN,
  parseSourcePosition,
  type Position,
  type StoredBatch,
} from '@tributary/core';
import type { FastifyInstance } from 'fastify';
import { type EventStream, openStream } from './event-stream.ts';

/** How often a follower that hears nothing is told that the line is alive, and how far the changelog has come. */
const ALIVE_MS = 5_000;

/** Where a follower stands: behind a transaction, and behind so many changes that come after it. */
interface Place {
  readonly after: Position;
  readonly skip: number;
  /** Messages stored before this time (ms since 1970) are passed over. */
  readonly notBefore: number;
}

interface ChangesRequest {
  Params: { source: string };
  Querystring: { from?: string; after?: string; table?: string; limit?: number };
}

const querystring = {
  type: 'object',
  additionalProperties: false,
  properties: {
    from: { type: 'string', description: '`start`, `now` (default), a position such as 16/B374D848+3, or a time', maxLength: 64 },
    after: {
      type: 'string',
      description: 'Goes on behind the change with this `id`; as the header `Last-Event-ID` does',
      maxLength: 256,
    },
    table: { type: 'string', description: 'Only this table, as schema.table', maxLength: 256 },
    limit: { type: 'integer', minimum: 1, description: 'Ends after this many changes; without it the answer never ends' },
  },
} as const;

/**
 * Follows a changelog over HTTP, one change an event (or a line). The id of a change names the place behind it, so a
 * follower that comes back with the last id it saw misses nothing and sees nothing twice, whatever cut its line.
 */
export function changesRoute(server: FastifyInstance, changelogs: Changelogs, log: Log): void {
  server.get<ChangesRequest>(
    '/v1/changes/:source',
    {
      config: { role: 'analyst' },
      schema: {
        summary: 'Follow the changes of a source',
        description:
          'Server-sent events for `Accept: text/event-stream`, JSON lines otherwise; each with its `id`. Goes on behind `Last-Event-ID`, or `after`. 410: that place is not held any more.',
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
      const { from, after, table, limit } = request.query;
      const seen = after ?? request.headers['last-event-id'];
      const place = typeof seen === 'string' ? parseId(seen) : { ...(await startOf(changelogs, source, from)), skip: 0 };
      await check(changelogs, source, place.after);
      const sse = (request.headers.accept ?? '').includes('text/event-stream');
      const stream = openStream(reply, sse ? 'sse' : 'ndjson');
      try {
        await follow(changelogs.read(source, { after: place.after, signal: stream.signal }), { place, table, limit }, stream);
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

/**
 * Before the answer begins, so that a follower for which there is no way on hears it as a status, and does not come back.
 * @throws Fault `history_trimmed`, `ahead_of_history`, `other_epoch`, `other_system`
 */
async function check(changelogs: Changelogs, source: string, after: Position): Promise<void> {
  const foreign = await changelogs.foreign(source, after);
  if (foreign) throw foreign;
  if (compareSourcePosition(after, ORIGIN) === 0) return;
  const first = (await changelogs.seek(source, () => false))?.first;
  if (!first || compareSourcePosition(first.header.follows, after) <= 0) return;
  const earliest = formatSourcePosition(first.header.follows);
  throw new Fault('history_trimmed', `changelog ${source} begins at ${earliest}: what came before that is not held any more`);
}

/**
 * Changes are counted from the end of a transaction on: that place and that number mean the same however the changelog
 * is cut into messages, also when a broker lost its tail and got it again in other cuts.
 */
async function follow(
  batches: AsyncIterable<StoredBatch>,
  { place, table, limit }: { place: Place; table: string | undefined; limit: number | undefined },
  stream: EventStream,
): Promise<void> {
  let { after: behind, skip } = place;
  let anchor = behind;
  let number = 0;
  let sent = 0;
  let told = performance.now();
  for await (const batch of batches) {
    const { header } = batch;
    if (!header.continues) {
      // What is still to be passed over lies in this message, or, cut otherwise, in the next ones too.
      if (skip <= number) {
        anchor = behind;
        number = 0;
        skip = 0;
      }
    }
    for (const change of changesOf(batch)) {
      number++;
      if (number <= skip || batch.storedAt < place.notBefore) continue;
      if (table !== undefined && `${change.schema}.${change.table}` !== table) continue;
      await stream.drained();
      const id = formatId(anchor, number);
      stream.send('change', { id, ...change }, id);
      told = performance.now();
      if (++sent === limit) return;
    }
    behind = { seq: batch.seq, ...header.position, epoch: header.epoch };
    if (!header.more && number >= skip && performance.now() - told > ALIVE_MS) {
      stream.alive(formatId(behind, 0));
      told = performance.now();
    }
  }
}

function formatId(after: Position, skip: number): string {
  return [after.seq, formatSourcePosition(after), skip, ...(after.epoch === undefined ? [] : [after.epoch])].join(':');
}

function parseId(id: string): Place {
  const match = /^(\d{1,15}):([0-9A-F]+\/[0-9A-F]+\+\d+):(\d{1,12})(?::([\w.-]{1,100}))?$/i.exec(id);
  if (!match) throw new Fault('config_invalid', 'Last-Event-ID (or after) is not an id that this service gave');
  const [, seq, place, skip, epoch] = match;
  const after = { seq: Number(seq), ...parseSourcePosition(place as string), ...(epoch === undefined ? {} : { epoch }) };
  return { after, skip: Number(skip), notBefore: 0 };
}
