import { formatLsn, ORIGIN, parseLsn, type Position } from '@tributary/core';

/** Where a transform stands in one of its inputs, and up to when (microseconds since 1970) that is complete there. */
export interface InputPlace extends Position {
  readonly watermark: number;
}

/** Where a transform stands in each of its inputs, by name. */
export type Vector = ReadonlyMap<string, InputPlace>;

export const START: InputPlace = { ...ORIGIN, watermark: 0 };

type Written = readonly [seq: number, lsn: string, ordinal: number, epoch: string | null, watermark: number];

/** What every message of a transform's changelog says in its header's state: all that the next leader must know. */
export interface OutputState {
  /** The inputs up to the last complete transaction: the message holds everything up to there. */
  readonly inputs: Readonly<Record<string, Written>>;
  /** The last place given when that transaction was complete: parts of the next one are numbered from it. */
  readonly counter: string;
  /** Fingerprint of the steps that made it. */
  readonly definition: string;
  /** The result of other steps is still to be told as a whole: the next leader begins that again. */
  readonly rebuilding?: true;
  /** Rows of the inputs are kept: the next leader begins with them. */
  readonly view?: true;
  /** A part of a transaction made of one input, up to this place. */
  readonly until?: readonly [input: string, lsn: string, ordinal: number];
  /** Tables of the result that are still to be told as a whole: they look different, or came to be without a row. */
  readonly retell?: readonly string[];
}

export function writeVector(vector: Vector): OutputState['inputs'] {
  return Object.fromEntries(
    [...vector].map(([name, { seq, lsn, ordinal, epoch, watermark }]) => [
      name,
      [seq, formatLsn(lsn), ordinal, epoch ?? null, watermark],
    ]),
  );
}

/** @param inputs names as configured: what was read and is no longer is let go, what is new begins at the start */
export function readVector(written: OutputState['inputs'] | undefined, inputs: readonly string[]): Map<string, InputPlace> {
  return new Map(
    inputs.map((name) => {
      const place = written?.[name];
      if (!place) return [name, START];
      const [seq, lsn, ordinal, epoch, watermark] = place;
      return [name, { seq, lsn: parseLsn(lsn), ordinal, watermark, ...(epoch === null ? {} : { epoch }) }];
    }),
  );
}

/** Everything in the result is complete up to here: the least of the inputs. */
export function watermarkOf(vector: Vector): number {
  return vector.size === 0 ? 0 : Math.min(...[...vector.values()].map(({ watermark }) => watermark));
}
