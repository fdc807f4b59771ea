import { createHash, timingSafeEqual } from 'node:crypto';
import { Fault } from '@tributary/core';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { refusal, sendProblem } from './problem.ts';

/** Each role may do what the ones before it may. */
const ROLES = ['viewer', 'analyst', 'operator', 'admin'] as const;
export type Role = (typeof ROLES)[number];

export interface Token {
  readonly name: string;
  readonly token: string;
  readonly role: Role;
}

const LOOPBACK = new Set(['127.0.0.1', '::1', 'localhost']);

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Who may call this route; a route without it is open to everyone. */
    role?: Role;
  }
}

/** @throws Fault `config_invalid` when the port would be open to others without any token */
export function assertHostAllowed(host: string, tokens: readonly Token[]): void {
  if (tokens.length > 0 || LOOPBACK.has(host)) return;
  throw new Fault(
    'config_invalid',
    `the console may not listen on ${host} without tokens: name some under http.tokens, or let it listen on 127.0.0.1`,
    { host },
  );
}

/**
 * Guards every route by its role. With tokens: `Authorization: Bearer`, compared by digest in constant time.
 * Without tokens only this machine may call, and no web page but our own: a foreign `Origin` is refused, and so is a
 * `Host` that is not this machine's name (a foreign name that was made to point at 127.0.0.1).
 */
export function guard(server: FastifyInstance, tokens: readonly Token[]): void {
  const known = tokens.map((token) => ({ digest: digest(token.token), role: token.role }));
  server.addHook('onRequest', async (request, reply) => {
    const needed = request.routeOptions.config.role;
    if (tokens.length === 0) {
      if (isOwn(request)) return;
      return sendProblem(request, reply, refusal(403, 'Without tokens only this machine and this page may call.'));
    }
    if (needed === undefined) return;
    const role = roleOf(request, known);
    if (role === null) {
      void reply.header('WWW-Authenticate', 'Bearer realm="tributary"');
      return sendProblem(request, reply, refusal(401, 'Send a token from http.tokens as "Authorization: Bearer …".'));
    }
    if (ROLES.indexOf(role) >= ROLES.indexOf(needed)) return;
    return sendProblem(request, reply, refusal(403, `This needs the role ${needed}; the token has the role ${role}.`));
  });
}

function roleOf(request: FastifyRequest, known: readonly { digest: Buffer; role: Role }[]): Role | null {
  const match = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '');
  if (!match?.[1]) return null;
  const given = digest(match[1].trim());
  return known.find((token) => timingSafeEqual(token.digest, given))?.role ?? null;
}

function digest(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}

function isOwn(request: FastifyRequest): boolean {
  const host = request.headers.host ?? '';
  const name = host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
  if (!LOOPBACK.has(name)) return false;
  const { origin } = request.headers;
  return origin === undefined || origin === `http://${host}`;
}
