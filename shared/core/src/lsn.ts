/**
 * A position in PostgreSQL's write-ahead log: an unsigned 64-bit byte offset.
 * Written `16/B374D848` (two hexadecimal halves) wherever people read it.
 */
export type Lsn = bigint;

/** @param text an LSN in PostgreSQL's own form, `HIGH/LOW` in hexadecimal. @throws RangeError on anything else */
export function parseLsn(text: string): Lsn {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  if (!match) throw new RangeError(`not an LSN: "${text}" (expected the form 16/B374D848)`);
  return (BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`);
}

/** The inverse of {@link parseLsn}. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`;
}

export function maxLsn(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}
