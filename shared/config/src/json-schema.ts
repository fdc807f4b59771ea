import { z } from 'zod';
import { cluster, lakeSink, odsSink, source } from './kinds.ts';

/** JSON Schema of one config document, for editors. */
export function configJsonSchema(): object {
  return z.toJSONSchema(z.union([cluster, source, odsSink, lakeSink]), { io: 'input', unrepresentable: 'any' });
}
