import { Fault } from '@tributary/core';
import type { EventMessage, EventStreams, EventStreamWriter } from '../event-stream.ts';

interface Kept extends EventMessage {
  readonly seq: number;
}

/** The twin of event streams. `messages` is what a stream holds; `lose` cuts its tail, as a broker does that loses its disk's cache. */
export class MemoryEventStreams implements EventStreams {
  readonly #streams = new Map<string, Kept[]>();

  async open(name: string): Promise<EventStreamWriter> {
    const kept = this.messages(name);
    const last = kept.at(-1) ?? null;
    const opened = { seq: last?.seq ?? 0, id: last?.id ?? null };
    let failure: Fault | null = null;
    return {
      bodyBytesMax: 1024 * 1024,
      lastSeq: opened.seq,
      lastHeaders: last && new Map([['nats-msg-id', last.id], ...lowered(last.headers)]),
      async append(message) {
        if (failure) throw failure;
        const after = opened.seq++;
        const afterId = opened.id;
        opened.id = message.id;
        await Promise.resolve();
        const twin = kept.find((one) => one.id === message.id);
        const end = kept.at(-1);
        if (twin ? twin.seq !== after + 1 : (end?.seq ?? 0) !== after || (end?.id ?? null) !== afterId) {
          failure ??= new Fault('fenced', `another writer took over stream ${name}`, { stream: name, after });
        }
        if (failure) throw failure;
        if (!twin) kept.push({ ...message, seq: after + 1 });
        return after + 1;
      },
      close() {
        failure ??= new Fault('fenced', `stream ${name} was closed for writing`, { stream: name });
      },
    };
  }

  /** In order. */
  messages(name: string): Kept[] {
    const known = this.#streams.get(name);
    if (known) return known;
    const kept: Kept[] = [];
    this.#streams.set(name, kept);
    return kept;
  }

  lose(name: string, messages: number): void {
    const kept = this.messages(name);
    kept.splice(kept.length - messages);
  }
}

function lowered(headers: Readonly<Record<string, string>>): [string, string][] {
  return Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]);
}
