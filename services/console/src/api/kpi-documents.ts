import type { KpiConfig, KpiReader } from '@tributary/config';
import { Fault } from '@tributary/core';
import type { OpsLog } from '@tributary/ops';
import type { FastifyInstance, FastifyRequest } from 'fastify';
import * as asks from './kpi-schemas.ts';
import { type Problem, refusal, sendProblem } from './problem.ts';

/** Where the definition of a KPI stands. */
export type KpiDocument =
  | { readonly origin: 'file'; readonly file: string }
  | {
      readonly origin: 'api';
      readonly version: number;
      readonly text: string;
      /** Names this version, and what stands in it. */
      readonly tag: string;
    };

/** `changed: false`: another one stands there than the caller knew; it is told. */
export interface DocumentChanged {
  readonly changed: boolean;
  readonly document: KpiDocument | null;
}

interface Change {
  /** Tag of the document that it takes the place of; null: of none. */
  readonly over: string | null;
  readonly reader: KpiReader | null;
}

/** The desired state, as far as it came over HTTP. */
export interface KpiDocuments {
  find(name: string): Promise<KpiDocument | null>;
  /** @throws Fault `config_invalid`, `access_refused` */
  put(name: string, text: string, change: Change): Promise<DocumentChanged>;
  /** @throws Fault `access_refused` */
  remove(name: string, change: Change): Promise<DocumentChanged>;
}

export interface DocumentRoutesOptions {
  readonly documents: KpiDocuments;
  /** The one definition in a body, checked by itself. @throws Fault `config_invalid` */
  readonly definitionIn: (body: unknown) => Promise<KpiConfig>;
  /** Checks its SQL, where an engine runs that can. @throws Fault */
  readonly validate: (config: KpiConfig) => Promise<object>;
  readonly log: Pick<OpsLog, 'info'>;
}

interface Named {
  Params: { kpi: string };
}

/** A definition put in the place of another names it by `If-Match`, so that nobody's change is lost. */
export function documentRoutes(server: FastifyInstance, { documents, definitionIn, validate, log }: DocumentRoutesOptions): void {
  server.put<Named & { Body: unknown }>(
    '/v1/kpis/:kpi',
    { config: { role: 'operator' }, schema: asks.put },
    async (request, reply) => {
      const { body, reader } = request;
      const { kpi } = request.params;
      const config = await definitionIn(body);
      if (config.name !== kpi)
        throw new Fault('config_invalid', `the definition is of ${config.name}, not of ${kpi}`, { parameter: 'kpi' });
      const current = await documents.find(kpi);
      const problem = preconditionOf(request, current);
      if (problem) return sendProblem(request, reply, problem);
      const { bound, reason } = (await validate(config)) as { bound?: boolean; reason?: string | null };
      const text = typeof body === 'string' ? body : `${JSON.stringify(body, null, 2)}\n`;
      const { changed, document } = await documents.put(kpi, text, { over: tagOf(current), reader });
      if (!changed || document?.origin !== 'api') return sendProblem(request, reply, overtaken(kpi));
      log.info({ kpi, version: document.version, by: nameOf(reader) }, 'a definition came over HTTP');
      void reply.code(current === null ? 201 : 200).header('ETag', `"${document.tag}"`);
      return { kpi, origin: 'api', version: document.version, bound, reason };
    },
  );

  server.delete<Named>('/v1/kpis/:kpi', { config: { role: 'operator' }, schema: asks.remove }, async (request, reply) => {
    const { kpi } = request.params;
    const { reader } = request;
    const current = await documents.find(kpi);
    if (current === null) throw new Fault('not_found', `there is no KPI named "${kpi.slice(0, 64)}"`, { parameter: 'kpi' });
    const problem = preconditionOf(request, current);
    if (problem) return sendProblem(request, reply, problem);
    const { changed } = await documents.remove(kpi, { over: tagOf(current), reader });
    if (!changed) return sendProblem(request, reply, overtaken(kpi));
    log.info({ kpi, by: nameOf(reader) }, 'a definition was deleted over HTTP');
    return reply.code(204).send();
  });
}

function nameOf(reader: KpiReader | null): string | null {
  return typeof reader === 'string' ? reader : (reader?.name ?? null);
}

function tagOf(document: KpiDocument | null): string | null {
  return document?.origin === 'api' ? document.tag : null;
}

function overtaken(kpi: string): Problem {
  return refusal(412, `Kpi ${kpi} was changed at the same moment: look at it, and send yours again.`);
}

/** What keeps a change from being made to what stands there; null = nothing does. */
function preconditionOf({ headers, params }: FastifyRequest, current: KpiDocument | null): Problem | null {
  const { kpi } = params as Named['Params'];
  if (current?.origin === 'file')
    return refusal(
      409,
      `Kpi ${kpi} is defined in ${current.file}: change it there and run "tributary apply", or take it out of there first.`,
    );
  const match = headers['if-match'];
  if (headers['if-none-match'] === '*' && current !== null) return refusal(412, `There is a Kpi ${kpi} already.`);
  if (match === undefined)
    return current === null
      ? null
      : refusal(428, `Say which version of Kpi ${kpi} is meant: If-Match with the ETag that GET /v1/kpis/${kpi} told, or *.`);
  if (current === null) return refusal(412, `There is no Kpi ${kpi} that came over HTTP.`);
  if (match === '*' || [...match.matchAll(/"([^"]*)"/g)].some(([, tag]) => tag === current.tag)) return null;
  return refusal(412, `Kpi ${kpi} is another one meanwhile (version ${current.version}): look at it, and send yours again.`);
}
