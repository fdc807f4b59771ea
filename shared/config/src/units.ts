import { z } from 'zod';
import { parseDuration } from './duration.ts';

const A_DURATION = 'a duration such as 500ms, 30s, 5m, 12h or 7d';
const SIZE_BYTES: Readonly<Record<string, number>> = {
  B: 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};

/** @returns bytes, or null when the text is not like `128MiB`, `1GB`, `4096` */
export function parseSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?I?B)?$/.exec(text.trim().toUpperCase());
  return match ? Math.round(Number(match[1]) * (SIZE_BYTES[match[2] ?? 'B'] as number)) : null;
}

/** A duration such as `30s`; milliseconds once parsed. */
export function duration(defaultText: string) {
  return parsed(parseDuration, A_DURATION).prefault(defaultText);
}

/** The same without a default: absent stays undefined. */
export function optionalDuration() {
  return parsed(parseDuration, A_DURATION).optional();
}

/** A size such as `128MiB`; bytes once parsed. */
export function size(defaultText: string) {
  return parsed(parseSize, 'a size such as 64MiB or 100GiB').prefault(defaultText);
}

function parsed(parse: (text: string) => number | null, expected: string) {
  return z.union([z.string(), z.number().nonnegative()], { error: `expected ${expected}` }).transform((value, context) => {
    const number = typeof value === 'number' ? value : parse(value);
    if (number !== null) return number;
    context.addIssue({ code: 'custom', message: `expected ${expected}` });
    return z.NEVER;
  });
}
