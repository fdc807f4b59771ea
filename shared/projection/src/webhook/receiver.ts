import type { WebhookTarget } from '@tributary/config';
import type { Clock } from '@tributary/core';
import { Signer } from './signature.ts';

/** What a receiver said to a request. */
export type Answer =
  | { readonly kind: 'taken' }
  /** `refused`: it answered, and not well. `away`: nothing of it answered, or it said that it cannot now. `gone`: it wants no more. */
  | { readonly kind: 'refused' | 'away' | 'gone'; readonly reason: string; readonly retryAfterMs: number | null };

export interface Message {
  readonly id: string;
  readonly contentType: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** It cannot now, or something before it says so; nothing is wrong with the event. */
const AWAY = new Set([408, 425, 429, 502, 503, 504]);
const GONE = 410;
const RETRY_AFTER_MS_MAX = 3_600_000;

/** One webhook, asked with one request at a time by whoever calls. Its answers are never repeated: they may quote rows. */
export class Receiver {
  /** Host and port: all of the URL that is fit for messages. */
  readonly host: string;
  readonly #target: WebhookTarget;
  readonly #signer: Signer;
  readonly #clock: Clock;

  constructor(target: WebhookTarget, clock: Clock) {
    this.host = new URL(target.url).host;
    this.#target = target;
    this.#signer = new Signer(target.secrets);
    this.#clock = clock;
  }

  /** Never throws. @param signal gives up at once */
  async post({ id, contentType, headers, body }: Message, signal: AbortSignal): Promise<Answer> {
    const { url, headers: own, timeoutMs } = this.#target;
    try {
      const response = await fetch(url, {
        method: 'POST',
        redirect: 'manual',
        headers: { ...own, ...headers, ...this.#signer.headers(id, body, this.#clock.now()), 'content-type': contentType },
        body,
        signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
      });
      // What it says more is of no interest, but must be taken for the connection to be used again.
      await response.arrayBuffer();
      const { status } = response;
      if (status >= 200 && status < 300) return { kind: 'taken' };
      const retryAfterMs = this.#retryAfter(response.headers.get('retry-after'));
      const kind = status === GONE ? 'gone' : AWAY.has(status) ? 'away' : 'refused';
      return { kind, reason: `${this.host} answered ${status}`, retryAfterMs };
    } catch (error) {
      return { kind: 'away', reason: `${this.host}: ${reasonOf(error, timeoutMs)}`, retryAfterMs: null };
    }
  }

  /** Seconds, or a date. */
  #retryAfter(text: string | null): number | null {
    if (text === null) return null;
    const ms = /^\d+$/.test(text) ? Number(text) * 1_000 : Date.parse(text) - this.#clock.now();
    return Number.isNaN(ms) ? null : Math.min(Math.max(0, ms), RETRY_AFTER_MS_MAX);
  }
}

function reasonOf(error: unknown, timeoutMs: number): string {
  if (!(error instanceof Error)) return 'no answer';
  if (error.name === 'TimeoutError') return `no answer within ${timeoutMs} ms`;
  const { cause } = error as { cause?: { code?: string } };
  return cause?.code ?? error.name;
}
