import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { Fault } from '@tributary/core';

/** One event as a log tells it, in the order of the log. */
export interface LoggedEvent {
  readonly activity: string;
  /** Microseconds since 1970. */
  readonly atUs: number;
  /** The objects it concerns; of a log with cases: the one case. Without any it is in no case. */
  readonly objects: readonly { readonly object: string; readonly key: string; readonly qualifier: string }[];
  readonly attributes: Readonly<Record<string, string>>;
}

/** Type of object that the cases of a log without objects are. */
export const CASE = 'case';

/**
 * The text of a file, gzipped or not, piece by piece.
 * @param called what it is called in complaints
 * @throws Fault `config_invalid` when it cannot be read
 */
export async function* textOf(path: string, called: string): AsyncGenerator<string> {
  const zipped = await isZipped(path, called);
  const file = createReadStream(path);
  const unzip = createGunzip();
  file.once('error', (error) => unzip.destroy(error));
  const bytes: Readable = zipped ? file.pipe(unzip) : file;
  const decoder = new TextDecoder('utf-8', { fatal: true });
  try {
    for await (const piece of bytes) yield decoder.decode(piece as Buffer, { stream: true });
    yield decoder.decode();
  } catch (error) {
    throw new Fault('config_invalid', `${called} cannot be read to its end: is it whole, and UTF-8?`, {}, { cause: error });
  } finally {
    file.destroy();
  }
}

async function isZipped(path: string, called: string): Promise<boolean> {
  try {
    const file = await open(path);
    try {
      const { buffer, bytesRead } = await file.read(Buffer.alloc(2), 0, 2, 0);
      return bytesRead === 2 && buffer[0] === 0x1f && buffer[1] === 0x8b;
    } finally {
      await file.close();
    }
  } catch (error) {
    throw new Fault('config_invalid', `${called} cannot be read`, {}, { cause: error });
  }
}

const TIME = /^(\d{4})[-/](\d\d)[-/](\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?\s*(Z|[+-]\d\d:?\d\d|[+-]\d\d)?$/i;

/** ISO 8601, also with a space or slashes; without a zone it is UTC. @returns microseconds since 1970, or null */
export function parseTime(text: string): number | null {
  const match = TIME.exec(text.trim());
  if (!match) return null;
  const [, year, month, day, hour = '00', minute = '00', second = '00', fraction = '', zone = 'Z'] = match;
  const offset = /^z$/i.test(zone) ? 'Z' : zone.length === 3 ? `${zone}:00` : zone.replace(/^(...):?(..)$/, '$1:$2');
  const ms = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}${offset}`);
  return Number.isNaN(ms) ? null : ms * 1_000 + Number(fraction.padEnd(6, '0').slice(0, 6));
}
