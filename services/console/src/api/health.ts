import { EXPOSITION_TYPE, exposition, type Sample } from '@tributary/ops';
import type { FastifyInstance, FastifySchema } from 'fastify';
import { samplesOf } from './metrics.ts';
import type { Heard, Observer } from './observer.ts';
import { refusal, sendProblem } from './problem.ts';

/** A service tells twice a second. Silent for this long it is not ready; for the second it hangs, and only a new process helps. */
const SILENT_MS = 5_000;
const HUNG_MS = 30_000;
/** Actors named in one reason. */
const NAMED_MAX = 5;
/** How long a scrape waits for the broker; then sizes are those of the scrape before. */
const REFRESH_MS = 1_000;

export interface HealthRoutesOptions {
  readonly observer: Observer;
  /** The worker whose health this is: the process itself. */
  readonly worker: string;
  /** Is the connection to the broker whole? */
  readonly connected: () => boolean;
  /** Samples beside those of status; not longer waited for than a scrape may take. */
  readonly more?: () => Promise<readonly Sample[]>;
  /** Samples of the process. */
  readonly process: () => Sample[];
}

/** `/healthz` (restart me when it fails), `/readyz` (wait, or look, when it fails) and `/metrics` of one process. */
export function healthRoutes(server: FastifyInstance, { observer, worker, connected, process, more }: HealthRoutesOptions): void {
  const asks = (summary: string): FastifySchema => ({ summary, response: { 200: { type: 'object' } } });

  server.get('/healthz', { schema: asks('Does the process live?') }, (request, reply) => {
    const reason = hangs(observer.heard(worker));
    return reason === null ? reply.send({ alive: true }) : sendProblem(request, reply, refusal(503, reason));
  });
  server.get('/readyz', { schema: asks('Does it do all of its work?') }, (request, reply) => {
    const reason = unready(observer.heard(worker), connected());
    return reason === null ? reply.send({ ready: true }) : sendProblem(request, reply, refusal(503, reason));
  });
  server.get(
    '/metrics',
    {
      config: { role: 'viewer' },
      schema: { summary: 'Prometheus metrics', response: { 200: { type: 'string' } }, produces: ['text/plain'] },
    },
    async (_request, reply) => {
      const late = new Promise<null>((resolve) => setTimeout(() => resolve(null), REFRESH_MS).unref());
      const whole = connected();
      const [others] = await Promise.all([
        whole && more ? Promise.race([more(), late]) : null,
        whole ? Promise.race([observer.refresh(), late]) : null,
      ]);
      void reply.type(EXPOSITION_TYPE);
      return reply.send(await exposition([...samplesOf(observer.status(), observer.alerts()), ...(others ?? []), ...process()]));
    },
  );
}

/** Why the process should be started anew; null = it lives. That this is asked at all shows that the main thread does. */
function hangs(heard: readonly Heard[]): string | null {
  const silent = heard.find(({ silentMs }) => silentMs > HUNG_MS);
  return silent ? `the service ${silent.service} of this process has been silent for ${seconds(silent.silentMs)}` : null;
}

/** Why not all of its work is done; null = it is. A worker that leads nothing is ready. */
function unready(heard: readonly Heard[], connected: boolean): string | null {
  if (!connected) return 'not connected to NATS; it connects again by itself';
  const silent = heard.find(({ silentMs }) => silentMs > SILENT_MS);
  if (silent) return `the service ${silent.service} of this process has been silent for ${seconds(silent.silentMs)}`;
  const idle = heard.flatMap(({ actors }) => actors).filter((actor) => actor.state !== 'running');
  if (idle.length === 0) return null;
  const named = idle.slice(0, NAMED_MAX).map(({ name, state, fault }) => `${name} is ${state}${fault ? ` (${fault.kind})` : ''}`);
  return named.join(', ') + (idle.length > NAMED_MAX ? `, and ${idle.length - NAMED_MAX} more` : '');
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1_000)} s`;
}
