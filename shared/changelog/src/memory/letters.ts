import type { LetterStore } from '../dead-letters.ts';

/** The twin of the stream of dead letters. */
export class MemoryLetters implements LetterStore {
  readonly valueBytesMax: number;
  readonly #values = new Map<string, Uint8Array>();

  constructor(valueBytesMax = 1024 * 1024) {
    this.valueBytesMax = valueBytesMax;
  }

  async put(key: string, value: Uint8Array): Promise<void> {
    this.#values.set(key, Uint8Array.from(value));
  }

  async keys(prefix: string): Promise<string[]> {
    return [...this.#values.keys()].filter((key) => prefix === '' || key.startsWith(`${prefix}.`));
  }

  async get(key: string): Promise<Uint8Array | null> {
    return this.#values.get(key) ?? null;
  }

  async purge(prefix: string): Promise<void> {
    for (const key of await this.keys(prefix)) this.#values.delete(key);
  }
}
