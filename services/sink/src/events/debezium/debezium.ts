import type { EventOp } from '@tributary/config';
import { type Cell, formatLsn, type TableSchema, type Transaction } from '@tributary/core';
import { type Format, idOf, type Origin, type OutEvent } from '../event.ts';
import { keysOf, movedFrom } from '../keys.ts';
import { type EventPlace, formatPlace, LAST_ROW } from '../place.ts';
import type { RowChange } from '../row-changes.ts';
import { Envelope } from './envelope.ts';

const CONTENT_TYPE = 'application/json';
const VERSION = '0.1.0';
/** Headers of Debezium for a row that got another key; and the key, which on Kafka stands beside the value. */
const KEY = 'message-key';
const NEW_KEY = '__debezium.newkey';
const OLD_KEY = '__debezium.oldkey';

const LETTERS: Readonly<Record<EventOp, string>> = { create: 'c', update: 'u', delete: 'd', read: 'r', truncate: 't' };

export interface DebeziumOptions {
  /** `source.name`; `{source}` is filled in. */
  readonly serverName: string;
  readonly schemas: boolean;
  readonly tombstones: boolean;
  readonly transactions: boolean;
}

/** What has come of the transaction that runs. */
interface Running {
  readonly transaction: Transaction;
  readonly storedAt: number;
  events: number;
  readonly tables: Map<string, number>;
}

interface Made {
  readonly change: RowChange;
  readonly envelope: Envelope;
  readonly origin: Origin;
  readonly transaction: string;
}

/** Change events as Debezium's PostgreSQL connector writes them; where we differ is told in deploy/EVENTS.md. */
export class Debezium implements Format {
  readonly #options: DebeziumOptions;
  readonly #envelopes = new WeakMap<TableSchema, Envelope>();
  #running: Running | null = null;

  /** Of the events of one change: a transaction's BEGIN goes before its first change, so it comes first. */
  static readonly #parts = { begin: 0, row: 1, tombstone: 2, created: 3 };

  constructor(options: DebeziumOptions) {
    this.#options = options;
  }

  *change(change: RowChange, origin: Origin): Iterable<OutEvent> {
    const { transaction, storedAt } = change;
    if (this.#options.transactions && transaction && !this.#running) {
      this.#running = { transaction, storedAt, events: 0, tables: new Map() };
      yield this.#boundary('BEGIN', { ...change.place, part: Debezium.#parts.begin }, this.#running, origin);
    }
    const envelope = this.#envelope(change.schema, origin);
    if (!movedFrom(envelope.key, change)) yield* this.#plain({ change, envelope, origin, transaction: this.#count(envelope) });
    else yield* this.#moved(change, envelope, origin);
  }

  *end(origin: Origin): Iterable<OutEvent> {
    const running = this.#running;
    this.#running = null;
    if (!running) return;
    const place = { lsn: running.transaction.lsn, ordinal: LAST_ROW, row: 0, part: 0 };
    yield this.#boundary('END', place, running, origin);
  }

