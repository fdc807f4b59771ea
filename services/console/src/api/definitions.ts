import type { KpiConfig, KpiReader, ProcessConfig } from '@tributary/config';
import { Fault } from '@tributary/core';
import type { OpsLog } from '@tributary/ops';
import type { FastifyInstance, FastifyRequest, FastifySchema } from 'fastify';
import { type Problem, refusal, sendProblem } from './problem.ts';

/** What may be defined over HTTP. */
export type DefinedKind = 'Kpi' | 'Process';

/** Of which definition is spoken: a name is of one kind. */
export interface DefinitionName {
  readonly kind: DefinedKind;
  readonly name: string;
}

/** Where a definition stands. */
export type Definition =
  | {
      readonly origin: 'file';
      readonly file: string;
      /** As the file has it; null where a secret is written out in it. */
      readonly text: string | null;
    }
  | {
      readonly origin: 'api';
      readonly version: number;
      readonly text: string;
      /** Names this version, and what stands in it. */
      readonly tag: string;
    };

/** `changed: false`: another one stands there than the caller knew; it is told. */
export interface DefinitionChanged {
  readonly changed: boolean;
  readonly document: Definition | null;
}

interface Change {
  /** Tag of the document that it takes the place of; null: of none. */
  readonly over: string | null;
  readonly reader: KpiReader | null;
}

/** The desired state, as far as it came over HTTP. */
export interface Definitions {
  find(of: DefinitionName): Promise<Definition | null>;
  /** @throws Fault `config_invalid`, `access_refused` */
  put(of: DefinitionName, text: string, change: Change): Promise<DefinitionChanged>;
  /** @throws Fault `access_refused` */
  remove(of: DefinitionName, change: Change): Promise<DefinitionChanged>;
}

/** Schema of a body that is a definition. */
export function definitionBody(kind: DefinedKind): object {
  return { description: `One document of kind: ${kind}, as YAML (application/yaml) or JSON` };
}

const CONDITIONS =
  'A change of one that is there names it by `If-Match` (the ETag of `GET`, or `*`), else 428; 412: it is another one meanwhile. 409: it is defined in a file, which `tributary apply` manages.';

export interface DefinitionRoutesOptions<Config extends KpiConfig | ProcessConfig> {
  readonly kind: DefinedKind;
  /** `/v1/PATH/:PARAMETER`. */
  readonly path: string;
  readonly parameter: string;
  readonly documents: Definitions;
  /** The one definition in a body, checked by itself. @throws Fault `config_invalid` */
  readonly definitionIn: (body: unknown) => Promise<Config>;
  /** Checks what it cannot say by itself, before it is taken. @returns what is told of it. @throws Fault */
  readonly validate: (config: Config) => Promise<object>;
  /** Deletes what has this name and is no definition. @returns was there such a thing? */
  readonly removeOther?: (name: string) => Promise<boolean>;
  readonly log: Pick<OpsLog, 'info'>;
}

interface Named {
  Params: Record<string, string>;
}

/** A definition put in the place of another names it by `If-Match`, so that nobody's change is lost. */
export function definitionRoutes<Config extends KpiConfig | ProcessConfig>(
  server: FastifyInstance,
  options: DefinitionRoutesOptions<Config>,
): void {
  const { kind, path, parameter, documents, log } = options;
  const route = `/v1/${path}/:${parameter}`;
  const params = { type: 'object', properties: { [parameter]: { type: 'string', maxLength: 64 } } };
  const object = { type: 'object' };
  const named = (request: FastifyRequest) => (request.params as Named['Params'])[parameter] as string;
  const put: FastifySchema = {
    summary: `Define a ${kind}, or change its definition`,
    description: `It runs at once, and is kept when the cluster starts again. \`If-None-Match: *\`: only where there is none yet. ${CONDITIONS}`,
    params,
    body: definitionBody(kind),
    response: { 200: object, 201: object },
  };
  server.put<Named & { Body: unknown }>(route, { config: { role: 'operator' }, schema: put }, async (request, reply) => {
    const { body, reader } = request;
    const name = named(request);
    const config = await options.definitionIn(body);
    if (config.name !== name)
      throw new Fault('config_invalid', `the definition is of ${config.name}, not of ${name}`, { parameter });
    const current = await documents.find({ kind, name });
    const problem = preconditionOf(request, { kind, name, path, current });
    if (problem) return sendProblem(request, reply, problem);
    const told = await options.validate(config);
    const text = typeof body === 'string' ? body : `${JSON.stringify(body, null, 2)}\n`;
    const { changed, document } = await documents.put({ kind, name }, text, { over: tagOf(current), reader });
    if (!changed || document?.origin !== 'api') return sendProblem(request, reply, overtaken(kind, name));
    log.info({ kind, name, version: document.version, by: nameOf(reader) }, 'a definition came over HTTP');
    void reply.code(current === null ? 201 : 200).header('ETag', `"${document.tag}"`);
    return { [parameter]: name, origin: 'api', version: document.version, ...told };
  });

  const remove: FastifySchema = {
    summary: `Delete the definition of a ${kind} that came over HTTP`,
    description: CONDITIONS,
    params,
    response: { 204: { type: 'null', description: 'It is gone' } },
  };
  server.delete<Named>(route, { config: { role: 'operator' }, schema: remove }, async (request, reply) => {
    const name = named(request);
    const { reader } = request;
    const current = await documents.find({ kind, name });
    if (current === null && (await options.removeOther?.(name))) return reply.code(204).send();
    if (current === null) throw new Fault('not_found', `there is no ${kind} named "${name.slice(0, 64)}"`, { parameter });
    const problem = preconditionOf(request, { kind, name, path, current });
    if (problem) return sendProblem(request, reply, problem);
    const { changed } = await documents.remove({ kind, name }, { over: tagOf(current), reader });
    if (!changed) return sendProblem(request, reply, overtaken(kind, name));
    log.info({ kind, name, by: nameOf(reader) }, 'a definition was deleted over HTTP');
    return reply.code(204).send();
  });
}

function nameOf(reader: KpiReader | null): string | null {
  return typeof reader === 'string' ? reader : (reader?.name ?? null);
}

function tagOf(document: Definition | null): string | null {
  return document?.origin === 'api' ? document.tag : null;
}

function overtaken(kind: DefinedKind, name: string): Problem {
  return refusal(412, `${kind} ${name} was changed at the same moment: look at it, and send yours again.`);
}

/** What keeps a change from being made to what stands there; null = nothing does. */
function preconditionOf(
  { headers }: FastifyRequest,
  { kind, name, path, current }: DefinitionName & { readonly path: string; readonly current: Definition | null },
): Problem | null {
  const what = `${kind} ${name}`;
  if (current?.origin === 'file')
    return refusal(
      409,
      `${what} is defined in ${current.file}: change it there and run "tributary apply", or take it out of there first.`,
    );
  const match = headers['if-match'];
  if (headers['if-none-match'] === '*' && current !== null) return refusal(412, `There is a ${what} already.`);
  if (match === undefined)
    return current === null
      ? null
      : refusal(428, `Say which version of ${what} is meant: If-Match with the ETag that GET /v1/${path}/${name} told, or *.`);
  if (current === null) return refusal(412, `There is no ${what} that came over HTTP.`);
  if (match === '*' || [...match.matchAll(/"([^"]*)"/g)].some(([, tag]) => tag === current.tag)) return null;
  return refusal(412, `${what} is another one meanwhile (version ${current.version}): look at it, and send yours again.`);
}
