import type { FastifyInstance, FastifySchema } from 'fastify';
import type { Observer } from './observer.ts';
import { openStream } from './event-stream.ts';
import { alertsAsked, list, status, views } from './schemas.ts';

/** What can be looked at: status and the stream of it that the page lives on. */
export function statusRoutes(server: FastifyInstance, observer: Observer): void {
  const viewer = { role: 'viewer' } as const;
  const shown = (summary: string, answer: object): FastifySchema & { summary: string } => ({
    summary,
    response: { 200: answer },
  });

  server.get('/v1/status', { config: viewer, schema: shown('Everything at once', status) }, () => observer.status());
  server.get('/v1/sources', { config: viewer, schema: shown('Sources', list(views.source)) }, () => observer.status().sources);
  server.get('/v1/workers', { config: viewer, schema: shown('Workers', list(views.worker)) }, () => observer.status().workers);
  server.get('/v1/leases', { config: viewer, schema: shown('Leases', list(views.lease)) }, () => observer.status().leases);
  server.get(
    '/v1/projections',
    { config: viewer, schema: shown('Projections', list(views.projection)) },
    () => observer.status().projections,
  );

  server.get<{ Querystring: { state: 'raised' | 'all' } }>(
    '/v1/alerts',
    { config: viewer, schema: { ...shown('Alerts, newest first', list(views.alert)), querystring: alertsAsked } },
    ({ query }) => (query.state === 'all' ? observer.alerts() : observer.status().alerts),
  );

  server.get(
    '/v1/status/stream',
    {
      config: viewer,
      schema: {
        ...shown('Status once a second, as server-sent events', { type: 'string' }),
        description: 'First one event `history` (rates of the last ten minutes), then one event `status` a second.',
        produces: ['text/event-stream'],
      },
    },
    (_request, reply) => {
      const stream = openStream(reply, 'sse');
      stream.send('history', observer.history());
      stream.send('status', observer.latest());
      const unwatch = observer.watch((tick) => stream.send('status', tick));
      stream.signal.addEventListener('abort', unwatch, { once: true });
    },
  );
}
