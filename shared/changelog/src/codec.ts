import { createHash } from 'node:crypto';
import { endianness } from 'node:os';
import {
  assert,
  type Batch,
  type BatchHeader,
  Fault,
  type Lsn,
  Op,
  type Section,
  type SnapshotMark,
  type SourcePosition,
  type TableSchema,
  tableName,
} from '@tributary/core';
import { Packr, Unpackr } from 'msgpackr';
import type { BatchDraft } from './changelog.ts';
import { ArrayColumn, CsvRows, JoinedColumn, TailColumn } from './column.ts';
import type { SectionDraft, DraftColumn, SectionParts, WireColumn } from './draft.ts';

/**
 * The bytes of a batch. History of the format (readers accept the current version and the one before):
 *
 *   version 1 (2026-11): first form.
 *
 *   'T' version(1)  headerLength(4, big endian)  header  [schema body] [schema body] …
 *
 * The header is msgpack and holds the length of every section's parts, so a reader takes what it wants and
 * skips the rest undecoded. A section's schema goes with every batch (a batch is readable on its own) but
 * is packed once per shape and decoded once per fingerprint. A body is msgpack of columns, or raw COPY CSV.
 */
export const FORMAT_VERSION = 1;
const MAGIC = 0x54;
const PREFIX_BYTES = 6;

assert(endianness() === 'LE', 'row indices are stored little-endian');

const packr = new Packr({ useRecords: false });
const unpackr = new Unpackr({ useRecords: false, int64AsType: 'bigint' });

type WirePosition = [lsn: Lsn, ordinal: number];

interface WireHeader {
  s: string;
  e: string;
  k: 0 | 1;
  f: WirePosition;
  p: WirePosition;
  r: Lsn;
  w: number;
  /** 1 = continues, 2 = more. */
  c: number;
  t: [lsn: Lsn[], endLsn: Lsn[], xid: number[], committedAt: number[]];
  m: [step: SnapshotMark['step'], table: string, generation: number, reset: boolean, progress?: string] | null;
  /** JSON: what only the next leader reads is not decoded by anyone else. */
  st: string | null;
  ss: number;
  x: [version: string, table: string, rows: number, schemaBytes: number, bodyBytes: number, csv: boolean][];
}

interface WireBody {
  o: number | Uint8Array;
  t: number | Uint8Array;
  d: number | Uint8Array;
  c: WireColumn[];
  l: [rows: Uint8Array, columns: WireColumn[]] | null;
}

interface PackedSchema {
  readonly version: string;
  readonly bytes: Uint8Array;
}

const packedSchemas = new WeakMap<TableSchema, PackedSchema>();

function packSchema(schema: TableSchema): PackedSchema {
  let packed = packedSchemas.get(schema);
  if (!packed) {
    const bytes = Uint8Array.from(packr.pack(schema));
    packed = { version: createHash('sha256').update(bytes).digest('base64url').slice(0, 12), bytes };
    packedSchemas.set(schema, packed);
  }
  return packed;
}

/** Shapes by fingerprint; a system that sees more than this many starts the cache over. */
const SCHEMAS_MAX = 10_000;
const knownSchemas = new Map<string, TableSchema>();

function unpackSchema(version: string, bytes: Uint8Array): TableSchema {
  let schema = knownSchemas.get(version);
  if (!schema) {
    schema = unpackr.unpack(bytes) as TableSchema;
    if (knownSchemas.size >= SCHEMAS_MAX) knownSchemas.clear();
    knownSchemas.set(version, schema);
  }
  return schema;
}

/** Fingerprint of a shape: equal for equal shapes. */
export function schemaVersion(schema: TableSchema): string {
  return packSchema(schema).version;
}

