import type { FastifyInstance, FastifySchema, RouteOptions } from 'fastify';
import { problem } from './schemas.ts';

interface Documented extends FastifySchema {
  readonly summary?: string;
  readonly description?: string;
  /** Content type of a good answer; JSON when not said. */
  readonly produces?: readonly string[];
  readonly hide?: boolean;
}

declare module 'fastify' {
  interface FastifySchema {
    summary?: string;
    description?: string;
    produces?: readonly string[];
    hide?: boolean;
  }
}

type PathItem = Record<string, unknown>;

/**
 * Writes OpenAPI 3.1 from the schemas that the routes themselves are checked by: what is documented is what runs.
 * Must be called before the routes are declared. (3.1 takes JSON Schema as it is, so nothing is translated.)
 */
export function describeRoutes(server: FastifyInstance, version: string): () => object {
  const paths: Record<string, PathItem> = {};
  server.addHook('onRoute', (route) => {
    const schema = route.schema as Documented | undefined;
    if (!schema?.summary || schema.hide) return;
    const path = pathOf(route.url);
    for (const method of [route.method].flat()) {
      if (method === 'HEAD') continue;
      paths[path] = { ...paths[path], [method.toLowerCase()]: operation(route, schema) };
    }
  });
  return () => ({
    openapi: '3.1.0',
    info: {
      title: 'Tributary',
      version,
      description: 'Sources, changelogs and projections of a Tributary cluster. Errors are problem+json (RFC 9457).',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    paths,
    components: {
      securitySchemes: { token: { type: 'http', scheme: 'bearer', description: 'A token from http.tokens' } },
      schemas: { Problem: problem },
    },
  });
}

/** `:name`, perhaps with what it must look like, is a parameter; `::` is a colon. */
function pathOf(url: string): string {
  return url.replaceAll(/::|:(\w+)(\([^)]*\))?/g, (token, name: string | undefined) => (token === '::' ? ':' : `{${name}}`));
}

function operation(route: RouteOptions, schema: Documented): object {
  const role = route.config?.role;
  const responses = Object.entries((schema.response ?? {}) as Record<string, object>).map(([code, body]) => [
    code,
    { description: code === '202' ? 'Accepted' : 'OK', content: contents(schema.produces ?? ['application/json'], body) },
  ]);
  return {
    summary: schema.summary,
    ...(schema.description ? { description: schema.description } : {}),
    ...(role ? { security: [{ token: [] }], 'x-role': role } : {}),
    parameters: [...parameters('path', schema.params), ...parameters('query', schema.querystring)],
    ...(schema.body ? { requestBody: { content: contents(['application/json'], schema.body as object) } } : {}),
    responses: {
      ...Object.fromEntries(responses),
      default: {
        description: 'What went wrong',
        content: contents(['application/problem+json'], { $ref: '#/components/schemas/Problem' }),
      },
    },
  };
}

function contents(types: readonly string[], schema: object): object {
  return Object.fromEntries(types.map((type) => [type, { schema }]));
}

function parameters(place: 'path' | 'query', schema: unknown): object[] {
  const properties = (schema as { properties?: Record<string, { description?: string }> } | undefined)?.properties ?? {};
  return Object.entries(properties).map(([name, property]) => ({
    name,
    in: place,
    ...(place === 'path' ? { required: true } : {}),
    ...(property.description ? { description: property.description } : {}),
    schema: property,
  }));
}
