import { z } from 'zod';
import { type WebhookTarget, webhook, webhookTarget } from './events.ts';

/** Where alerts and values go by HTTP; named in `to:`. */
export interface HookConfig {
  readonly name: string;
  readonly target: WebhookTarget;
}

export const hook = z.strictObject({
  kind: z.literal('Hook'),
  name: z.string().regex(/^[a-z][a-z0-9_]*$/, 'expected lower-case letters, digits and _, a letter first'),
  webhook,
});

export type HookDocument = z.output<typeof hook>;

export function hookOf({ name, webhook: target }: HookDocument): HookConfig {
  return { name, target: webhookTarget(target) };
}
