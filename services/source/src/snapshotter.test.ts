import type { BatchDraft, ChangelogWriter, LastBatch } from '@tributary/changelog';
import { type Clock, ORIGIN, type TableSchema } from '@tributary/core';
import { type CatalogTable, Visibility } from '@tributary/postgres';
import { expect, it } from 'vitest';
import type { CatalogWatch } from './catalog-watch.ts';
import { ConfirmedPrefix } from './confirmed-prefix.ts';
import { continuity } from './continuity.ts';
import type { SourceSession } from './database.ts';
import { plainShape } from './contract.ts';
import { Snapshotter } from './snapshotter.ts';
import { emptyState, type SourceState } from './state.ts';
import { Stream } from './stream.ts';
import { Touches } from './touches.ts';

const NAME = 'public.t';
const table: CatalogTable = {
  oid: 1,
  schema: 'public',
  table: 't',
  partitioned: false,
  identity: 'default',
  columns: [{ name: 'id', place: 1, type: 20, typmod: -1, sqlType: 'int8', toastable: false }],
  key: ['id'],
  references: [],
  identifiable: true,
  leaves: [{ oid: 1, name: 't', file: 1, blocks: 1 }],
  churn: '0',
};
const schema: TableSchema = {
  schema: 'public',
  table: 't',
  identity: 'default',
  columns: [
    { name: 'id', type: { oid: 20, schema: 'pg_catalog', name: 'int8', kind: 'base' }, typmod: -1, sqlType: 'int8', key: 1 },
  ],
};

function message(tag: string, size: number, places: readonly (readonly [at: number, lsn: bigint])[]): Buffer {
  const bytes = Buffer.alloc(size);
  bytes.write(tag, 'latin1');
  for (const [at, lsn] of places) bytes.writeBigInt64BE(lsn, at);
  return bytes;
}

/** A database in which transaction 10 wrote to the table before it was published: it ends, and is never streamed. */
class Database {
  wal = 100n;
  /** Where transaction 10 committed; null = it runs. */
  committed: bigint | null = null;
  readonly sent: BatchDraft[] = [];
  readonly writer: ChangelogWriter = {
    last: null,
    append: async (batch) => this.sent.push(batch),
    pendingBytes: 0,
    belowPending: async () => {},
    close: async () => {},
  };
  /** A poll, during which the transaction ends and PostgreSQL says how far it has sent. */
  readonly clock: Clock = {
    now: () => 0,
    monotonic: () => 0,
    sleep: async (ms) => (ms > 5 ? this.commit() : new Promise(() => {})),
  };
  readonly touches = new Touches(this.visibility, 5n);
  readonly stream = new Stream({
    source: 's',
    epoch: 'e',
    writer: this.writer,
    resume: ORIGIN,
    restart: 50n,
    anchor: null,
    watermark: 0,
    lingerMs: 5,
    touches: this.touches,
    confirmed: new ConfirmedPrefix(0, 50n),
    lookup: async () => plainShape(schema),
    hold: () => {},
    release: () => {},
    fail: (error) => expect.fail(String(error)),
    clock: this.clock,
  });

  get visibility(): Visibility {
    return new Visibility(this.committed === null ? '10:10:' : '11:11:');
  }

  commit(): void {
    this.committed ??= this.wal += 100n;
    this.wal += 100n;
    this.stream.keepalive(this.wal);
  }

  heartbeat(): void {
    const commit = (this.wal += 10n);
    const end = (this.wal += 40n);
    this.stream.message(message('B', 21, [[1, commit]]));
    this.stream.message(
      message('C', 26, [
        [2, commit],
        [10, end],
      ]),
    );
  }

  snapshotter(state: SourceState): Snapshotter {
    const session = {
      visibility: async () => this.visibility,
      begin: async () => this.visibility,
      async *copy() {
        yield Buffer.from('7\n');
        return 1;
      },
      walPosition: async () => this.wal,
      end: async () => {},
      close: async () => {},
    };
    const watch = { table: () => table, shapeOf: async () => plainShape(schema), unpublishedBelow: () => 11n };
    return new Snapshotter({
      source: 's',
      open: async () => session as unknown as SourceSession,
      watch: watch as unknown as CatalogWatch,
      stream: this.stream,
      touches: this.touches,
      writer: this.writer,
      state,
      clock: this.clock,
      heartbeat: () => this.heartbeat(),
      pass: async () => this.heartbeat(),
    });
  }
}

it('publishes what a transaction wrote before its table was published at a place behind it, and with a transaction to ask for', async () => {
  const database = new Database();
  const state = emptyState('e', '1');
  const snapshot = { generation: 1, begun: false, leaf: 0, block: 0, reread: [] };
  state.tables[NAME] = { oid: 1, mode: 'keyed', shape: '', leaves: '', snapshot, churn: '', content: '', skip: null };
  const snapshotter = database.snapshotter(state);
  const ending = new AbortController();
  const settled = snapshotter.settled();
  const run = snapshotter.run(ending.signal);
  await settled;
  ending.abort();
  await run;

  const read = database.sent.filter(({ header }) => header.kind === 'read');
  expect(read.map(({ header }) => header.mark?.step)).toEqual(['begin', 'chunk', 'end']);
  for (const { header } of read) {
    expect(header.position.lsn).toBeGreaterThan(database.committed as bigint);
    const last: LastBatch = { seq: 1, header: { ...header, follows: ORIGIN, stateSeq: 0 }, state: null, statePosition: null };
    // Else nobody notices that the database was set back to before what the snapshot saw, and has written more since.
    const { anchor } = continuity(last, { name: 's', confirmed: 50n, created: false }, database.wal) as { anchor?: unknown };
    expect(anchor).toMatchObject({ commit: header.position.lsn });
  }
});
