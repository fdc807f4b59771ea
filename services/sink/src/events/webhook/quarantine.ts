import type { DeadLetter, DeadLetters, LetterEvent } from '@tributary/changelog';
import { type Clock, Fault } from '@tributary/core';
import type { Answer, Message } from '@tributary/projection';
import type { OutEvent } from '../event.ts';
import { sequenceOf } from '../place.ts';

/** Letters of one sink and source; then it halts: something is wrong with more than some events. */
const LETTERS_MAX = 10_000;

export interface LettersOptions {
  readonly letters: DeadLetters;
  /** `<sink>/<source>`. */
  readonly projection: string;
  readonly clock: Clock;
}

/**
 * Events that the receiver refused, put aside one by one, so that others go on. Order per row is kept: while a letter of a
 * row is there, its later events become letters too. Events of whole tables have no row: only they themselves are put aside.
 */
export class EventQuarantine {
  readonly #letters: DeadLetters;
  readonly #projection: string;
  readonly #clock: Clock;
  /** By row: how many of its events are aside. */
  readonly #rows = new Map<string, number>();
  readonly #tables = new Map<string, number>();
  /** Sequences of events that are aside. */
  readonly #there = new Set<string>();

  private constructor({ letters, projection, clock }: LettersOptions) {
    this.#letters = letters;
    this.#projection = projection;
    this.#clock = clock;
  }

  static async open(options: LettersOptions): Promise<EventQuarantine> {
    const quarantine = new EventQuarantine(options);
    for (const { table, event } of await options.letters.list(options.projection)) if (event) quarantine.#note(table, event, 1);
    return quarantine;
  }

  /** Is an earlier event of one of its rows aside? */
  holds({ keys }: Pick<OutEvent, 'keys'>): boolean {
    return this.#rows.size > 0 && keys.some((key) => this.#rows.has(key));
  }

  /** Resolves once it is durable. @param reason null for one that only comes behind another */
  async put(event: OutEvent, reason: DeadLetter['reason']): Promise<void> {
    const { table, keys, place, id, contentType, headers, body } = event;
    const sequence = sequenceOf(place);
    // A crash came between the letter and the note.
    if (this.#there.has(sequence)) return;
    if (this.#there.size >= LETTERS_MAX) {
      const message = `${LETTERS_MAX} events of ${this.#projection} are in quarantine: it takes no more`;
      throw new Fault('receiver_refused', message, { projection: this.#projection });
    }
    this.#note(table, { keys, sequence }, 1);
    await this.#letters.putEvent(
      {
        projection: this.#projection,
        table,
        seq: 0,
        position: { lsn: place.lsn, ordinal: place.ordinal },
        reason,
        at: this.#clock.now(),
        event: { id, sequence, keys, contentType, headers },
      },
      body ?? '',
    );
  }

  facts(): { tables: readonly string[]; batches: number } {
    return { tables: [...this.#tables.keys()].toSorted(), batches: this.#there.size };
  }

  /**
   * Sends a table's letters, or all, in order, until none is left; what comes meanwhile for their rows is among them.
   * Stops at the first that is refused. @returns how many were sent
   */
  async retry(table: string | undefined, send: (message: Message) => Promise<Answer>): Promise<number> {
    let sent = 0;
    for (let letters = await this.#list(table); letters.length > 0; letters = await this.#list(table)) {
      for (const letter of letters) {
        const { id, contentType, headers } = letter.event;
        const answer = await send({ id, contentType, headers, body: await this.#letters.readEvent(letter) });
        if (answer.kind !== 'taken') {
          const message = `${answer.reason}; ${sent} event(s) were sent, and the others stay in quarantine`;
          throw new Fault('receiver_refused', message, { projection: this.#projection, sent });
        }
        await this.#letters.dropOne(letter);
        this.#note(letter.table, letter.event, -1);
        sent++;
      }
    }
    return sent;
  }

  /** Gives a table's letters up. @returns how many */
  async drop(table: string | undefined): Promise<number> {
    const letters = await this.#list(table);
    for (const letter of letters) {
      await this.#letters.dropOne(letter);
      this.#note(letter.table, letter.event, -1);
    }
    return letters.length;
  }

  async #list(table: string | undefined) {
    const letters = await this.#letters.list(this.#projection, table);
    return letters.flatMap((letter) => (letter.event ? [{ ...letter, event: letter.event }] : []));
  }

  #note(table: string, { keys, sequence }: Pick<LetterEvent, 'keys' | 'sequence'>, by: 1 | -1): void {
    if (by === 1) this.#there.add(sequence);
    else this.#there.delete(sequence);
    count(this.#tables, table, by);
    for (const key of new Set(keys)) count(this.#rows, key, by);
  }
}

function count(counts: Map<string, number>, name: string, by: number): void {
  const left = (counts.get(name) ?? 0) + by;
  if (left > 0) counts.set(name, left);
  else counts.delete(name);
}
