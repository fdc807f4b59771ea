import type { DeadLetter, DeadLetters } from '@tributary/changelog';
import {
  type Clock,
  compareSourcePosition,
  describeError,
  Fault,
  type SourcePosition,
  type StoredBatch,
  tableName,
} from '@tributary/core';
import { leaveOut } from './leave-out.ts';
import type { Projection } from './projection.ts';

interface Held {
  readonly reason: DeadLetter['reason'];
  /** Where its first letter stands; null = none was written yet. */
  first: SourcePosition | null;
  last: SourcePosition | null;
  batches: number;
}

/** Behind every position. */
const EVERYTHING: SourcePosition = { lsn: 2n ** 64n, ordinal: 0 };

/**
 * The tables of one projection whose changes are put aside, because one of them could not be applied.
 *
 * Order per key matters, so a table goes to quarantine as a whole: from the batch that failed on, all its changes become
 * dead letters, in order, until somebody takes them back or gives them up; other tables go on. Which tables these are is
 * read from the letters alone: a letter is durable before the position moves past its batch, so neither is ahead for long.
 */
export class Quarantine {
  readonly #letters: DeadLetters;
  readonly #projection: string;
  readonly #clock: Clock;
  readonly #tables = new Map<string, Held>();

  private constructor(letters: DeadLetters, projection: string, clock: Clock) {
    this.#letters = letters;
    this.#projection = projection;
    this.#clock = clock;
  }

  /** @param held what tables hold beyond the position: letters up to there were taken back, and only their end is missing */
  static async open(
    letters: DeadLetters,
    { projection, clock, held }: { projection: string; clock: Clock; held: ReadonlyMap<string, SourcePosition> },
  ): Promise<Quarantine> {
    const quarantine = new Quarantine(letters, projection, clock);
    const tables = quarantine.#tables;
    for (const { table, position, reason, event } of await letters.list(projection)) {
      // A sink of events keeps its own letters, one by one.
      if (event) continue;
      const known = tables.get(table);
      if (known) tables.set(table, { ...known, last: position, batches: known.batches + 1 });
      else tables.set(table, { reason, first: position, last: position, batches: 1 });
    }
    for (const [table, { last }] of tables) {
      const until = held.get(table);
      if (until && last && compareSourcePosition(last, until) <= 0) await quarantine.drop(table);
    }
    return quarantine;
  }

  get tables(): readonly string[] {
    return [...this.#tables.keys()].toSorted();
  }

  get batches(): number {
    return [...this.#tables.values()].reduce((sum, { batches }) => sum + batches, 0);
  }

  /** From now on the table's changes are put aside. */
  begin(table: string, fault: Fault): void {
    const reason = { kind: fault.kind, message: describeError(fault) };
    this.#tables.set(table, { reason, first: null, last: null, batches: 0 });
  }

  /** Puts aside what a batch holds of quarantined tables, durably. @returns the rest of it */
  async divert(batch: StoredBatch): Promise<StoredBatch> {
    if (this.#tables.size === 0) return batch;
    const { position, mark } = batch.header;
    for (const [table, held] of this.#tables) {
      const concerned = mark?.table === table || batch.sections.some((section) => tableName(section.schema) === table);
      if (!concerned) continue;
      held.first ??= position;
      // Written again after a crash: the same letter, with the same reason.
      const reason = compareSourcePosition(position, held.first) <= 0 ? held.reason : null;
      await this.#letters.put(batch, { projection: this.#projection, table, reason, at: this.#clock.now() });
      if (held.last && compareSourcePosition(position, held.last) <= 0) continue;
      held.last = position;
      held.batches++;
    }
    return leaveOut(batch, new Map(this.tables.map((table) => [table, EVERYTHING])));
  }

  /**
   * Applies a table's letters in order, all in one write that also notes how far the table has come: a crash before the
   * letters are dropped does not apply them twice. Fails as a whole. @returns batches taken back
   */
  async retry(projection: Projection, table: string, watermark: number): Promise<number> {
    const letters = await this.#letters.list(this.#projection, table);
    const after = await projection.position();
    for (const [i, letter] of letters.entries()) {
      const batch = leaveOut(await this.#letters.read(letter), projection.held());
      const last = i === letters.length - 1;
      const group = { batches: [batch], after, watermark: Math.max(watermark, batch.header.watermark), partial: !last };
      await projection.apply(last ? { ...group, holds: { table, until: letter.position } } : group);
    }
    await this.drop(table);
    return letters.length;
  }

  /** Lets go of a table's letters: its next changes are applied again. @returns batches given up */
  async drop(table: string): Promise<number> {
    const known = this.#tables.get(table);
    await this.#letters.drop(this.#projection, table);
    this.#tables.delete(table);
    return known?.batches ?? 0;
  }

  /** @throws Fault `not_found` for a table that is not quarantined */
  chosen(table: string | undefined): readonly string[] {
    if (table === undefined) return this.tables;
    if (this.#tables.has(table)) return [table];
    const there = this.tables.join(', ') || 'none';
    throw new Fault('not_found', `${this.#projection} has no table ${table} in quarantine. In quarantine: ${there}`);
  }
}

/** Faults that a change of one table brought about, not the target as a whole: another table may well go on. */
export function culpritOf(fault: Fault): string | null {
  const { sourceTable, sqlState } = fault.facts;
  if (typeof sourceTable !== 'string') return null;
  // Values, constraints, views with a check, limits of a row or an index, exceptions of triggers, columns changed by hand.
  const ofData = fault.kind === 'poison' || /^(22|23|44|54|P0|42703$|42804$)/.test(String(sqlState ?? ''));
  return ofData ? sourceTable : null;
}
