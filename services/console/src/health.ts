import type { Changelogs } from '@tributary/changelog';
import type { RunningService, Runtime } from '@tributary/cluster';
import type { Bus } from '@tributary/core';
import { watchProcess } from '@tributary/ops';
import { assertHostAllowed } from './api/access.ts';
import { healthRoutes } from './api/health.ts';
import { Observer } from './api/observer.ts';
import { openServer } from './api/server.ts';
import type { ConsoleConfig } from './main.ts';

export interface HealthOptions {
  /** 0 = any free port. */
  readonly port: number;
  /** Default: 127.0.0.1, or every address when tokens are configured. */
  readonly host?: string;
  /** Is the connection to the broker whole? */
  readonly connected: () => boolean;
}

export interface RunningHealth extends RunningService {
  readonly url: string;
  /** For the service whose health this is: what it tells is heard here without a way through the broker. */
  readonly runtime: Runtime<Changelogs>;
}

/**
 * `/healthz`, `/readyz` and `/metrics` of a process that runs one service: of its own actors only.
 *
 * What the service tells is taken from its own mouth, so that a broker that is away, which is when a
 * database keeps its log, does not silence the metrics that say so.
 * @throws Fault `config_invalid` when it would be open to other machines without tokens
 */
export async function startHealth(
  config: ConsoleConfig,
  runtime: Runtime<Changelogs>,
  { port, host, connected }: HealthOptions,
): Promise<RunningHealth> {
  const { tokens } = config.cluster.http;
  const address = host ?? (tokens.length > 0 ? '0.0.0.0' : '127.0.0.1');
  assertHostAllowed(address, tokens);
  const { worker } = runtime;
  const observer = new Observer({ ...runtime, sources: [], only: worker });
  const server = await openServer(tokens, runtime.log);
  healthRoutes(server, { observer, worker, connected, process: watchProcess(worker) });
  await observer.start();
  const url = await server.listen({ port, host: address });
  return {
    url,
    runtime: { ...runtime, bus: overheard(runtime.bus, (value) => observer.hear(value)) },
    async stop() {
      await observer.close();
      await server.close();
    },
  };
}

function overheard(bus: Bus, heard: (status: unknown) => void): Bus {
  return {
    serve: (subject, answer) => bus.serve(subject, answer),
    ask: (subject, question, options) => bus.ask(subject, question, options),
    listen: (subject, listener) => bus.listen(subject, listener),
    tell(subject, value) {
      if (subject === 'tributary.status') heard(value);
      bus.tell(subject, value);
    },
  };
}
