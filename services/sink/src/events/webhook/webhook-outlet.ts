import type { DeadLetters } from '@tributary/changelog';
import type { WebhookTarget } from '@tributary/config';
import { assert, type Clock, type Kv, type Position } from '@tributary/core';
import { Backoff, Receiver } from '@tributary/projection';
import type { OutEvent } from '../event.ts';
import type { Outlet, Standing } from '../outlet.ts';
import { NOTHING_SENT, standingAt, StandingNote } from '../standing.ts';
import { Delivery } from './delivery.ts';
import { EventQuarantine } from './quarantine.ts';

export interface WebhookOutletOptions {
  readonly sink: string;
  readonly source: string;
  readonly target: WebhookTarget;
  readonly onError: 'halt' | 'quarantine';
  readonly positions: Kv;
  readonly letters: DeadLetters;
  readonly clock: Clock;
  /** 0 … 1, for jitter. */
  readonly chance: () => number;
}

/**
 * Sends events to a webhook, each at least once: after a 2xx it is noted that the event was taken, and whoever goes on
 * from the note repeats, under the same ids, only what was under way or answered since.
 *
 * Events of one row go one after the other, others side by side (lanes.ts). One that is not taken is sent again after a
 * back-off, without a place among the requests under way; after the last try it is put aside with its row
 * (quarantine.ts), or everything halts. A receiver that is away as a whole is a reason to wait, never to put aside.
 */
export class WebhookOutlet implements Outlet {
  readonly #options: WebhookOutletOptions;
  readonly #note: StandingNote;
  readonly #receiver: Receiver;
  readonly #backoff: Backoff;
  #delivery: Delivery | null = null;

  constructor(options: WebhookOutletOptions) {
    this.#options = options;
    const { target, clock, positions, sink, source, chance } = options;
    this.#note = new StandingNote(positions, `${sink}/${source}`);
    this.#receiver = new Receiver(target, clock);
    this.#backoff = new Backoff(target.retries, chance);
  }

  async open(): Promise<Standing> {
    await this.#delivery?.drain();
    const { sink, source, letters, clock } = this.#options;
    const standing = (await this.#note.read()) ?? NOTHING_SENT;
    // Also when nothing has changed: from now on no earlier leader can note anything.
    await this.#note.write(standing);
    const quarantine = await EventQuarantine.open({ letters, projection: `${sink}/${source}`, clock });
    this.#delivery = new Delivery(
      { ...this.#options, receiver: this.#receiver, backoff: this.#backoff, note: this.#note, quarantine },
      standing,
    );
    return standing;
  }

  send(event: OutEvent, resume: Position): Promise<void> | null {
    return this.#running().send(event, resume);
  }

  settle(after: Position): Promise<void> {
    return this.#running().settle(after);
  }

  async moveTo(to: Position): Promise<void> {
    const delivery = this.#delivery;
    await delivery?.drain();
    await this.#note.write({ ...standingAt(to), replay: (delivery?.replay ?? 0) + 1, streamSeq: 0 });
  }

  async close(): Promise<void> {
    await this.#delivery?.drain();
    this.#delivery = null;
  }

  facts(): Record<string, unknown> {
    return { receiver: this.#receiver.host, ...this.#delivery?.facts() };
  }

  commands(): Record<string, (question: unknown) => AsyncIterable<unknown>> {
    return { quarantine: (question) => this.#settleLetters(question as { do: 'retry' | 'drop'; table?: string }) };
  }

  async *#settleLetters({ do: what, table }: { do: 'retry' | 'drop'; table?: string }): AsyncIterable<unknown> {
    const { sink, source } = this.#options;
    const batches = await this.#running().letters(what, table);
    yield { projection: `${sink}/${source}`, table: table ?? 'every table', batches, unit: 'events' };
  }

  #running(): Delivery {
    assert(this.#delivery, 'the webhook was not opened');
    return this.#delivery;
  }
}