/** @returns the message for a batch that follows `follows`; about 0.3 µs a row of 10 columns */
export function encodeBatch(draft: BatchDraft, follows: SourcePosition, stateSeq: number): Uint8Array {
  const h = draft.header;
  const sections = draft.sections.map(encodeSection);
  const header: WireHeader = {
    s: h.source,
    e: h.epoch,
    k: h.kind === 'stream' ? 0 : 1,
    f: [follows.lsn, follows.ordinal],
    p: [h.position.lsn, h.position.ordinal],
    r: h.restart,
    w: h.watermark,
    c: (h.continues ? 1 : 0) | (h.more ? 2 : 0),
    t: [
      h.transactions.map((t) => t.lsn),
      h.transactions.map((t) => t.endLsn),
      h.transactions.map((t) => t.xid),
      h.transactions.map((t) => t.committedAt),
    ],
    m: h.mark && wireMark(h.mark),
    st: h.state === null ? null : JSON.stringify(h.state),
    ss: stateSeq,
    x: sections.map((s) => s.entry),
  };
  const head = packr.pack(header);
  const bytes = sections.reduce((sum, s) => sum + s.schema.length + s.bodyBytes, PREFIX_BYTES + head.length);
  const out = Buffer.allocUnsafe(bytes);
  out[0] = MAGIC;
  out[1] = FORMAT_VERSION;
  out.writeUInt32BE(head.length, 2);
  out.set(head, PREFIX_BYTES);
  let at = PREFIX_BYTES + head.length;
  for (const section of sections) {
    for (const piece of [section.schema, ...section.body]) {
      out.set(piece, at);
      at += piece.length;
    }
  }
  for (const section of draft.sections) section.release();
  return out;
}

function wireMark({ step, table, generation, reset, progress }: SnapshotMark): NonNullable<WireHeader['m']> {
  return progress === undefined ? [step, table, generation, reset] : [step, table, generation, reset, progress];
}

function markOf([step, table, generation, reset, progress]: NonNullable<WireHeader['m']>): SnapshotMark {
  return { step, table, generation, reset, ...(progress === undefined ? {} : { progress }) };
}

interface EncodedSection {
  readonly entry: WireHeader['x'][number];
  readonly schema: Uint8Array;
  /** In pieces: they are copied once, into the message. */
  readonly body: readonly Uint8Array[];
  readonly bodyBytes: number;
}

function encodeSection(draft: SectionDraft): EncodedSection {
  const packed = packSchema(draft.schema);
  const parts = draft.parts();
  const body = parts.csv ? [parts.csv] : packBody(parts);
  const bodyBytes = body.reduce((sum, piece) => sum + piece.length, 0);
  return {
    entry: [packed.version, tableName(draft.schema), parts.rows, packed.bytes.length, bodyBytes, parts.csv !== undefined],
    schema: packed.bytes,
    body,
    bodyBytes,
  };
}

/** A {@link WireBody} as msgpack, put together by hand: columns are UTF-8 already and become strings by a header alone. */
function packBody(parts: Exclude<SectionParts, { csv: Uint8Array }>): Uint8Array[] {
  const pieces: Uint8Array[] = [Uint8Array.of(0x85)];
  const put = (key: string, ...values: Uint8Array[]) => pieces.push(pack(key), ...values);
  put('o', pack(allEqual(parts.ops) ? (parts.ops[0] ?? 0) : Uint8Array.from(parts.ops)));
  put('t', pack(allEqual(parts.transactions) ? (parts.transactions[0] ?? 0) : words(parts.transactions)));
  put('d', pack(consecutive(parts.ordinals) ? (parts.ordinals[0] ?? 0) : words(parts.ordinals)));
  put('c', ...packColumns(parts.columns));
  if (parts.old) put('l', Uint8Array.of(0x92), pack(words(parts.old.rows)), ...packColumns(parts.old.columns));
  else put('l', Uint8Array.of(0xc0));
  return pieces;
}

/** pack() gives out its own buffer, which the next call may write over. */
function pack(value: unknown): Uint8Array {
  return Uint8Array.from(packr.pack(value));
}

function packColumns(columns: readonly DraftColumn[]): Uint8Array[] {
  const count = columns.length;
  const head = count < 16 ? Uint8Array.of(0x90 | count) : Uint8Array.of(0xdc, count >> 8, count & 0xff);
  return [
    head,
    ...columns.flatMap((column) => (column instanceof Uint8Array ? [stringHead(column.length), column] : [pack(column)])),
  ];
}

function stringHead(length: number): Uint8Array {
  if (length < 32) return Uint8Array.of(0xa0 | length);
  if (length < 0x100) return Uint8Array.of(0xd9, length);
  if (length < 0x10000) return Uint8Array.of(0xda, length >> 8, length & 0xff);
  return Uint8Array.of(0xdb, length >>> 24, (length >> 16) & 0xff, (length >> 8) & 0xff, length & 0xff);
}

function allEqual(values: ArrayLike<number>): boolean {
  const first = values[0];
  for (let i = 1; i < values.length; i++) if (values[i] !== first) return false;
  return true;
}

function consecutive(values: ArrayLike<number>): boolean {
  const first = values[0] ?? 0;
  for (let i = 1; i < values.length; i++) if (values[i] !== first + i) return false;
  return true;
}

