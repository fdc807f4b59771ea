import { expect, it } from 'vitest';
import type { BatchDraft } from './changelog.ts';
import { StoredChangelogs } from './changelogs.ts';
import { MemoryStore } from './memory/store.ts';
import type { Copies, Store } from './store.ts';

const batch = (n: number): BatchDraft => ({
  header: {
    source: 'shop',
    epoch: 'e',
    kind: 'stream',
    position: { lsn: BigInt(n), ordinal: 1 },
    restart: BigInt(n),
    watermark: n,
    continues: false,
    more: false,
    transactions: [],
    mark: null,
    state: null,
  },
  sections: [],
});

/** Changelogs of a broker whose servers hold copies of these lengths, the first of which counts. */
async function differing(lengths: readonly number[]) {
  const stores = await Promise.all(
    lengths.map(async (length) => {
      const store = new MemoryStore();
      const writer = await new StoredChangelogs(store).write('shop', { replicas: 3, maxAgeMs: 0, maxBytes: 0 });
      for (let n = 1; n <= length; n++) await writer.append(batch(n));
      return store;
    }),
  );
  let leader = 0;
  const renewed: number[] = [];
  const copies: Copies = {
    count: async () => stores.length,
    async another() {
      leader = (leader + 1) % stores.length;
      return true;
    },
    async renew() {
      renewed.push(lengths[leader] as number);
    },
  };
  const store = new Proxy({} as Store, {
    get(_, name) {
      if (name === 'copies') return copies;
      const one = stores[leader] as MemoryStore;
      const value = one[name as keyof MemoryStore] as unknown;
      return typeof value === 'function' ? value.bind(one) : value;
    },
  });
  return { changelogs: new StoredChangelogs(store), renewed };
}

it('copies are made anew of the first that holds what is looked for', async () => {
  const { changelogs, renewed } = await differing([2, 1, 5, 4]);
  expect(await changelogs.reconcileCopies('shop', (last) => (last?.seq ?? 0) >= 4)).toBe(true);
  expect(renewed).toEqual([5]);
});

it('where none holds it, of the longest', async () => {
  const { changelogs, renewed } = await differing([2, 3, 1]);
  expect(await changelogs.reconcileCopies('shop', (last) => (last?.seq ?? 0) >= 4)).toBe(true);
  expect(renewed).toEqual([3]);
});
