import type { EventsSinkConfig } from '@tributary/config';
import { ORIGIN, type Position, type SourcePosition, type StoredBatch } from '@tributary/core';
import type { Accepted, Group, Projection, Rewind } from '@tributary/projection';
import { CloudEvents } from './cloudevents.ts';
import { Debezium } from './debezium/debezium.ts';
import type { Format, Origin, OutEvent } from './event.ts';
import { Filter } from './filter.ts';
import type { Outlet, Standing } from './outlet.ts';
import { comparePlaces, sequenceOf } from './place.ts';
import { told } from './row-changes.ts';
import { TransactionEvents } from './transactions.ts';

export interface EventsOptions {
  readonly config: EventsSinkConfig;
  readonly source: string;
  /** Name of the source's database. */
  readonly database: string;
  readonly outlet: Outlet;
}

/**
 * Turns every change of one source that passes the filter into an event, and hands it to an outlet, in order.
 *
 * What it holds is where it stands (I6 is the outlet's: nats-outlet.ts, webhook-outlet.ts). An event depends on the
 * changelog alone, so one that is made again has the same id, place and body; those that were sent already are passed
 * over by their place. Reading begins at a transaction's end, because a transaction's events may depend on one another.
 */
export class EventsProjection implements Projection {
  readonly repeats = true;
  readonly #options: EventsOptions;
  readonly #filter: Filter;
  readonly #format: () => Format;
  readonly #outlet: Outlet;
  #formatting: Format;
  #standing: Standing | null = null;
  /** Behind the last batch seen. */
  #after: Position = ORIGIN;
  /** Behind the batch before the one in which the transaction that runs began. */
  #resume: Position = ORIGIN;
  /** Commit LSN of the transaction that runs; null between two. */
  #running: bigint | null = null;

  constructor(options: EventsOptions) {
    const { config, source, outlet } = options;
    this.#options = options;
    this.#filter = new Filter(config, source);
    this.#format = () => formatOf(config);
    this.#formatting = this.#format();
    this.#outlet = outlet;
  }

  async position(): Promise<Position> {
    this.#standing = await this.#outlet.open();
    this.#after = this.#standing.resume;
    this.#resume = this.#after;
    this.#running = null;
    this.#formatting = this.#format();
    return this.#after;
  }

  wants(table: string): boolean {
    return this.#filter.wants(table);
  }

  async apply({ batches, partial, after }: Group): Promise<Accepted> {
    for (const batch of batches) {
      if (!batch.header.continues) this.#resume = this.#after;
      for (const event of this.#events(batch)) {
        if (this.#sent(event)) continue;
        const full = this.#outlet.send(event, this.#resume);
        if (full) await full;
      }
      this.#after = { seq: batch.seq, ...batch.header.position, epoch: batch.header.epoch };
    }
    // Of a part of a transaction nothing is noted: reading goes on before it began.
    return { settled: partial ? Promise.resolve() : this.#outlet.settle(after) };
  }

  #sent({ place }: OutEvent): boolean {
    const { done, missing } = this.#standing as Standing;
    return comparePlaces(place, done) <= 0 && !missing.has(sequenceOf(place));
  }

  *#events(batch: StoredBatch): Iterable<OutEvent> {
    const { header, storedAt } = batch;
    const origin: Origin = { source: this.#options.source, database: this.#options.database, epoch: header.epoch };
    const format = this.#formatting;
    for (const one of told(batch)) {
      if (one.kind === 'mark') {
        const { place, mark } = one;
        const { step, table, reset, generation } = mark;
        if (!this.#filter.marks || !this.#filter.wants(table) || (step !== 'begin' && step !== 'end')) continue;
        yield* format.mark?.({ place, step, table, reset, generation, storedAt }, origin) ?? [];
        continue;
      }
      const lsn = one.transaction?.lsn ?? null;
      if (this.#running !== null && this.#running !== lsn) yield* format.end(origin);
      this.#running = lsn;
      if (this.#filter.passes(one)) yield* format.change(one, origin);
    }
    if (this.#running !== null && !header.more) {
      yield* format.end(origin);
      this.#running = null;
    }
  }

  /** What was sent cannot be taken back: everything is sent again, under the same ids. */
  async reset(): Promise<void> {
    await this.#outlet.moveTo(ORIGIN);
  }

  async rewind({ to }: Rewind): Promise<void> {
    await this.#outlet.moveTo(to);
  }

  held(): ReadonlyMap<string, SourcePosition> {
    return new Map();
  }

  facts(): Record<string, unknown> {
    return this.#outlet.facts();
  }

  commands(): Record<string, (question: unknown) => AsyncIterable<unknown>> {
    return this.#outlet.commands?.() ?? {};
  }

  close(): Promise<void> {
    return this.#outlet.close();
  }
}

function formatOf(config: EventsSinkConfig): Format {
  if (config.format === 'debezium') return new Debezium(config);
  return config.transactions ? new TransactionEvents() : new CloudEvents(config);
}