function words(values: ArrayLike<number>): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

function unwords(bytes: Uint8Array): Uint32Array {
  // The bytes lie unaligned inside the message, so they are copied (Buffer's own slice would not).
  return new Uint32Array(Uint8Array.from(bytes).buffer);
}

/**
 * @param wants tables (`schema.table`) whose sections are taken; the bytes of the others are passed over by their length
 * @throws Fault `changelog_format` when the bytes are not a batch of a known version
 */
export function decodeBatch(bytes: Uint8Array, wants: (table: string) => boolean = () => true): Batch {
  const { wire, at } = decodeWireHeader(bytes);
  const header: BatchHeader = {
    source: wire.s,
    epoch: wire.e,
    kind: wire.k === 0 ? 'stream' : 'read',
    follows: { lsn: wire.f[0], ordinal: wire.f[1] },
    position: { lsn: wire.p[0], ordinal: wire.p[1] },
    restart: wire.r,
    watermark: wire.w,
    continues: (wire.c & 1) !== 0,
    more: (wire.c & 2) !== 0,
    transactions: wire.t[0].map((lsn, i) => ({
      lsn,
      endLsn: wire.t[1][i] as Lsn,
      xid: wire.t[2][i] as number,
      committedAt: wire.t[3][i] as number,
    })),
    mark: wire.m && markOf(wire.m),
    state: wire.st === null ? null : JSON.parse(wire.st),
    stateSeq: wire.ss,
  };
  const sections: Section[] = [];
  let offset = at;
  for (const [version, table, rows, schemaBytes, bodyBytes, csv] of wire.x) {
    const schemaEnd = offset + schemaBytes;
    const end = schemaEnd + bodyBytes;
    if (wants(table)) {
      const schema = unpackSchema(version, bytes.subarray(offset, schemaEnd));
      const body = bytes.subarray(schemaEnd, end);
      sections.push(csv ? new CsvSection(schema, version, rows, body) : new ColumnSection(schema, version, rows, body));
    }
    offset = end;
  }
  return { header, sections, bytes: bytes.length, wire: bytes };
}

/** The message of a batch with one table's sections and marks alone, and without state for leaders. @returns it, and its rows */
export function cutBatch(message: Uint8Array, table: string): { bytes: Uint8Array; rows: number } {
  const { wire, at } = decodeWireHeader(message);
  const pieces: Uint8Array[] = [];
  const entries: WireHeader['x'] = [];
  let offset = at;
  for (const entry of wire.x) {
    const [, name, , schemaBytes, bodyBytes] = entry;
    const end = offset + schemaBytes + bodyBytes;
    if (name === table) {
      entries.push(entry);
      pieces.push(message.subarray(offset, end));
    }
    offset = end;
  }
  const mark = wire.m?.[1] === table ? wire.m : null;
  const head = pack({ ...wire, m: mark, st: null, x: entries });
  const prefix = Buffer.alloc(PREFIX_BYTES);
  prefix[0] = MAGIC;
  prefix[1] = FORMAT_VERSION;
  prefix.writeUInt32BE(head.length, 2);
  return { bytes: Buffer.concat([prefix, head, ...pieces]), rows: entries.reduce((sum, [, , rows]) => sum + rows, 0) };
}

function decodeWireHeader(bytes: Uint8Array): { wire: WireHeader; at: number } {
  if (bytes.length < PREFIX_BYTES || bytes[0] !== MAGIC) {
    throw new Fault('changelog_format', 'a message in the changelog is not a batch', { bytes: bytes.length });
  }
  if (bytes[1] !== FORMAT_VERSION) {
    throw new Fault('changelog_format', `a batch has format version ${bytes[1]}; this worker reads ${FORMAT_VERSION}`, {
      version: bytes[1],
    });
  }
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(2);
  const at = PREFIX_BYTES + length;
  return { wire: unpackr.unpack(bytes.subarray(PREFIX_BYTES, at)) as WireHeader, at };
}

function column(wire: WireColumn, rows: number): JoinedColumn | ArrayColumn {
  return typeof wire === 'string' ? new JoinedColumn(wire, rows) : new ArrayColumn(wire);
}

/** Columns as sent by the stream; the body is unpacked when a row is first asked for. */
class ColumnSection implements Section {
  readonly schema: TableSchema;
  readonly schemaVersion: string;
  readonly rows: number;
  readonly csv = null;
  readonly #bytes: Uint8Array;
  #body: WireBody | null = null;
  #columns: Section['columns'] | null = null;
  #ops: Uint8Array | null = null;
  #transaction: Uint32Array | null = null;
  #ordinal: Uint32Array | null = null;
  #old: Section['old'] = null;

