import type { ServerResponse } from 'node:http';
import type { FastifyReply } from 'fastify';

/** Bytes a slow listener may leave unread before it is cut off; it comes back and starts from the newest state. */
const UNREAD_MAX = 1024 * 1024;

export interface EventStream {
  send(event: string, value: unknown, id?: string): void;
  /** Tells a listener that the line is alive, and by which id it may go on from here; it is no event. Of lines: nothing. */
  alive(id: string): void;
  /** Waits until the listener has read enough for more to be sent. */
  drained(): Promise<void>;
  end(): void;
  readonly signal: AbortSignal;
}

/** Takes over a reply and speaks server-sent events, or one JSON object a line, until either side ends. */
export function openStream(reply: FastifyReply, form: 'sse' | 'ndjson'): EventStream {
  reply.hijack();
  const raw = reply.raw;
  raw.writeHead(200, {
    ...(reply.getHeaders() as Record<string, string>),
    'Content-Type': form === 'sse' ? 'text/event-stream; charset=utf-8' : 'application/x-ndjson',
    'Cache-Control': 'no-store',
    'X-Accel-Buffering': 'no',
  });
  raw.flushHeaders();
  const ended = new AbortController();
  raw.on('close', () => ended.abort());
  raw.on('error', () => ended.abort());
  return {
    signal: ended.signal,
    send(event, value, id) {
      if (raw.writableEnded || raw.destroyed) return;
      if (raw.writableLength > UNREAD_MAX) return void raw.destroy();
      raw.write(form === 'ndjson' ? `${JSON.stringify(value)}\n` : sse(event, value, id));
    },
    alive(id) {
      if (form === 'sse' && !raw.writableEnded && !raw.destroyed) raw.write(`id: ${id}\n\n`);
    },
    drained: () => drained(raw),
    end: () => void raw.end(),
  };
}

function sse(event: string, value: unknown, id: string | undefined): string {
  return `${id === undefined ? '' : `id: ${id}\n`}event: ${event}\ndata: ${JSON.stringify(value)}\n\n`;
}

function drained(raw: ServerResponse): Promise<void> {
  if (!raw.writableNeedDrain || raw.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    const settle = () => {
      raw.off('drain', settle);
      raw.off('close', settle);
      resolve();
    };
    raw.on('drain', settle);
    raw.on('close', settle);
  });
}
