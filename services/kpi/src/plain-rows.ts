import { Op, type Section, SEPARATOR } from '@tributary/core';
import type { Loaded } from '@tributary/duckdb';

/** Loaded at once: more would be held twice for a moment, and gains nothing. */
const CHARS_MAX = 1024 * 1024;

/**
 * Rows of several sections of one table, whose cells nobody needs to look at, on their way into one statement. Sections whose columns travel as one
 * string each are joined; one with a list (a value that holds the separator) goes alone.
 */
export class PlainRows {
  rows = 0;
  #texts: string[][] = [];
  #alone: readonly Loaded[] | null = null;
  readonly #ops: string[] = [];
  readonly #ticks: string[] = [];
  #chars = 0;

  /** Can the columns of another section join those that are here? */
  fits(loaded: readonly Loaded[]): boolean {
    if (this.rows === 0) return true;
    return this.#alone === null && loaded.length === this.#texts.length && loaded.every((one) => 'text' in one);
  }

  get full(): boolean {
    return this.#alone !== null || this.#chars > CHARS_MAX;
  }

  /** Only what {@link fits}. */
  add({ ops, rows }: Pick<Section, 'ops' | 'rows'>, loaded: readonly Loaded[], tick: number): void {
    const texts = loaded.flatMap((one) => ('text' in one ? [one.text] : []));
    if (texts.length < loaded.length) this.#alone = loaded;
    else if (this.rows === 0) this.#texts = texts.map((text) => [text]);
    else texts.forEach((text, c) => this.#texts[c]?.push(text));
    this.#chars += texts.reduce((sum, text) => sum + text.length, 0);
    this.rows += rows;
    this.#ops.push(Array.from(ops, (op) => (op === Op.deleted ? 'd' : 'w')).join(''));
    this.#ticks.push(`${tick},`.repeat(rows));
  }

  get columns(): readonly Loaded[] {
    return this.#alone ?? this.#texts.map((texts) => ({ text: texts.join(SEPARATOR) }));
  }

  /** By row: `d`eleted or written, and the tick. */
  get more(): { readonly op: string; readonly tick: string } {
    return { op: this.#ops.join(''), tick: this.#ticks.join('').slice(0, -1) };
  }
}
