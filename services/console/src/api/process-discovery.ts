import type { FastifyInstance } from 'fastify';
import { analyst, object } from './process-questions.ts';

/** Looks for processes in what the changelogs hold. */
export interface ProcessDiscovery {
  /** Each with its definition (`yaml`) and what speaks for it, the best first. */
  propose(): Promise<readonly object[]>;
}

/** Proposals as `tributary process discover --json` tells them. It reads all that is retained, and takes as long as that does. */
export function discoveryRoute(server: FastifyInstance, discovery: ProcessDiscovery): void {
  server.post(
    '/v1/processes::discover',
    {
      config: analyst,
      schema: {
        summary: 'Processes that show in what the changelogs hold, with evidence, the best first',
        description:
          'Each with its definition as YAML (`yaml`), to be read, changed and applied by a person. Nothing is changed. No value of a row is told.',
        response: { 200: object },
      },
    },
    async () => ({ proposals: await discovery.propose() }),
  );
}
