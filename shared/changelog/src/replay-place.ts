import {
  type BatchHeader,
  compareSourcePosition,
  Fault,
  formatSourcePosition,
  ORIGIN,
  parseSourcePosition,
  type Position,
} from '@tributary/core';
import type { Changelogs, Placed, Sought } from './changelog.ts';

const START: ReplayPlace = { ...ORIGIN, watermark: 0 };

/** Where a replay begins, and up to when (microseconds since 1970, 0 = not known) the source is complete there. */
export interface ReplayPlace extends Position {
  readonly watermark: number;
}

/** What `--from` asked for, as a question to a batch: does everything up to its end lie before? */
interface Asked {
  readonly text: string;
  readonly before: (header: BatchHeader) => boolean;
  /** Does it lie behind the whole changelog? */
  readonly beyond: (last: BatchHeader) => boolean;
}

/**
 * Where a projection is to stand so that the replay brings everything from `from` on: `start`, a position
 * (`16/B374D848+3`: what lies behind it is replayed) or a time (ISO 8601: everything committed at or after it is).
 *
 * Always the end of a transaction, and rather too early than too late: replaying more than was asked changes nothing.
 * A time is looked up by watermarks, which rise along the changelog even where commit times of neighbours do not.
 *
 * @throws Fault `config_invalid` on anything else; `outside_history`, naming the nearest place, when the changelog does
 *   not reach back (or forward) that far
 */
export async function replayPlace(changelogs: Changelogs, source: string, from: string): Promise<ReplayPlace> {
  if (from === 'start') return START;
  const asked = parse(from);
  const sought = await changelogs.seek(source, asked.before);
  if (!sought) throw outside(`changelog ${source} is empty: there is nothing to replay`, source);
  const { first, last } = sought;
  if (asked.beyond(last.header)) {
    throw outside(`${asked.text} lies in the future: changelog ${source} ends at ${placeText(last.header)}`, source);
  }
  const found = await atTransactionEnd(changelogs, source, sought);
  if (found) {
    const { position, watermark, epoch } = found.header;
    return { seq: found.seq, ...position, epoch, watermark };
  }
  const { follows } = first.header;
  const whole = compareSourcePosition(follows, ORIGIN) === 0;
  if (!whole && !startsAt(from, first.header)) {
    const earliest = `${formatSourcePosition(follows)}, or ${timeText(Math.ceil(first.header.watermark / 1_000) + 1)}`;
    throw outside(`changelog ${source} no longer holds ${asked.text}: the earliest is ${earliest}`, source);
  }
  return whole ? START : { seq: first.seq - 1, ...follows, watermark: 0 };
}

function parse(from: string): Asked {
  if (/^[0-9A-F]+\/[0-9A-F]+(\+\d+)?$/i.test(from)) {
    const place = parseSourcePosition(from);
    return {
      text: `position ${formatSourcePosition(place)}`,
      before: ({ position }) => compareSourcePosition(position, place) <= 0,
      beyond: ({ position }) => compareSourcePosition(place, position) > 0,
    };
  }
  const time = /^\d{4}-\d\d-\d\d/.test(from) ? Date.parse(from) : Number.NaN;
  if (Number.isNaN(time)) {
    throw new Fault('config_invalid', `from=${from}: expected start, a position such as 16/B374D848+3, or a time (ISO 8601)`);
  }
  return {
    text: `time ${timeText(time)}`,
    before: ({ watermark }) => watermark < time * 1_000,
    beyond: ({ watermark }) => watermark < time * 1_000,
  };
}

/** A position exactly where the retained history begins is still held. */
function startsAt(from: string, { follows }: BatchHeader): boolean {
  return from.includes('/') && compareSourcePosition(parseSourcePosition(from), follows) >= 0;
}

/** Parts of a large transaction are passed over backwards: a replay never begins inside one. */
async function atTransactionEnd(changelogs: Changelogs, source: string, { found }: Sought): Promise<Placed | null> {
  let at = found;
  while (at?.header.more) {
    const { follows } = at.header;
    at = (await changelogs.seek(source, ({ position }) => compareSourcePosition(position, follows) <= 0))?.found ?? null;
  }
  return at;
}

function placeText({ position, watermark }: BatchHeader): string {
  return `${formatSourcePosition(position)}, complete up to ${timeText(Math.floor(watermark / 1_000))}`;
}

function timeText(ms: number): string {
  return new Date(ms).toISOString();
}

function outside(message: string, source: string): Fault {
  return new Fault('outside_history', message, { source });
}
