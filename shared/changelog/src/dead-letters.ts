import { assert, Fault, formatSourcePosition, type SourcePosition, type StoredBatch } from '@tributary/core';
import { Packr, Unpackr } from 'msgpackr';
import { cutBatch, decodeBatch } from './codec.ts';

/** What a projection could not apply of one batch: the changes of one table. Facts only; rows are read with {@link DeadLetters.read}. */
export interface DeadLetter {
  /** `<sink>/<source>`. */
  readonly projection: string;
  /** `schema.table`. */
  readonly table: string;
  /** Of the batch in its changelog. */
  readonly seq: number;
  readonly position: SourcePosition;
  readonly rows: number;
  readonly bytes: number;
  /** Why the table went to quarantine; null for what came after. */
  readonly reason: { readonly kind: string; readonly message: string } | null;
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Of a letter that is one event, not the changes of a batch. */
  readonly event?: LetterEvent;
}

/** What a sink of events must know to send one later. Its body is read with {@link DeadLetters.readEvent}. */
export interface LetterEvent {
  readonly id: string;
  /** Sorts, as text, behind the events before it at the same position. */
  readonly sequence: string;
  /** Names of the rows it speaks of: row values. */
  readonly keys: readonly string[];
  readonly contentType: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** Named keys with bytes: what dead letters need of a broker. NATS keeps them in a stream with one message per subject. */
export interface LetterStore {
  /** Largest value, in bytes. */
  readonly valueBytesMax: number;
  /** Stores a value; an earlier one of the same key is replaced. Resolves once it is durable. */
  put(key: string, value: Uint8Array): Promise<void>;
  /** Keys that begin with `prefix` (whole tokens between dots; '' = all), in no order. */
  keys(prefix: string): Promise<string[]>;
  get(key: string): Promise<Uint8Array | null>;
  /** Removes every key that begins with `prefix`. */
  purge(prefix: string): Promise<void>;
}

const packr = new Packr({ useRecords: false });
const unpackr = new Unpackr({ useRecords: false, int64AsType: 'bigint' });
const FORMAT_VERSION = 1;
/** Length of the packed facts, in front of the first part. */
const PREFIX_BYTES = 4;

interface WireLetter {
  v: number;
  p: string;
  t: string;
  s: number;
  l: [lsn: bigint, ordinal: number];
  n: number;
  b: number;
  r: [kind: string, message: string] | null;
  a: number;
  /** Of an event. */
  e?: [id: string, sequence: string, keys: readonly string[], contentType: string, headers: Readonly<Record<string, string>>];
}

/**
 * What projections with `onError: quarantine` could not apply, until somebody takes it back or gives it up.
 *
 * A letter has a key made of projection, table and position, so writing it again (a crash between the letter and the
 * position that moves past it) replaces it and never doubles it, however much later. A letter larger than a message is
 * kept in parts under the same key.
 */
export class DeadLetters {
  readonly #store: LetterStore;

  constructor(store: LetterStore) {
    this.#store = store;
  }

  /** Stores what `batch` holds of `table`. Resolves once it is durable. */
  async put(batch: StoredBatch, letter: Pick<DeadLetter, 'projection' | 'table' | 'reason' | 'at'>): Promise<void> {
    const { projection, table, reason, at } = letter;
    const { bytes, rows } = cutBatch(batch.wire, table);
    const { position } = batch.header;
    const wire: WireLetter = {
      v: FORMAT_VERSION,
      p: projection,
      t: table,
      s: batch.seq,
      l: [position.lsn, position.ordinal],
      n: rows,
      b: bytes.length,
      r: reason && [reason.kind, reason.message],
      a: at,
    };
    await this.#put(letterKey({ projection, table, position }), wire, bytes);
  }

  /** Stores one event. Resolves once it is durable. */
  async putEvent(letter: Omit<DeadLetter, 'rows' | 'bytes'> & { readonly event: LetterEvent }, body: string): Promise<void> {
    const { projection, table, seq, position, reason, at, event } = letter;
    const bytes = Buffer.from(body);
    const wire: WireLetter = {
      v: FORMAT_VERSION,
      p: projection,
      t: table,
      s: seq,
      l: [position.lsn, position.ordinal],
      n: 1,
      b: bytes.length,
      r: reason && [reason.kind, reason.message],
      a: at,
      e: [event.id, event.sequence, event.keys, event.contentType, event.headers],
    };
    await this.#put(letterKey(letter), wire, bytes);
  }

