import { Fault, type Kv } from '@tributary/core';
import type { AlertState } from './alert-state.ts';

/** An alert that is over. */
export interface PastAlert {
  readonly alert: string;
  readonly when: string;
  readonly raisedAt: number;
  readonly resolvedAt: number;
}

/** Something that is to be told and was not taken yet. */
export interface Letter {
  /** The same however often it is sent. */
  readonly id: string;
  readonly hook: string;
  readonly body: string;
  readonly attempts: number;
}

/**
 * Where the alerts of one owner stand, and what is still to be told of them: written together, so neither is lost or made twice.
 * @typeParam Kept what the owner keeps beside, by alert
 */
export interface Noted<Kept = undefined> {
  readonly v: 1;
  readonly states: Readonly<Record<string, AlertState>>;
  readonly past: readonly PastAlert[];
  readonly letters: readonly Letter[];
  readonly kept?: Kept;
}

const NOTHING = { v: 1, states: {}, past: [], letters: [] } as const;

/** The note of one owner's alerts, in the bucket of positions. Whoever opened it last may write; the one before is `fenced`. */
export class AlertNote<Kept> {
  readonly #positions: Kv;
  readonly #key: string;
  #revision: number | null = null;

  /** @param key of the note, such as `kpi-alerts.gmv` */
  constructor(positions: Kv, key: string) {
    this.#positions = positions;
    this.#key = key;
  }

  /** Takes the note over. @throws Fault `changelog_format` for a note of another version, `fenced` */
  async open(): Promise<Noted<Kept>> {
    const entry = await this.#positions.get(this.#key);
    this.#revision = entry?.revision ?? null;
    const noted = (entry?.value ?? NOTHING) as Noted<Kept>;
    if (noted.v !== 1) throw new Fault('changelog_format', `the note ${this.#key} was written by another version of Tributary`);
    // Also when nothing has changed: from now on no earlier worker can note anything.
    if (entry) await this.write(noted);
    return noted;
  }

  /** @throws Fault `fenced` when another worker has opened it since */
  async write(noted: Noted<Kept>): Promise<void> {
    const revision =
      this.#revision === null
        ? await this.#positions.create(this.#key, noted)
        : await this.#positions.update(this.#key, noted, this.#revision);
    if (revision === null) throw new Fault('fenced', `another worker took over ${this.#key}`);
    this.#revision = revision;
  }
}
