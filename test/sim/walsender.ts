import { Fault, type Lsn } from '@tributary/core';
import type { Replication, ReplicateOptions } from '@tributary/source';
import type { DatabaseOptions } from './pg-database.ts';
import type { Link } from './link.ts';
import { encodeTransaction } from './pgoutput.ts';
import { SLOT, type Slot, type Transaction } from './pg-model.ts';

/** PostgreSQL gives up a reader that says nothing for so long. */
const TIMEOUT_MS = 12_000;
const KEEPALIVE_MS = 700;

export interface WalsenderOptions extends DatabaseOptions {
  readonly link: Link;
  readonly options: ReplicateOptions;
  readonly closed: () => void;
}

/** Both ends of a replication connection: PostgreSQL's sender, and the reader as the source knows it. */
export class Walsender implements Replication {
  readonly #options: WalsenderOptions;
  readonly #described = new Set<number>();
  #slot: Slot | null = null;
  /** Index of the next transaction of the WAL to send. */
  #next = 0;
  #heardAt = 0;
  #pumping = false;
  #holds = new Set<string>();
  /** What arrived while the socket rested. */
  #socket: (() => void)[] = [];
  #ended = false;
  #end: (error: Error | null) => void = () => {};

  constructor(options: WalsenderOptions) {
    this.#options = options;
  }

  async run(started: () => void): Promise<void> {
    const { link, options } = this.#options;
    const ended = new Promise<void>((resolve, reject) => {
      this.#end = (error) => {
        if (this.#ended) return;
        this.#ended = true;
        if (error) reject(error);
        else resolve();
      };
    });
    ended.catch(() => {});
    link.onBreak(() => this.#end(new Fault('database_unreachable', 'the replication connection broke', { slot: options.slot })));
    link.onHangup(() => this.#release());
    try {
      await link.call(() => this.#start());
      if (!this.#ended) started();
      await ended;
    } finally {
      await this.stop();
    }
  }

  // The server's side.

  #start(): void {
    const { model, options, world } = this.#options;
    if (!model.running) throw new Fault('database_unreachable', 'the database is down');
    const slot = model.slots.get(SLOT);
    if (!slot) throw new Fault('database_rejected', 'no such slot', { sqlState: '42704' });
    if (slot.reader) throw new Fault('slot_in_use', 'the slot is active');
    slot.reader = this;
    this.#slot = slot;
    this.#heardAt = world.now;
    const from = options.from > slot.confirmed ? options.from : slot.confirmed;
    world.tell(`walsender starts at ${from} (asked ${options.from}, confirmed ${slot.confirmed})`);
    this.#next = model.wal.findIndex((transaction) => transaction.commitLsn >= from);
    if (this.#next === -1) this.#next = model.wal.length;
    model.senders.add(this.#wake);
    this.#wake();
    this.#keepalive();
  }

  get #serving(): boolean {
    return this.#slot !== null && this.#slot.reader === this && this.#options.model.running;
  }

  #release(): void {
    this.#options.model.senders.delete(this.#wake);
    if (this.#slot?.reader === this) this.#slot.reader = null;
    this.#slot = null;
  }

  readonly #wake = (): void => {
    if (this.#pumping) return;
    this.#pumping = true;
    const { world } = this.#options;
    world.after(world.random.between(0.5, 8), () => this.#pump());
  };

  /** Sends what is there, some at a time, until it has caught up. */
  #pump(): void {
    this.#pumping = false;
    if (!this.#serving) return;
    const { model } = this.#options;
    for (let sent = 0; sent < 20 && this.#next < model.wal.length; sent++) {
      this.#send(model.wal[this.#next++] as Transaction);
    }
    if (this.#next < model.wal.length) this.#wake();
  }

  #send(transaction: Transaction): void {
    const { link, world, options } = this.#options;
    const empty = transaction.message === null && !transaction.changes.some((change) => change.published);
    if (empty) return;
    const messages = encodeTransaction(transaction, this.#described);
    // Cut where a packet may end; what comes in one read is handled in one go.
    const cut = messages.length > 3 && world.random.chance(0.2) ? 1 + world.random.below(messages.length - 1) : messages.length;
    for (const packet of [messages.slice(0, cut), messages.slice(cut)]) {
      if (packet.length === 0) continue;
      link.down(() => this.#receive(() => tell(packet, options)));
    }
  }

  #keepalive(): void {
    if (!this.#serving) return;
    const { link, model, options, world } = this.#options;
    if (world.now - this.#heardAt > TIMEOUT_MS) {
      world.tell('walsender gives up a silent reader');
      link.break('terminating walsender process due to replication timeout');
      return;
    }
    if (this.#next === model.wal.length) {
      const { lsn } = model;
      const asks = world.random.chance(0.2);
      link.down(() => this.#receive(() => options.keepalive(lsn, asks)));
    }
    world.after(KEEPALIVE_MS, () => this.#keepalive());
  }

  #confirmed(lsn: Lsn): void {
    const { model, world } = this.#options;
    if (!this.#serving || !this.#slot) return;
    this.#heardAt = world.now;
    this.#options.confirmed(lsn);
    const slot = this.#slot;
    if (lsn > model.lsn) world.broke('confirm', `confirmed ${lsn}, beyond the end of the WAL ${model.lsn}`);
    if (lsn <= slot.confirmed) return;
    slot.confirmed = lsn;
    if (world.random.chance(0.5)) slot.persisted = lsn;
  }

  // The reader's side.

  #receive(handle: () => void): void {
    if (this.#ended) return;
    if (this.#holds.size > 0 || this.#socket.length > 0) this.#socket.push(handle);
    else handle();
  }

  async confirm(lsn: Lsn): Promise<void> {
    if (!this.#ended && lsn > 0n) this.#options.link.up(() => this.#confirmed(lsn));
  }

  hold(reason: string): void {
    this.#holds.add(reason);
  }

  release(reason: string): void {
    if (!this.#holds.delete(reason)) return;
    while (this.#holds.size === 0 && this.#socket.length > 0 && !this.#ended) this.#socket.shift()?.();
  }

  async stop(): Promise<void> {
    this.#end(null);
    this.#options.link.close();
    this.#options.closed();
  }
}

/** As they come from a socket: one behind the other. */
function tell(packet: readonly Buffer[], { message }: ReplicateOptions): void {
  const bytes = Buffer.concat(packet);
  let at = 0;
  for (const { length } of packet) message(bytes, at, (at += length));
}
