import { Fault, ORIGIN, parseSourcePosition, type Position } from '@tributary/core';
import type { Changelogs } from './changelog.ts';

/** Where following begins. */
export interface Start {
  readonly after: Position;
  /** Messages stored before this time (ms since 1970) are passed over. */
  readonly notBefore: number;
}

/**
 * Understands `start`, `now`, a position (`LSN` or `LSN+ORDINAL`) and a time.
 * @throws Fault `config_invalid` on anything else
 */
export async function startOf(changelogs: Changelogs, source: string, from = 'now'): Promise<Start> {
  const whole = { notBefore: 0 };
  if (from === 'start') return { after: ORIGIN, ...whole };
  if (from === 'now') return { after: await endOf(changelogs, source), ...whole };
  if (/^[0-9A-F]+\/[0-9A-F]+(\+\d+)?$/i.test(from)) return { after: { seq: 0, ...parseSourcePosition(from) }, ...whole };
  const time = Date.parse(from);
  if (Number.isNaN(time)) {
    throw new Fault('config_invalid', `from=${from}: expected start, now, a position such as 16/B374D848+3, or a time`);
  }
  return beforeTime(changelogs, source, time);
}

/**
 * `find` names the first message stored at or after a time, but a reader must stand before it: so the search goes
 * back in doubling steps to an earlier message, and what lies between is passed over by {@link Start.notBefore}.
 */
async function beforeTime(changelogs: Changelogs, source: string, time: number): Promise<Start> {
  const found = await changelogs.find(source, time);
  if (!found) return { after: await endOf(changelogs, source), notBefore: time };
  for (let back = 1_000; back < time; back *= 2) {
    const earlier = await changelogs.find(source, time - back);
    if (earlier && earlier.seq < found.seq) return { after: earlier, notBefore: time };
  }
  return { after: ORIGIN, notBefore: time };
}

async function endOf(changelogs: Changelogs, source: string): Promise<Position> {
  const last = await changelogs.last(source);
  return last ? { seq: last.seq, ...last.header.position } : ORIGIN;
}
