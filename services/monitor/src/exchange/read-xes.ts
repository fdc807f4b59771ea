import { Fault } from '@tributary/core';
import sax from 'sax';
import { CASE, type LoggedEvent, parseTime } from './logged.ts';

const ATTRIBUTES = new Set(['string', 'date', 'int', 'float', 'boolean', 'id']);

/**
 * Reads an XES log event by event, with memory for one trace at most. Every event counts, whatever its lifecycle; its
 * activity is `concept:name`. Attributes inside attributes and lists are passed over.
 * @throws Fault `config_invalid` that names the line
 */
export async function* readXes(path: string, text: AsyncIterable<string>): AsyncGenerator<LoggedEvent> {
  const reader = new XesReader(path);
  for await (const piece of text) {
    reader.write(piece);
    yield* reader.taken();
  }
  reader.end();
  yield* reader.taken();
}

class XesReader {
  readonly #path: string;
  readonly #xml = sax.parser(true);
  #events: LoggedEvent[] = [];
  readonly #open: string[] = [];
  #traces = 0;
  #case: string | null = null;
  /** Events of the trace whose name is not known yet: its attributes may stand behind them. */
  #waiting: Omit<LoggedEvent, 'objects'>[] = [];
  #attributes: Record<string, string> = {};

  constructor(path: string) {
    this.#path = path;
    this.#xml.onerror = (error) => {
      throw this.#wrong((error.message.split('\n')[0] as string).toLowerCase());
    };
    this.#xml.onopentag = ({ name, attributes }) => {
      this.#opened(local(name), attributes as Record<string, string>);
    };
    this.#xml.onclosetag = (name) => this.#closed(local(name));
  }

  write(piece: string): void {
    this.#xml.write(piece);
  }

  end(): void {
    this.#xml.close();
    if (this.#traces === 0) throw this.#wrong('this is no XES log: it has no <trace>');
  }

  taken(): LoggedEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  #opened(name: string, { key, value }: Record<string, string>): void {
    const inside = this.#open.at(-1);
    this.#open.push(name);
    if (name === 'trace') {
      this.#traces++;
      this.#case = null;
    } else if (name === 'event' && inside === 'trace') this.#attributes = {};
    else if (!ATTRIBUTES.has(name) || key === undefined || value === undefined) return;
    else if (inside === 'event') this.#attributes[key] = value;
    else if (inside === 'trace' && key === 'concept:name') this.#case = value;
  }

  #closed(name: string): void {
    this.#open.pop();
    const inside = this.#open.at(-1);
    if (name === 'event' && inside === 'trace') this.#waiting.push(this.#event());
    if (name !== 'trace') return;
    const objects = [{ object: CASE, key: this.#case ?? `trace ${this.#traces}`, qualifier: CASE }];
    for (const event of this.#waiting) this.#events.push({ ...event, objects });
    this.#waiting = [];
  }

  #event(): Omit<LoggedEvent, 'objects'> {
    const { 'concept:name': activity, 'time:timestamp': time, ...attributes } = this.#attributes;
    if (activity === undefined) throw this.#wrong('an event has no concept:name');
    const atUs = time === undefined ? null : parseTime(time);
    if (atUs === null) throw this.#wrong(`an event has ${time === undefined ? 'no time:timestamp' : 'a time that is none'}`);
    return { activity, atUs, attributes };
  }

  #wrong(message: string): Fault {
    return new Fault('config_invalid', `${this.#path}:${this.#xml.line + 1}: ${message}`);
  }
}

function local(name: string): string {
  return name.slice(name.indexOf(':') + 1);
}