  *#plain(made: Made): Iterable<OutEvent> {
    const { change, envelope } = made;
    const { op, before, after } = change;
    yield this.#event(made, { part: Debezium.#parts.row, op, before, after, headers: {} });
    if (op === 'delete' && before) yield* this.#tombstone(made, before, envelope.keyOf(before));
  }

  /** A row that got another key is a delete of the former one and a create of the new one. */
  *#moved(change: RowChange, envelope: Envelope, origin: Origin): Iterable<OutEvent> {
    const before = change.before as readonly Cell[];
    const after = change.after as readonly Cell[];
    const newKey = envelope.keyOf(after) ?? '';
    const oldKey = envelope.keyOf(before);
    const deleted = { change, envelope, origin, transaction: this.#count(envelope) };
    yield this.#event(deleted, {
      part: Debezium.#parts.row,
      op: 'delete',
      before,
      after: null,
      headers: { [NEW_KEY]: newKey },
    });
    yield* this.#tombstone(deleted, before, oldKey);
    const created = { ...deleted, transaction: this.#count(envelope) };
    yield this.#event(created, {
      part: Debezium.#parts.created,
      op: 'create',
      before: null,
      after,
      headers: { [OLD_KEY]: oldKey ?? '' },
    });
  }

  *#tombstone({ change, envelope, origin }: Made, before: readonly Cell[], key: string | null): Iterable<OutEvent> {
    if (!this.#options.tombstones || key === null) return;
    const event = this.#bare({ change, envelope, origin }, Debezium.#parts.tombstone, 'delete');
    yield { ...event, keys: keysOf(envelope.key, { ...change, after: null, before }), headers: { [KEY]: key }, body: null };
  }

  #event(
    made: Made,
    {
      part,
      op,
      before,
      after,
      headers,
    }: {
      part: number;
      op: EventOp;
      before: readonly Cell[] | null;
      after: readonly Cell[] | null;
      headers: Readonly<Record<string, string>>;
    },
  ): OutEvent {
    const { change, envelope, origin, transaction } = made;
    const now = after ?? before;
    const key = op !== 'truncate' && now ? envelope.keyOf(now) : null;
    const rows =
      op === 'truncate'
        ? ''
        : `"before":${before ? envelope.before(before) : 'null'},"after":${after ? envelope.after(after) : 'null'},`;
    const ms = change.storedAt;
    const payload = `{${rows}"source":${this.#source(change, origin)},"transaction":${transaction},"op":"${LETTERS[op]}","ts_ms":${ms},"ts_us":${ms}000,"ts_ns":${ms}000000}`;
    return {
      ...this.#bare(made, part, op),
      headers: { ...(key === null ? {} : { [KEY]: key }), ...headers },
      body: envelope.value(payload),
    };
  }

  #bare({ change, envelope, origin }: Omit<Made, 'transaction'>, part: number, op: EventOp): Omit<OutEvent, 'headers' | 'body'> {
    const place = { ...change.place, part };
    const { table } = envelope.key;
    return {
      id: idOf(origin.epoch, formatPlace({ ...place, part: part - Debezium.#parts.row })),
      place,
      table,
      tables: [table],
      keys: keysOf(envelope.key, change),
      words: { schema: change.schema.schema, table: change.schema.table, op },
      contentType: CONTENT_TYPE,
    };
  }

  /** The commit's LSN stands for each of its changes: a changelog does not keep where in the WAL each one was. */
  #source({ transaction, place, schema, storedAt }: RowChange, { source, database }: Origin): string {
    const us = transaction?.committedAt ?? storedAt * 1_000;
    const facts = {
      version: VERSION,
      connector: 'postgresql',
      name: this.#server(source),
      ts_ms: Math.floor(us / 1_000),
      snapshot: transaction ? 'false' : 'true',
      db: database,
      sequence: JSON.stringify([String(place.lsn), String(place.lsn)]),
      ts_us: us,
    };
    const rest = { schema: schema.schema, table: schema.table, txId: transaction?.xid ?? null };
    return `${JSON.stringify(facts).slice(0, -1)},"ts_ns":${us}000,${JSON.stringify(rest).slice(1, -1)},"lsn":${place.lsn},"xmin":null}`;
  }

  #server(source: string): string {
    return this.#options.serverName.replaceAll('{source}', source);
  }

  /** Counts one event of the transaction. @returns its `transaction` block, as JSON text */
  #count({ key: { table } }: Envelope): string {
    const running = this.#running;
    if (!running) return 'null';
    const order = (running.tables.get(table) ?? 0) + 1;
    running.tables.set(table, order);
    return JSON.stringify({
      id: idOfTransaction(running.transaction),
      total_order: ++running.events,
      data_collection_order: order,
    });
  }

  #boundary(status: 'BEGIN' | 'END', place: EventPlace, running: Running, { epoch }: Origin): OutEvent {
    const { transaction, storedAt, events, tables } = running;
    const ended = status === 'END';
    const counts = [...tables].map(([name, count]) => ({ data_collection: name, event_count: count }));
    return {
      id: idOf(epoch, `${formatLsn(place.lsn)}:${status.toLowerCase()}`),
      place,
      table: '*',
      tables: [],
      keys: [],
      words: { schema: '_', table: 'transaction', op: ended ? 'end' : 'begin' },
      contentType: CONTENT_TYPE,
      headers: {},
      body: JSON.stringify({
        status,
        id: idOfTransaction(transaction),
        event_count: ended ? events : null,
        data_collections: ended ? counts : null,
        ts_ms: storedAt,
      }),
    };
  }

  #envelope(schema: TableSchema, { source }: Origin): Envelope {
    const known = this.#envelopes.get(schema);
    if (known) return known;
    const envelope = new Envelope(schema, this.#server(source), this.#options.schemas);
    this.#envelopes.set(schema, envelope);
    return envelope;
  }
}

function idOfTransaction({ xid, lsn }: Transaction): string {
  return `${xid}:${lsn}`;
}
