import type { BatchDraft, ChangelogWriter } from '@tributary/changelog';
import { type Clock, Op, type TableSchema } from '@tributary/core';
import { expect, it } from 'vitest';
import { Batcher } from './batcher.ts';
import { ConfirmedPrefix } from './confirmed-prefix.ts';
import type { Track } from './stream.ts';

const id = { type: { oid: 20, schema: 'pg_catalog', name: 'int8', kind: 'base' }, typmod: -1, sqlType: 'bigint' } as const;
const schema: TableSchema = {
  schema: 'public',
  table: 't',
  identity: 'default',
  columns: [{ name: 'id', ...id, key: 1 }],
};
const track = { name: 'public.t', schema } as Track;

/** A batcher whose linger is over when the test says so. */
function batcher() {
  const sent: bigint[] = [];
  let over: () => void = () => {};
  const clock: Clock = { now: () => 0, monotonic: () => 0, sleep: () => new Promise((resolve) => (over = resolve)) };
  const writer = {
    pendingBytes: 0,
    append: async ({ header }: BatchDraft) => sent.push(header.position.lsn),
  } as unknown as ChangelogWriter;
  const start = { lsn: 0n, ordinal: 0 };
  const unexpected = (error: unknown) => {
    throw error;
  };
  const confirmed = new ConfirmedPrefix(0, 0n);
  const hold = () => {};
  return {
    sent,
    lingered: async () => {
      over();
      await new Promise((resolve) => setImmediate(resolve));
    },
    batcher: new Batcher({
      source: 's',
      epoch: 'e',
      writer,
      resume: start,
      restart: 0n,
      watermark: 0,
      lingerMs: 5,
      confirmed,
      hold,
      release: hold,
      fail: unexpected,
      clock,
    }),
  };
}

it('a batch whose linger ends in the middle of a transaction goes out at its end, without lingering again', async () => {
  const { batcher: gathering, sent, lingered } = batcher();
  const change = (ordinal: number) => {
    const draft = gathering.section(track, 10, ordinal);
    draft.cells[0]?.push('1');
    gathering.row(draft, Op.created, ordinal);
  };
  gathering.begin(1n, 1, 0);
  change(1);
  gathering.commit(2n, 1);
  gathering.begin(3n, 2, 0);
  change(1);
  await lingered();
  expect(sent).toEqual([]);
  change(2);
  gathering.commit(4n, 2);
  expect(sent).toEqual([3n]);
  // What comes now lingers as ever.
  gathering.begin(5n, 3, 0);
  change(1);
  gathering.commit(6n, 1);
  expect(sent).toEqual([3n]);
  await lingered();
  expect(sent).toEqual([3n, 5n]);
});