  async #put(key: string, wire: WireLetter, bytes: Uint8Array): Promise<void> {
    const facts = packr.pack(wire);
    const length = Buffer.alloc(PREFIX_BYTES);
    length.writeUInt32BE(facts.length);
    const whole = Buffer.concat([length, facts, bytes]);
    const size = this.#store.valueBytesMax;
    const parts = Math.ceil(whole.length / size);
    // The first part last: a letter is there when its facts are.
    for (let part = parts - 1; part >= 0; part--) {
      await this.#store.put(`${key}.${part}`, whole.subarray(part * size, (part + 1) * size));
    }
  }

  /** Letters of one projection, of one table of it, or all; each table's in the order of its changelog. */
  async list(projection?: string, table?: string): Promise<DeadLetter[]> {
    const keys = (await this.#store.keys(prefixOf(projection, table))).filter((key) => key.endsWith('.0')).toSorted();
    const letters: DeadLetter[] = [];
    for (const key of keys) {
      const first = await this.#store.get(key);
      if (first) letters.push(factsOf(first).letter);
    }
    return letters;
  }

  /** The changes of a letter, as the batch they came with, without other tables. */
  async read(letter: DeadLetter): Promise<StoredBatch> {
    return { ...decodeBatch(await this.#body(letter)), seq: letter.seq, storedAt: letter.at };
  }

  /** The body of a letter that is an event. */
  async readEvent(letter: DeadLetter): Promise<string> {
    return (await this.#body(letter)).toString('utf8');
  }

  async #body(letter: DeadLetter): Promise<Buffer> {
    const { table, position, bytes } = letter;
    const key = letterKey(letter);
    const parts: Uint8Array[] = [];
    let left = bytes;
    for (let part = 0; left > 0; part++) {
      const value = await this.#store.get(`${key}.${part}`);
      if (!value)
        throw new Fault('not_found', `the letter at ${formatSourcePosition(position)} of ${table} is gone or incomplete`);
      const body = part === 0 ? value.subarray(factsOf(value).end) : value;
      parts.push(body);
      left -= body.length;
    }
    return Buffer.concat(parts);
  }

  /** Lets go of one letter. */
  async dropOne(letter: DeadLetter): Promise<void> {
    await this.#store.purge(letterKey(letter));
  }

  /** Lets go of all letters of a table. */
  async drop(projection: string, table: string): Promise<void> {
    await this.#store.purge(prefixOf(projection, table));
  }
}

function factsOf(first: Uint8Array): { letter: DeadLetter; end: number } {
  const end = PREFIX_BYTES + new DataView(first.buffer, first.byteOffset).getUint32(0);
  const wire = unpackr.unpack(first.subarray(PREFIX_BYTES, end)) as WireLetter;
  assert(wire.v === FORMAT_VERSION, `a dead letter of format ${wire.v}`);
  const letter: DeadLetter = {
    projection: wire.p,
    table: wire.t,
    seq: wire.s,
    position: { lsn: BigInt(wire.l[0]), ordinal: Number(wire.l[1]) },
    rows: wire.n,
    bytes: wire.b,
    reason: wire.r && { kind: wire.r[0], message: wire.r[1] },
    at: wire.a,
    ...(wire.e
      ? { event: { id: wire.e[0], sequence: wire.e[1], keys: wire.e[2], contentType: wire.e[3], headers: wire.e[4] } }
      : {}),
  };
  return { letter, end };
}

/** `<sink>.<source>.<table in hex>.<lsn and ordinal in hex>`, with an event's sequence in their place: sorts as positions do. */
function letterKey({
  projection,
  table,
  position,
  event,
}: Pick<DeadLetter, 'projection' | 'table' | 'position' | 'event'>): string {
  const { lsn, ordinal } = position;
  const place = event?.sequence ?? `${lsn.toString(16).padStart(16, '0')}${ordinal.toString(16).padStart(14, '0')}`;
  return `${prefixOf(projection, table)}.${place}`;
}

function prefixOf(projection?: string, table?: string): string {
  if (projection === undefined) return '';
  const name = projection.replace('/', '.');
  return table === undefined ? name : `${name}.${Buffer.from(table).toString('hex')}`;
}
