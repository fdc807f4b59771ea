import { systemClock } from '@tributary/core';
import { describe, expect, it, vi } from 'vitest';
import type { Answered } from './asked.ts';
import { difference, follow, type FollowedPart } from './follow.ts';
import type { KpiFreshness } from './moment.ts';

const row = (bucket: string, gmv: number, country = 'DE') =>
  ({ bucket, dimensions: { country }, values: { gmv }, revision: 0, flagged: false, closed: true }) as const;

describe('what changed between two answers', () => {
  it('is what is new or has another value, and everything where a row is gone', () => {
    const [a, b] = [row('1', 1), row('2', 1)];
    expect(difference(null, [a])).toEqual({ whole: true, rows: [a] });
    expect(difference([a], [a])).toEqual({ whole: false, rows: [] });
    expect(difference([a], [a, b])).toEqual({ whole: false, rows: [b] });
    expect(difference([a, b], [row('1', 2), b])).toEqual({ whole: false, rows: [row('1', 2)] });
    expect(difference([a, b], [b])).toEqual({ whole: true, rows: [b] });
    expect(difference([a], [row('1', 1, 'FR')])).toEqual({ whole: true, rows: [row('1', 1, 'FR')] });
  });

  it('of the short form is everything where any row is gone', () => {
    expect(difference([{ n: 1 }, { n: 2 }], [{ n: 1 }])).toEqual({ whole: true, rows: [{ n: 1 }] });
    expect(difference([{ n: 1 }], [{ n: 1 }, { n: 3 }])).toEqual({ whole: false, rows: [{ n: 3 }] });
  });
});

describe('following', () => {
  const freshness = { position: 'shop:0/1+1' } as KpiFreshness;
  /** Waits that have not ended. */
  let waits = 0;
  const clock = {
    ...systemClock,
    sleep: async (ms: number, signal?: AbortSignal) => {
      waits++;
      await systemClock.sleep(ms, signal).finally(() => waits--);
    },
  };
  const world = (heard?: (parts: number) => Promise<boolean>) => {
    const stop = new AbortController();
    let now: Answered['rows'] = [row('1', 1)];
    let told: () => void = () => {};
    let listeners = 0;
    const parts = follow({
      answer: async () => ({ rows: now, freshness }),
      listen: (hear) => {
        told = hear;
        listeners++;
        return () => listeners--;
      },
      clock,
      signal: stop.signal,
      ...(heard ? { heard } : {}),
    });
    const change = (rows: Answered['rows']) => {
      now = rows;
      told();
    };
    return { parts, change, stop, listeners: () => listeners };
  };
  const plain = ({ value }: IteratorResult<FollowedPart>) => [
    value.whole,
    value.rows.map((one: ReturnType<typeof row>) => one.values.gmv),
  ];

  it('waits for one thing at a time, however often values change', async () => {
    const { parts, change, stop } = world();
    await parts.next();
    for (let gmv = 2; gmv < 5; gmv++) {
      const next = parts.next();
      await vi.waitFor(() => expect(waits).toBe(1));
      change([row('1', gmv)]);
      await next;
    }
    const last = parts.next();
    await vi.waitFor(() => expect(waits).toBe(1));
    stop.abort();
    expect(await last).toEqual({ value: undefined, done: true });
    await vi.waitFor(() => expect(waits).toBe(0));
  });

  it('tells all, then what changed, however many commits came while nobody asked', async () => {
    const { parts, change, stop, listeners } = world();
    expect(plain(await parts.next())).toEqual([true, [1]]);
    change([row('1', 2)]);
    change([row('1', 3), row('2', 4)]);
    expect(plain(await parts.next())).toEqual([false, [3, 4]]);
    const next = parts.next();
    change([row('1', 3), row('2', 5)]);
    expect(plain(await next)).toEqual([false, [5]]);
    stop.abort(new Error('enough'));
    expect((await parts.next()).done).toBe(true);
    expect(listeners()).toBe(0);
  });

  it('makes a part when the one before was read, and ends when nobody listens any more', async () => {
    const read: number[] = [];
    let reads = (_there: boolean) => {};
    const { parts, change, listeners } = world((part) => {
      read.push(part);
      return new Promise((resolve) => (reads = resolve));
    });
    // As the bus does: it takes every part at once, however slow its reader is.
    const told: unknown[] = [];
    const taking = (async () => {
      for await (const part of parts) told.push(plain({ done: false, value: part }));
    })();
    await vi.waitFor(() => expect(read).toEqual([1]));
    for (let gmv = 2; gmv <= 500; gmv++) change([row('1', gmv)]);
    await new Promise((resolve) => setImmediate(resolve));
    expect(told).toEqual([[true, [1]]]);
    reads(true);
    await vi.waitFor(() => expect(read).toEqual([1, 2]));
    expect(told).toEqual([
      [true, [1]],
      [false, [500]],
    ]);
    reads(false);
    await taking;
    expect([told.length, listeners()]).toEqual([2, 0]);
  });
});
