import { describeError, FAULTS, Fault, type FaultKind } from '@tributary/core';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';

/** An error as RFC 9457 has it, with the operator's advice beside it. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly instance?: string;
  readonly advice?: string;
  /** Of the request: what is wrong with it. */
  readonly parameter?: string;
}

/** Faults that are the caller's, or another system's, doing. Every other kind is a 500. */
const STATUS_OF: Partial<Record<FaultKind, number>> = {
  not_found: 404,
  access_refused: 403,
  config_invalid: 400,
  query_refused: 422,
  broker_unreachable: 503,
  database_unreachable: 503,
  history_trimmed: 410,
  ahead_of_history: 410,
  other_epoch: 410,
  other_system: 410,
  outside_history: 410,
  not_complete: 503,
  worker_lost: 503,
};

const TITLES: Record<number, string> = {
  400: 'The request is not valid',
  401: 'A token is needed',
  403: 'The token does not allow this',
  404: 'There is no such thing here',
  405: 'This method is not allowed here',
  409: 'What stands there does not allow this',
  410: 'What was asked for is not held any more',
  412: 'What stands there is another one',
  413: 'The request is too large',
  415: 'The request has an unsupported content type',
  428: 'Say what this takes the place of',
  503: 'Not available now',
};

export function problemOf(error: unknown): Problem {
  if (error instanceof Fault) {
    const status = STATUS_OF[error.kind] ?? 500;
    return {
      type: `urn:tributary:fault:${error.kind}`,
      title: error.kind.replaceAll('_', ' '),
      status,
      detail: describeError(error),
      advice: FAULTS[error.kind].advice,
      ...(typeof error.facts['parameter'] === 'string' ? { parameter: error.facts['parameter'] } : {}),
    };
  }
  const known = error as Partial<FastifyError>;
  const status = typeof known.statusCode === 'number' ? known.statusCode : 500;
  if (status >= 500) return { type: 'about:blank', title: 'Internal error', status, detail: 'See the log of the console.' };
  const invalid = known.validation?.[0];
  return invalid ? invalidRequest(status, known.validationContext ?? 'request', invalid) : refusal(status, describeError(error));
}

/** What fastify's check complains of, with the name of the parameter, which its own text leaves out. */
function invalidRequest(
  status: number,
  where: string,
  { instancePath, params, message = 'is not valid' }: NonNullable<FastifyError['validation']>[number],
): Problem {
  const unknown = params['additionalProperty'];
  const parameter = typeof unknown === 'string' ? unknown : (instancePath.split('/')[1] ?? '');
  const allowed = Array.isArray(params['allowedValues']) ? `: ${params['allowedValues'].join(', ')}` : '';
  const detail = typeof unknown === 'string' ? 'there is no such parameter' : `${message}${allowed}`;
  return { ...refusal(status, `${where} ${parameter}: ${detail}`), ...(parameter === '' ? {} : { parameter }) };
}

export function refusal(status: number, detail: string): Problem {
  return { type: 'about:blank', title: TITLES[status] ?? 'The request was refused', status, detail };
}

export function sendProblem(request: FastifyRequest, reply: FastifyReply, problem: Problem): FastifyReply {
  // What is still being read, or taken over, is there in a moment.
  if (/:(not_complete|worker_lost)$/.test(problem.type)) void reply.header('Retry-After', '1');
  return reply
    .code(problem.status)
    .type('application/problem+json')
    .send(JSON.stringify({ ...problem, instance: request.url.split('?')[0] }));
}
