import type { Log } from '@tributary/cluster';
import { describeError } from '@tributary/core';
import type { FastifyInstance } from 'fastify';
import { guard, type Token } from './access.ts';
import { problemOf, refusal, sendProblem } from './problem.ts';

/** An HTTP server without routes: guarded by tokens, and every error a problem (RFC 9457). Its library is loaded when one is opened. */
export async function openServer(tokens: readonly Token[], log: Log): Promise<FastifyInstance> {
  const { default: fastify } = await import('fastify');
  // Streams never end by themselves, so closing the server must close their connections.
  const server = fastify({
    forceCloseConnections: true,
    bodyLimit: 1024 * 1024,
    ajv: { customOptions: { removeAdditional: false } },
  });
  server.setSerializerCompiler(() => (value) => JSON.stringify(value));
  server.setErrorHandler((error, request, reply) => {
    const problem = problemOf(error);
    if (problem.status >= 500) log.error({ route: request.routeOptions.url, error: describeError(error) }, 'a request failed');
    return sendProblem(request, reply, problem);
  });
  server.setNotFoundHandler((request, reply) =>
    sendProblem(request, reply, refusal(404, 'See /openapi.json for what there is.')),
  );
  guard(server, tokens);
  return server;
}
