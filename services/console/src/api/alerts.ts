import { askOne, type Bus, Fault } from '@tributary/core';
import type { FastifyInstance } from 'fastify';

/** Whoever keeps an alert answers at once. */
const ACK_IDLE_MS = 10_000;

/** Somebody takes note of an alert: `POST /v1/alerts/{id}:ack`, with the id that `/v1/alerts` tells. */
export function alertRoutes(server: FastifyInstance, bus: Bus): void {
  server.post<{ Params: { id: string } }>(
    '/v1/alerts/:id(^[^:/]+)::ack',
    {
      config: { role: 'operator' },
      schema: {
        summary: 'Take note of an alert',
        description:
          'Nobody is reminded of it until there is more of it. An alert of a process about what cannot be undone (a broken rule, a silent change) is over with that.',
        params: { type: 'object', properties: { id: { type: 'string', maxLength: 512 } } },
        response: { 200: { type: 'object' } },
      },
    },
    async ({ params: { id }, reader }) => {
      const by = reader === null || reader === 'local' ? 'local' : reader.name;
      return acknowledge(bus, id, by);
    },
  );
}

/** @throws Fault `not_found` for an id that names no alert that fires, `config_invalid` for one that names none at all */
async function acknowledge(bus: Bus, id: string, by: string): Promise<object> {
  const [, kind, owner, alert] = /^(kpi|process)\.([a-z][a-z0-9_]*)\.(.+)$/.exec(id) ?? [];
  if (!kind || !owner || !alert)
    throw new Fault(
      'config_invalid',
      'an alert that can be acknowledged is kpi.NAME.ALERT or process.NAME.ALERT; /v1/alerts tells its id',
      {
        parameter: 'id',
      },
    );
  return askOne<object>(bus, `tributary.${kind}.${owner}.acknowledge`, { alert, by }, { idleMs: ACK_IDLE_MS });
}
