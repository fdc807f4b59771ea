import { type AskOptions, type Bus, Fault } from '@tributary/core';

/** Questions inside one process; the twin of the NATS bus. Subjects match exactly, or by a final `>` for listeners. */
export function memoryBus(): Bus {
  const servers = new Map<string, (question: unknown) => AsyncIterable<unknown>>();
  const listeners = new Set<{ subject: string; heard: (value: unknown, subject: string) => void }>();
  return {
    async serve(subject, answer) {
      servers.set(subject, answer);
      return async () => {
        servers.delete(subject);
      };
    },
    async *ask(subject: string, question: unknown, options: AskOptions = {}) {
      const server = servers.get(subject);
      if (!server) throw new Fault('not_found', `nobody answers ${subject}`, { subject });
      for await (const part of server(structuredClone(question))) {
        options.signal?.throwIfAborted();
        yield structuredClone(part);
      }
    },
    tell(subject, value) {
      for (const listener of listeners) {
        if (matches(listener.subject, subject)) listener.heard(structuredClone(value), subject);
      }
    },
    async listen(subject, heard) {
      const listener = { subject, heard };
      listeners.add(listener);
      return async () => {
        listeners.delete(listener);
      };
    },
  };
}

function matches(pattern: string, subject: string): boolean {
  return pattern.endsWith('>') ? subject.startsWith(pattern.slice(0, -1)) : pattern === subject;
}
