import type { OutEvent } from './event.ts';

/** A word of a subject: what NATS does not allow in one is written `%` and two hexadecimal digits a byte (UTF-8). */
export function subjectWord(text: string): string {
  return text.replaceAll(/[^A-Za-z0-9_-]/gu, (character) =>
    [...Buffer.from(character)].map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`).join(''),
  );
}

/** A subject's template, with what is the same for every event filled in. */
export class Subjects {
  readonly #template: string;

  constructor(template: string, { sink, source }: { readonly sink: string; readonly source: string }) {
    this.#template = template.replaceAll('{sink}', sink).replaceAll('{source}', source);
  }

  /** Of all events: what the stream listens to. */
  get all(): string {
    return this.#template
      .split('.')
      .map((word) => (/\{(schema|table|op)\}/.test(word) ? '*' : word))
      .join('.');
  }

  of({ words }: Pick<OutEvent, 'words'>): string {
    const { schema, table, op } = words ?? { schema: '_', table: '_', op: '_' };
    return this.#template
      .replaceAll('{schema}', () => subjectWord(schema))
      .replaceAll('{table}', () => subjectWord(table))
      .replaceAll('{op}', op);
  }
}