  constructor(schema: TableSchema, version: string, rows: number, bytes: Uint8Array) {
    this.schema = schema;
    this.schemaVersion = version;
    this.rows = rows;
    this.#bytes = bytes;
  }

  #wire(): WireBody {
    this.#body ??= unpackr.unpack(this.#bytes) as WireBody;
    return this.#body;
  }

  get ops(): Uint8Array {
    const ops = this.#wire().o;
    this.#ops ??= typeof ops === 'number' ? new Uint8Array(this.rows).fill(ops) : ops;
    return this.#ops;
  }

  get transaction(): Uint32Array {
    const transaction = this.#wire().t;
    this.#transaction ??= typeof transaction === 'number' ? new Uint32Array(this.rows).fill(transaction) : unwords(transaction);
    return this.#transaction;
  }

  get ordinal(): Uint32Array {
    const ordinal = this.#wire().d;
    this.#ordinal ??=
      typeof ordinal === 'number' ? Uint32Array.from({ length: this.rows }, (_, i) => ordinal + i) : unwords(ordinal);
    return this.#ordinal;
  }

  get columns(): Section['columns'] {
    this.#columns ??= this.#wire().c.map((wire) => column(wire, this.rows));
    return this.#columns;
  }

  get old(): Section['old'] {
    const old = this.#wire().l;
    if (!old) return null;
    if (!this.#old) {
      const row = unwords(old[0]);
      this.#old = { row, columns: old[1].map((wire) => column(wire, row.length)) };
    }
    return this.#old;
  }
}

/** Rows read by a snapshot, as COPY CSV; taken apart only when somebody asks for cells. */
class CsvSection implements Section {
  readonly schema: TableSchema;
  readonly schemaVersion: string;
  readonly rows: number;
  readonly csv: Uint8Array;
  readonly old = null;
  #columns: Section['columns'] | null = null;
  #ops: Uint8Array | null = null;
  #transaction: Uint32Array | null = null;
  #ordinal: Uint32Array | null = null;

  constructor(schema: TableSchema, version: string, rows: number, csv: Uint8Array) {
    this.schema = schema;
    this.schemaVersion = version;
    this.rows = rows;
    this.csv = csv;
  }

  get ops(): Uint8Array {
    this.#ops ??= new Uint8Array(this.rows).fill(Op.read);
    return this.#ops;
  }

  get transaction(): Uint32Array {
    this.#transaction ??= new Uint32Array(this.rows);
    return this.#transaction;
  }

  get ordinal(): Uint32Array {
    this.#ordinal ??= Uint32Array.from({ length: this.rows }, (_, i) => i + 1);
    return this.#ordinal;
  }

  get columns(): Section['columns'] {
    this.#columns ??= new CsvRows(this.csv, this.rows, this.schema.columns.length).columns();
    return this.#columns;
  }
}

/**
 * The part of a batch after a position inside it: the transactions whose commit LSN lies beyond it.
 * Needed when a broker lost its tail and the source wrote it again with other cuts.
 */
export function batchAfter(batch: Batch, after: SourcePosition): Batch {
  const first = batch.header.transactions.findIndex((t) => t.lsn > after.lsn);
  const transactions = first === -1 ? [] : batch.header.transactions.slice(first);
  const sections = first === -1 ? [] : batch.sections.flatMap((section) => sectionFrom(section, first) ?? []);
  return { ...batch, header: { ...batch.header, follows: after, continues: false, transactions }, sections };
}

function sectionFrom(section: Section, first: number): Section | null {
  const from = section.transaction.findIndex((t) => t >= first);
  if (from === -1) return null;
  const old = section.old;
  const oldFrom = old ? old.row.findIndex((row) => row >= from) : -1;
  return {
    schema: section.schema,
    schemaVersion: section.schemaVersion,
    rows: section.rows - from,
    csv: null,
    ops: section.ops.slice(from),
    transaction: section.transaction.slice(from).map((t) => t - first),
    ordinal: section.ordinal.slice(from),
    columns: section.columns.map((c) => new TailColumn(c, from)),
    old:
      old && oldFrom !== -1
        ? {
            row: old.row.slice(oldFrom).map((row) => row - from),
            columns: old.columns.map((c) => new TailColumn(c, oldFrom)),
          }
        : null,
  };
}
