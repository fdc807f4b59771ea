import { Fault, formatSourcePosition, type Kv, ORIGIN, parseSourcePosition, type Position } from '@tributary/core';
import type { Standing } from './outlet.ts';
import { behind, NOWHERE, placeOf, sequenceOf } from './place.ts';

/** `<seq>;<LSN>+<ordinal>;<epoch>`, the epoch where it is known. */
export function formatPosition(position: Position): string {
  return [position.seq, formatSourcePosition(position), ...(position.epoch === undefined ? [] : [position.epoch])].join(';');
}

/** @returns null for what {@link formatPosition} did not write */
export function parsePosition(text: string): Position | null {
  const match = /^(\d+);([0-9A-F]+\/[0-9A-F]+\+\d+)(?:;(.+))?$/.exec(text);
  if (!match) return null;
  const [, seq, place, epoch] = match;
  return { seq: Number(seq), ...parseSourcePosition(place as string), ...(epoch === undefined ? {} : { epoch }) };
}

/** What stands at the key, as JSON. */
interface Note {
  readonly v: 1;
  readonly resume: string;
  readonly done: string;
  readonly missing: readonly string[];
  readonly replay: number;
  /** Last sequence of the event stream when this was noted; 0 where there is none. */
  readonly streamSeq: number;
}

export interface Noted extends Standing {
  readonly streamSeq: number;
}

export const NOTHING_SENT: Noted = { ...standingAt(ORIGIN), done: NOWHERE, replay: 0, streamSeq: 0 };

/** Everything up to a position is done. */
export function standingAt(position: Position): Omit<Standing, 'replay'> {
  return { resume: position, done: behind(position), missing: new Set() };
}

/**
 * Where one sink stands with one source, noted in the bucket of positions. Whoever opened it last may write; the one
 * before is `fenced` at its next write.
 */
export class StandingNote {
  readonly #positions: Kv;
  readonly #key: string;
  #revision: number | null = null;

  constructor(positions: Kv, projection: string) {
    this.#positions = positions;
    this.#key = `events.${projection.replace('/', '.')}`;
  }

  /** @returns null when nothing was ever noted. @throws Fault `changelog_format` for a note of another version */
  async read(): Promise<Noted | null> {
    const entry = await this.#positions.get(this.#key);
    this.#revision = entry?.revision ?? null;
    if (!entry) return null;
    const { v, resume, done, missing, replay, streamSeq } = entry.value as Note;
    const position = parsePosition(resume);
    const place = placeOf(done);
    if (v !== 1 || !position || !place)
      throw new Fault('changelog_format', `the note ${this.#key} was written by another version of Tributary`);
    return { resume: position, done: place, missing: new Set(missing), replay, streamSeq };
  }

  /** @throws Fault `fenced` when another worker has opened it since */
  async write({ resume, done, missing, replay, streamSeq }: Noted): Promise<void> {
    const note: Note = {
      v: 1,
      resume: formatPosition(resume),
      done: sequenceOf(done),
      missing: [...missing],
      replay,
      streamSeq,
    };
    const revision =
      this.#revision === null
        ? await this.#positions.create(this.#key, note)
        : await this.#positions.update(this.#key, note, this.#revision);
    if (revision === null) throw new Fault('fenced', `another worker took over ${this.#key}`);
    this.#revision = revision;
  }
}
