import { formatLsn } from '@tributary/core';
import { attributesOf, CloudEvents, CONTENT_TYPE, structured, timeOf } from './cloudevents.ts';
import type { Format, Origin, OutEvent } from './event.ts';
import { keyShape, keysOf } from './keys.ts';
import { formatPlace } from './place.ts';
import type { RowChange } from './row-changes.ts';

/** Changes of one event, as JSON: a larger transaction comes in parts. */
const PART_BYTES_MAX = 256 * 1024;
/** With more rows than this an event keeps its place among all others, instead of among those of its rows. */
const KEYS_MAX = 64;

/**
 * One CloudEvent a transaction, with all of its changes that pass the filter. A part ends where the next change would
 * make it too large, which depends on the transaction alone; so do its id and place, those of its last change.
 */
export class TransactionEvents implements Format {
  readonly #changes = new CloudEvents({ schemas: false });
  #texts: string[] = [];
  #bytes = 0;
  #part = 1;
  #keys = new Set<string>();
  #tables = new Set<string>();
  /** A whole table is concerned, or too many rows. */
  #wide = false;
  #last: RowChange | null = null;

  *change(change: RowChange, origin: Origin): Iterable<OutEvent> {
    // What a snapshot read is of no transaction.
    if (!change.transaction) return yield* this.#changes.change(change, origin);
    const text = this.#changes.data(change);
    const bytes = Buffer.byteLength(text);
    if (this.#texts.length > 0 && this.#bytes + bytes > PART_BYTES_MAX) {
      yield this.#event(origin, false);
      this.#part++;
    }
    this.#texts.push(text);
    this.#bytes += bytes;
    this.#last = change;
    this.#note(change);
  }

  *end(origin: Origin): Iterable<OutEvent> {
    if (this.#texts.length > 0) yield this.#event(origin, true);
    this.#part = 1;
  }

  mark(...told: Parameters<NonNullable<Format['mark']>>): Iterable<OutEvent> {
    return this.#changes.mark(...told);
  }

  #note(change: RowChange): void {
    const shape = keyShape(change.schema);
    const keys = keysOf(shape, change);
    this.#tables.add(shape.table);
    if (keys.length === 0) this.#wide = true;
    if (!this.#wide) for (const key of keys) this.#keys.add(key);
    if (this.#keys.size > KEYS_MAX) this.#wide = true;
  }

  #event(origin: Origin, last: boolean): OutEvent {
    const { place, transaction, storedAt } = this.#last as RowChange;
    const attributes = attributesOf(place, origin);
    const id = `${attributes.id}:transaction`;
    const time = timeOf({ transaction, storedAt });
    const facts = { xid: transaction?.xid, lsn: formatLsn(place.lsn), part: this.#part, last };
    const data = `${JSON.stringify(facts).slice(0, -1)},"changes":[${this.#texts.join(',')}]}`;
    const event: OutEvent = {
      id,
      place,
      table: '*',
      tables: this.#wide ? [] : [...this.#tables],
      keys: this.#wide ? [] : [...this.#keys],
      words: null,
      contentType: CONTENT_TYPE,
      headers: {},
      body: structured(
        { ...attributes, id, type: 'io.tributary.transaction.committed', subject: formatPlace(place), time },
        data,
      ),
    };
    this.#texts = [];
    this.#bytes = 0;
    this.#keys = new Set();
    this.#tables = new Set();
    this.#wide = false;
    return event;
  }
}
