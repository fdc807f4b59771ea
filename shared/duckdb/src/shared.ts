/**
 * What several actors of one worker share: opened by the first of them, closed after the last, and anew when it is no longer valid
 * (DuckDB gave the file up).
 */
export class Shared<T> {
  readonly #how: {
    readonly open: () => Promise<T>;
    readonly valid: (one: T) => boolean;
    readonly close: (one: T) => Promise<void>;
  };
  #opening: Promise<T> | null = null;

  constructor(how: { open: () => Promise<T>; valid: (one: T) => boolean; close: (one: T) => Promise<void> }) {
    this.#how = how;
  }

  /** Concurrent callers get the same one. When it fails the next caller tries again. */
  open(): Promise<T> {
    const before = this.#opening?.catch(() => null) ?? Promise.resolve(null);
    const opening = before.then(async (one) => {
      if (one && this.#how.valid(one)) return one;
      if (one) await this.#how.close(one);
      return this.#how.open();
    });
    this.#opening = opening;
    return opening;
  }

  async close(): Promise<void> {
    const opening = this.#opening;
    this.#opening = null;
    const one = await opening?.catch(() => null);
    if (one) await this.#how.close(one);
  }
}
