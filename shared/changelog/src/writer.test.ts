import { Fault, systemRandom } from '@tributary/core';
import { expect, it } from 'vitest';
import type { BatchDraft } from './changelog.ts';
import type { Store } from './store.ts';
import { Writer } from './writer.ts';

const draft: BatchDraft = {
  header: {
    source: 'shop',
    epoch: 'e',
    kind: 'stream',
    position: { lsn: 100n, ordinal: 1 },
    restart: 110n,
    watermark: 1,
    continues: false,
    more: false,
    transactions: [{ lsn: 100n, endLsn: 110n, xid: 1, committedAt: 1 }],
    mark: null,
    state: null,
  },
  sections: [],
};

it('what is under way when the connection breaks is given up at once, not when the client has waited long enough', async () => {
  let breaks = () => {};
  const store = {
    messageBytesMax: 1_000_000,
    publish: () => new Promise<void>(() => {}),
    onBreak(broken: () => void) {
      breaks = broken;
      return () => {};
    },
  } as Partial<Store> as Store;
  const writer = new Writer(store, { source: 'shop', last: null, lastSeq: 0, random: systemRandom });
  const appended = writer.append(draft);
  breaks();
  await expect(appended).rejects.toMatchObject({ kind: 'broker_unreachable' } satisfies Partial<Fault>);
  await expect(writer.append(draft)).rejects.toThrow(Fault);
});
