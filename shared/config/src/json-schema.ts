import { z } from 'zod';
import { cluster, eventsSink, lakeSink, odsSink, source, transform } from './kinds.ts';
import { hook } from './hooks.ts';
import { kpi } from './kpi.ts';
import { process } from './process.ts';

/** JSON Schema of one config document, for editors. */
export function configJsonSchema(): object {
  return z.toJSONSchema(z.union([cluster, source, odsSink, lakeSink, eventsSink, transform, kpi, process, hook]), {
    io: 'input',
    unrepresentable: 'any',
  });
}
