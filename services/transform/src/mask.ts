import { createHash } from 'node:crypto';
import type { Mask } from '@tributary/config';
import { duckLiteral } from '@tributary/duckdb';

const BLOCK_BYTES = 64;

/**
 * SQL that hides a text; NULL stays NULL. A keyed hash is HMAC-SHA-256 (RFC 2104), put together from two plain hashes,
 * so that nobody without the key can try out likely values.
 */
export function maskSql(mask: Mask, text: string): string {
  switch (mask.mask) {
    case 'null':
      return 'CAST(NULL AS VARCHAR)';
    case 'redact':
      return `CASE WHEN ${text} IS NOT NULL THEN '***' END`;
    case 'last4':
      return `CASE WHEN length(${text}) > 4 THEN repeat('*', length(${text}) - 4) || right(${text}, 4) ELSE repeat('*', length(${text})) END`;
    case 'hash': {
      if (mask.key === undefined) return `sha256(${text})`;
      const inner = pad(mask.key, 0x36);
      const outer = pad(mask.key, 0x5c);
      return `sha256(unhex(${duckLiteral(outer)} || sha256(unhex(${duckLiteral(inner)} || hex(encode(${text}))))))`;
    }
  }
}

function pad(key: string, byte: number): string {
  const bytes = Buffer.from(key, 'utf8');
  const short = bytes.length > BLOCK_BYTES ? createHash('sha256').update(bytes).digest() : bytes;
  const block = Buffer.alloc(BLOCK_BYTES);
  short.copy(block);
  return Buffer.from(block.map((one) => one ^ byte)).toString('hex');
}
