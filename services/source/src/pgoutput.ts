import type { ColumnDraft } from '@tributary/changelog';
import { assert, type Lsn } from '@tributary/core';

/** Microseconds between 1970 and PostgreSQL's epoch, 2000. */
const EPOCH_MICROS = 946_684_800_000_000;

export interface RelationMessage {
  readonly oid: number;
  readonly schema: string;
  readonly table: string;
  /** `d`efault, `i`ndex, `f`ull, `n`othing. */
  readonly identity: string;
  readonly columns: readonly { readonly name: string; readonly key: boolean; readonly type: number; readonly typmod: number }[];
}

/** First byte of each pgoutput message (protocol 1). */
export const Tag = {
  begin: 0x42,
  commit: 0x43,
  relation: 0x52,
  insert: 0x49,
  update: 0x55,
  delete: 0x44,
  truncate: 0x54,
  message: 0x4d,
} as const;

/** What precedes a tuple: the new row, the old key, the whole old row. */
export const TupleKind = { new: 0x4e, key: 0x4b, old: 0x4f } as const;

export function readLsn(bytes: Buffer, at: number): Lsn {
  return (BigInt(bytes.readUInt32BE(at)) << 32n) | BigInt(bytes.readUInt32BE(at + 4));
}

/** A timestamp as microseconds since 1970. */
export function readTime(bytes: Buffer, at: number): number {
  return bytes.readInt32BE(at) * 0x100000000 + bytes.readUInt32BE(at + 4) + EPOCH_MICROS;
}

export function readRelation(bytes: Buffer): RelationMessage {
  let at = 5;
  const text = () => {
    const end = bytes.indexOf(0, at);
    const value = bytes.toString('utf8', at, end);
    at = end + 1;
    return value;
  };
  const oid = bytes.readUInt32BE(1);
  const schema = text() || 'pg_catalog';
  const table = text();
  const identity = String.fromCharCode(bytes[at++] as number);
  const count = bytes.readUInt16BE(at);
  at += 2;
  const columns = Array.from({ length: count }, () => {
    const key = ((bytes[at++] as number) & 1) === 1;
    const name = text();
    const type = bytes.readUInt32BE(at);
    const typmod = bytes.readInt32BE(at + 4);
    at += 8;
    return { name, key, type, typmod };
  });
  return { oid, schema, table, identity, columns };
}

/**
 * Decodes one tuple straight into columns: one cell is pushed into each of `into`, as bytes. The hot loop of capture.
 * @param known columns of the tuple whose values mean anything (the identity of an old key); the others, and columns of `into` behind
 * those of the tuple, are pushed as `unknown`
 * @returns the offset behind the tuple
 */
export function readTuple(
  bytes: Buffer,
  start: number,
  into: readonly ColumnDraft[],
  known: readonly boolean[] | null = null,
  unknown?: null,
): number {
  const count = ((bytes[start] as number) << 8) | (bytes[start + 1] as number);
  assert(count === (known ?? into).length, `a row of ${count} columns for a table of ${(known ?? into).length}`);
  let at = start + 2;
  for (let i = 0; i < count; i++) {
    const kind = bytes[at++];
    const column = into[i] as ColumnDraft;
    let end = at;
    if (kind === 0x74) {
      const length =
        ((bytes[at] as number) << 24) |
        ((bytes[at + 1] as number) << 16) |
        ((bytes[at + 2] as number) << 8) |
        (bytes[at + 3] as number);
      at += 4;
      end = at + length;
    }
    // `n` is NULL, `u` an unchanged TOAST value.
    if (known && !known[i]) column.push(unknown);
    else if (kind === 0x75) column.pushUnchanged();
    else if (kind === 0x74) column.pushBytes(bytes, at, end);
    else column.pushNull();
    at = end;
  }
  for (let i = count; i < into.length; i++) (into[i] as ColumnDraft).push(unknown);
  return at;
}
