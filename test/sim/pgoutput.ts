import type { Lsn } from '@tributary/core';
import { type Change, type ModelTable, TOAST_LENGTH, type Transaction, type Values } from './pg-model.ts';

/** Microseconds between 1970 and PostgreSQL's epoch, 2000. */
const EPOCH_MICROS = 946_684_800_000_000;

class Message {
  readonly #parts: Buffer[] = [];

  constructor(tag: string) {
    this.#parts.push(Buffer.from(tag, 'latin1'));
  }

  byte(value: number): this {
    this.#parts.push(Buffer.of(value));
    return this;
  }

  short(value: number): this {
    this.#parts.push(Buffer.of(value >> 8, value & 0xff));
    return this;
  }

  word(value: number): this {
    const bytes = Buffer.alloc(4);
    bytes.writeInt32BE(value | 0);
    this.#parts.push(bytes);
    return this;
  }

  long(value: bigint): this {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(value);
    this.#parts.push(bytes);
    return this;
  }

  text(value: string): this {
    this.#parts.push(Buffer.from(`${value}\0`));
    return this;
  }

  bytes(value: string): this {
    const bytes = Buffer.from(value);
    this.word(bytes.length);
    this.#parts.push(bytes);
    return this;
  }

  /** @param cell undefined = an unchanged value that is stored out of line */
  cell(cell: string | null | undefined): this {
    if (cell === null) return this.byte(0x6e);
    if (cell === undefined) return this.byte(0x75);
    return this.byte(0x74).bytes(cell);
  }

  end(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

function time(micros: number): bigint {
  return BigInt(micros - EPOCH_MICROS);
}

/** The pgoutput messages (protocol 1) of one transaction; of tables in `described` the shape was told before. */
export function encodeTransaction(transaction: Transaction, described: Set<number>): Buffer[] {
  const out: Buffer[] = [];
  const xid = Number(transaction.xid & 0xffffffffn);
  const { commitLsn, endLsn, committedAt } = transaction;
  out.push(new Message('B').long(commitLsn).long(time(committedAt)).word(xid).end());
  for (const change of transaction.changes) {
    if (!change.published) continue;
    if (!described.has(change.table.oid)) {
      described.add(change.table.oid);
      out.push(encodeRelation(change.table));
    }
    out.push(encodeChange(change));
  }
  if (transaction.message !== null) out.push(encodeLogical(transaction.message, commitLsn));
  out.push(new Message('C').byte(0).long(commitLsn).long(endLsn).long(time(committedAt)).end());
  return out;
}

function encodeRelation({ oid, schema, key }: ModelTable): Buffer {
  const full = schema.identity === 'full';
  const message = new Message('R').word(oid).text(schema.schema).text(schema.table);
  message.byte(full ? 0x66 : 0x64).short(schema.columns.length);
  schema.columns.forEach((column, index) => {
    message
      .byte(full || key.includes(index) ? 1 : 0)
      .text(column.name)
      .word(column.type.oid)
      .word(column.typmod);
  });
  return message.end();
}

function encodeLogical(content: string, lsn: Lsn): Buffer {
  return new Message('M').byte(1).long(lsn).text('tributary').bytes(content).end();
}

function encodeChange({ table, op, old, row }: Change): Buffer {
  if (op === 'truncate') return new Message('T').word(1).byte(0).word(table.oid).end();
  const message = new Message(op === 'insert' ? 'I' : op === 'update' ? 'U' : 'D').word(table.oid);
  const moved = old && row && table.key.some((index) => old[index] !== row[index]);
  if (old && table.schema.identity === 'full') tuple(message.byte(0x4f), old);
  else if (old && (op === 'delete' || moved)) tuple(message.byte(0x4b), keyOnly(table, old));
  if (row) tuple(message.byte(0x4e), wireRow(old, row));
  return message.end();
}

function tuple(message: Message, cells: readonly (string | null | undefined)[]): void {
  message.short(cells.length);
  for (const cell of cells) message.cell(cell);
}

function keyOnly(table: ModelTable, values: Values): Values {
  return values.map((value, index) => (table.key.includes(index) ? value : null));
}

/** The new row as the WAL tells it: long values that an update left alone are not there. */
export function wireRow(old: Values | null, row: Values): readonly (string | null | undefined)[] {
  if (!old) return row;
  return row.map((value, index) => (value !== null && value.length > TOAST_LENGTH && value === old[index] ? undefined : value));
}
