import { createRequire } from 'node:module';
import type { ValidatorFactory } from '@fastify/ajv-compiler';
import type { Log } from '@tributary/cluster';
import { describeError } from '@tributary/core';
import type { FastifyInstance } from 'fastify';
import { guard, type Token } from './access.ts';
import { problemOf, refusal, sendProblem } from './problem.ts';

type Compile = (route: unknown) => { (data: unknown): boolean; errors?: unknown };

const require = createRequire(import.meta.url);

/**
 * Schemas are compiled by the first request that is checked by them: all of them at once are half of a console's start (3.1 s of CPU until
 * `up` listens, 1.6 without them).
 */
function compiledLate(...given: readonly unknown[]): (route: unknown) => (data: unknown) => unknown {
  let compile: Compile | null = null;
  return (route) => {
    let check: ReturnType<Compile> | null = null;
    return (data) => {
      compile ??= (require('@fastify/ajv-compiler') as () => (...of: typeof given) => Compile)()(...given);
      check ??= compile(route);
      return check(data) || { error: check.errors };
    };
  };
}

/** An HTTP server without routes: guarded by tokens, and every error a problem (RFC 9457). Its library is loaded when one is opened. */
export async function openServer(tokens: readonly Token[], log: Log): Promise<FastifyInstance> {
  const { default: fastify } = await import('fastify');
  // Streams never end by themselves, so closing the server must close their connections.
  const server = fastify({
    forceCloseConnections: true,
    bodyLimit: 1024 * 1024,
    // Fastify's own compilers are not even loaded. (Types of the library say that a compiler takes a schema; it takes a route that has one.)
    schemaController: {
      compilersFactory: {
        buildValidator: compiledLate as unknown as ValidatorFactory,
        buildSerializer: () => () => (value) => JSON.stringify(value),
      },
    },
    ajv: { customOptions: { removeAdditional: false } },
  });
  // Definitions come as they are written.
  server.addContentTypeParser(['application/yaml', 'text/yaml', 'text/plain'], { parseAs: 'string' }, (_request, body, done) =>
    done(null, body),
  );
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
