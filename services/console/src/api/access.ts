import { createHash, timingSafeEqual } from 'node:crypto';
import { type KpiReader, type Role, ROLES } from '@tributary/config';
import { Fault } from '@tributary/core';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import { refusal, sendProblem } from './problem.ts';

export interface Token {
  readonly name: string;
  readonly token: string;
  readonly role: Role;
  /** Tables that it may query, as `SCHEMA.TABLE` or `SCHEMA.*`; absent: all. */
  readonly tables?: readonly string[] | undefined;
  readonly claims?: Readonly<Record<string, readonly string[]>>;
}

const LOOPBACK = new Set(['127.0.0.1', '::1', 'localhost']);

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Who may call this route; a route without it is open to everyone. */
    role?: Role;
    /** It shows rows, and of those tables alone that the token may query. */
    perTable?: boolean;
  }
  interface FastifyRequest {
    /** Tables that the caller may query; null: all. */
    tables: readonly string[] | null;
    /** Who calls, for what is not for everyone; null until that is known. */
    reader: KpiReader | null;
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
  const known = tokens.map(({ token, name, role, tables = null, claims = {} }) => {
    return { digest: digest(token), role, tables, reader: { name, role, claims } };
  });
  server.decorateRequest('tables', null);
  server.decorateRequest('reader', null);
  server.addHook('onRequest', async (request, reply) => {
    const needed = request.routeOptions.config.role;
    if (tokens.length === 0) {
      if (isOwn(request)) return void (request.reader = 'local');
      return sendProblem(request, reply, refusal(403, 'Without tokens only this machine and this page may call.'));
    }
    if (needed === undefined) return;
    const caller = callerOf(request, known);
    if (caller === null) {
      void reply.header('WWW-Authenticate', 'Bearer realm="tributary"');
      return sendProblem(request, reply, refusal(401, 'Send a token from http.tokens as "Authorization: Bearer …".'));
    }
    const { role, tables, reader } = caller;
    request.tables = tables;
    request.reader = reader;
    if (ROLES.indexOf(role) < ROLES.indexOf(needed))
      return sendProblem(request, reply, refusal(403, `This needs the role ${needed}; the token has the role ${role}.`));
    // What is above a viewer shows rows: those of every table, unless the route says that it looks at the token's.
    if (tables === null || needed === 'viewer' || request.routeOptions.config.perTable) return;
    return sendProblem(request, reply, refusal(403, 'This may show rows of any table; the token is for some tables only.'));
  });
}

interface Caller {
  readonly digest: Buffer;
  readonly role: Role;
  readonly tables: readonly string[] | null;
  readonly reader: KpiReader;
}

function callerOf(request: FastifyRequest, known: readonly Caller[]): Caller | null {
  const match = /^Bearer (.+)$/i.exec(request.headers.authorization ?? '');
  if (!match?.[1]) return null;
  const given = digest(match[1].trim());
  return known.find((token) => timingSafeEqual(token.digest, given)) ?? null;
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
