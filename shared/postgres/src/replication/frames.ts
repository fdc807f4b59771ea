/** A message of the server begins with a byte that says which, and the length of all that follows this byte (4 bytes). */
const HEADER = 5;

/** Takes what comes from a connection apart into the messages of PostgreSQL's protocol, however it is cut. */
export class Frames {
  readonly #message: (bytes: Buffer, start: number, end: number) => void;
  /** The beginning of a message that has not come as a whole. */
  #parts: Buffer[] = [];
  #have = 0;
  #need = HEADER;

  /** @param message is given a whole message, its header included; the bytes are only valid during the call */
  constructor(message: (bytes: Buffer, start: number, end: number) => void) {
    this.#message = message;
  }

  push(chunk: Buffer): void {
    this.#parts.push(chunk);
    this.#have += chunk.length;
    // A large message is put together once, not again with each of its pieces.
    if (this.#have < this.#need) return;
    const bytes = this.#parts.length === 1 ? chunk : Buffer.concat(this.#parts);
    let at = 0;
    for (;;) {
      this.#need = at + HEADER <= bytes.length ? 1 + bytes.readUInt32BE(at + 1) : HEADER;
      if (at + this.#need > bytes.length) break;
      this.#message(bytes, at, at + this.#need);
      at += this.#need;
    }
    this.#have = bytes.length - at;
    this.#parts = this.#have > 0 ? [bytes.subarray(at)] : [];
  }
}
