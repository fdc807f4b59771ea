import { assert } from '@tributary/core';

/**
 * A batch larger than the broker's largest message goes out as fragments, one after the other:
 * 'F' version(1) index(2) count(2) bytes…   The last one completes the batch and gives it its sequence.
 * A dead leader may leave a beginning without an end: readers drop it when the next message is no continuation.
 */
const MAGIC = 0x46;
const VERSION = 1;
const PREFIX_BYTES = 6;

export function isFragment(bytes: Uint8Array): boolean {
  return bytes[0] === MAGIC;
}

export function fragmentOf(bytes: Uint8Array): { index: number; count: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return { index: view.getUint16(2), count: view.getUint16(4) };
}

/** @returns the message itself when it fits, else its fragments in order */
export function fragment(message: Uint8Array, bytesMax: number): Uint8Array[] {
  if (message.length <= bytesMax) return [message];
  const room = bytesMax - PREFIX_BYTES;
  const count = Math.ceil(message.length / room);
  assert(count < 65_536, `a message of ${message.length} bytes needs ${count} fragments`);
  return Array.from({ length: count }, (_, index) => {
    const slice = message.subarray(index * room, (index + 1) * room);
    const out = Buffer.allocUnsafe(PREFIX_BYTES + slice.length);
    out[0] = MAGIC;
    out[1] = VERSION;
    out.writeUInt16BE(index, 2);
    out.writeUInt16BE(count, 4);
    out.set(slice, PREFIX_BYTES);
    return out;
  });
}

/** Puts fragments together again. One per reader; messages must be offered in stream order. */
export class Assembler {
  #parts: Uint8Array[] = [];

  /** @returns a whole batch message, or null while fragments are missing */
  offer(bytes: Uint8Array): Uint8Array | null {
    if (!isFragment(bytes)) {
      this.#parts = [];
      return bytes;
    }
    const { index, count } = fragmentOf(bytes);
    if (index === 0) this.#parts = [];
    if (index !== this.#parts.length) {
      // The beginning lies before the place where this reader started, or belongs to a dead leader.
      this.#parts = [];
      return null;
    }
    this.#parts.push(bytes.subarray(PREFIX_BYTES));
    if (this.#parts.length < count) return null;
    const whole = Buffer.concat(this.#parts);
    this.#parts = [];
    return whole;
  }
}
