import { systemClock } from '@tributary/core';
import { expect, it } from 'vitest';
import type { Engine } from './engine.ts';
import { Work } from './work.ts';

it('how long answers take, and how soon values follow the newest commit of what a KPI reads, are measured apart', async () => {
  let [now, monotonic] = [10_000, 0];
  const work = new Work({ ...systemClock, now: () => now, monotonic: () => monotonic });
  let told = () => {};
  const places = new Map([
    ['shop', { place: { committedAt: 9_000_000 } }],
    ['other', { place: { committedAt: 1_000_000 } }],
  ]);
  const listen = (hear: () => void) => {
    told = hear;
    return () => {};
  };
  work.follow({ listen, sources: places } as unknown as Engine, { tables: [{ source: 'shop', table: 'public.orders' }] });
  for (const tookMs of [30, 12])
    expect(
      await work.query(async () => {
        monotonic += tookMs;
        return 'rows';
      }),
    ).toBe('rows');
  expect(work.told({ differing: 0 })).toEqual({ queries: 2, queryMs: 42, reactionMs: null, differing: 0 });
  now = 10_250;
  places.set('other', { place: { committedAt: 10_200_000 } });
  told();
  expect(work.told({ differing: 0 }).reactionMs).toBeNull();
  places.set('shop', { place: { committedAt: 10_100_000 } });
  told();
  now = 20_000;
  told();
  expect(work.told({ differing: 3 })).toMatchObject({ reactionMs: 150, differing: 3 });
});
