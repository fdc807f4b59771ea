import type { Cell } from '@tributary/core';

const SEPARATOR_BYTE = 0x1f;
const NULL_BYTE = 0x1e;
const UNCHANGED_BYTE = 0x1d;
const FIRST_BYTES = 4_096;
/** Values up to this size are copied byte by byte, which is faster than a call. */
const SHORT_BYTES = 48;
/** Buffers kept for the next batches. */
const SPARE_MAX = 256;
const SPARE_BYTES_MAX = 1024 * 1024;

const spare: Buffer[] = [];

const Kind = { value: 0, null: 1, unchanged: 2 } as const;

/**
 * A column being filled, as the bytes it will travel as: values in UTF-8 joined by 0x1F, NULL and unchanged as lone
 * markers. Values come as bytes from the wire and leave as bytes, so no string is ever made of them.
 */
export class ColumnDraft {
  #bytes: Buffer;
  #at = 0;
  /** Per cell: its offset × 4 + its kind. */
  readonly #cells: number[] = [];
  /** Some value holds a marker character: the column travels as an array. */
  #special = false;

  constructor() {
    this.#bytes = spare.pop() ?? Buffer.allocUnsafeSlow(FIRST_BYTES);
  }

  get length(): number {
    return this.#cells.length;
  }

  /** A value that stands in `from` at `[start, end)`. */
  pushBytes(from: Uint8Array, start: number, end: number): void {
    const length = end - start;
    let at = this.#begin(length, Kind.value);
    const bytes = this.#bytes;
    if (length <= SHORT_BYTES) {
      for (let i = start; i < end; i++) {
        const byte = from[i] as number;
        if (byte <= SEPARATOR_BYTE && byte >= UNCHANGED_BYTE) this.#special = true;
        bytes[at++] = byte;
      }
    } else {
      bytes.set(from.subarray(start, end), at);
      const value = bytes.subarray(at, at + length);
      for (const marker of [SEPARATOR_BYTE, NULL_BYTE, UNCHANGED_BYTE]) this.#special ||= value.includes(marker);
      at += length;
    }
    this.#at = at;
  }

  pushNull(): void {
    const at = this.#begin(1, Kind.null);
    this.#bytes[at] = NULL_BYTE;
    this.#at = at + 1;
  }

  pushUnchanged(): void {
    const at = this.#begin(1, Kind.unchanged);
    this.#bytes[at] = UNCHANGED_BYTE;
    this.#at = at + 1;
  }

  push(cell: Cell): void {
    if (cell === null) this.pushNull();
    else if (cell === undefined) this.pushUnchanged();
    else {
      const bytes = Buffer.from(cell, 'utf8');
      this.pushBytes(bytes, 0, bytes.length);
    }
  }

  /** The cell pushed last. */
  last(): Cell {
    return this.#cell(this.#cells.length - 1);
  }

  /** The bytes to travel, or the cells where some value holds a marker character. Valid until {@link release}. */
  encode(): Uint8Array | (string | null | 0)[] {
    if (!this.#special) return this.#bytes.subarray(0, this.#at);
    return this.#cells.map((_, i) => {
      const cell = this.#cell(i);
      return cell === undefined ? 0 : cell;
    });
  }

  /** The column is done with: its memory serves the next one. */
  release(): void {
    if (spare.length < SPARE_MAX && this.#bytes.length <= SPARE_BYTES_MAX) spare.push(this.#bytes);
    this.#bytes = Buffer.alloc(0);
  }

  #begin(length: number, kind: number): number {
    let at = this.#at;
    if (at + length + 1 > this.#bytes.length) this.#grow(at + length + 1);
    if (this.#cells.length > 0) this.#bytes[at++] = SEPARATOR_BYTE;
    this.#cells.push(at * 4 + kind);
    return at;
  }

  #grow(needed: number): void {
    const larger = Buffer.allocUnsafeSlow(Math.max(needed, this.#bytes.length * 2));
    larger.set(this.#bytes.subarray(0, this.#at));
    this.#bytes = larger;
  }

  #cell(index: number): Cell {
    const place = this.#cells[index] as number;
    const kind = place & 3;
    if (kind === Kind.null) return null;
    if (kind === Kind.unchanged) return undefined;
    const next = this.#cells[index + 1];
    const end = next === undefined ? this.#at : (next >>> 2) - 1;
    return this.#bytes.toString('utf8', place >>> 2, end);
  }
}
