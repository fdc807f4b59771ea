import type { RateHistory, StatusTick } from '../src/wire.js';

export interface StreamEvents {
  history(history: RateHistory): void;
  status(tick: StatusTick): void;
  connection(state: 'connecting' | 'live' | 'disconnected'): void;
  /** The server wants a token; resolves with one. */
  token(): Promise<string>;
}

/** A tick comes every second; without any for this long the line is dead, whatever the socket says. */
const SILENT_MS = 6_000;
const RETRY_MS = 1_500;
const TOKEN_KEY = 'tributary-token';

/**
 * Follows `/v1/status/stream` for ever. Not an EventSource, because that cannot send a token and does not
 * notice a peer that went away without a word.
 */
export async function followStatus(events: StreamEvents): Promise<never> {
  events.connection('connecting');
  for (;;) {
    try {
      await followOnce(events);
    } catch {
      // Whatever cut the line, the answer is the same: say so, wait, connect again.
    }
    events.connection('disconnected');
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** Of the token that was entered, if the server asked for one. */
export function tokenHeaders(): Record<string, string> {
  const token = sessionStorage.getItem(TOKEN_KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function followOnce(events: StreamEvents): Promise<void> {
  const silence = new AbortController();
  let watchdog = setTimeout(() => silence.abort(), SILENT_MS);
  try {
    const response = await fetch('/v1/status/stream', {
      headers: tokenHeaders(),
      signal: silence.signal,
    });
    if (response.status === 401 || response.status === 403) {
      clearTimeout(watchdog);
      sessionStorage.setItem(TOKEN_KEY, await events.token());
      return;
    }
    if (!response.ok || !response.body) return;
    for await (const { event, data } of readEvents(response.body)) {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => silence.abort(), SILENT_MS);
      if (event === 'history') events.history(JSON.parse(data) as RateHistory);
      if (event !== 'status') continue;
      events.status(JSON.parse(data) as StatusTick);
      events.connection('live');
    }
  } finally {
    clearTimeout(watchdog);
    silence.abort();
  }
}

async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<{ event: string; data: string }> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf('\n\n'); end !== -1; end = text.indexOf('\n\n')) {
      const lines = text.slice(0, end).split('\n');
      text = text.slice(end + 2);
      const field = (name: string) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2) ?? '';
      yield { event: field('event'), data: field('data') };
    }
  }
}
