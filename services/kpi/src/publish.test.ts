import { type EventStreams, memoryBroker } from '@tributary/changelog';
import type { KpiConfig, KpiPublish } from '@tributary/config';
import { systemClock } from '@tributary/core';
import { describe, expect, it, vi } from 'vitest';
import { follow, type FollowedPart } from './follow.ts';
import type { KpiFreshness } from './moment.ts';
import { publishing, sliced } from './publish.ts';

describe('publishing', () => {
  it('sends rows in as few messages as hold them, in order', () => {
    const rows = Array.from({ length: 10 }, (_, n) => ({ n, text: 'x'.repeat(20) }));
    expect(sliced(rows, 10_000)).toEqual([rows]);
    const slices = sliced(rows, 120);
    expect(slices.flat()).toEqual(rows);
    for (const slice of slices) expect(JSON.stringify(slice).length).toBeLessThanOrEqual(120);
    expect(slices.length).toBeLessThan(rows.length);
    expect(() => sliced([{ text: 'x'.repeat(200) }], 120)).toThrow('one row is larger');
  });

  it('writes a stream of its own, passes over what only tells how far it is, and is fenced', async () => {
    const { eventStreams: streams } = memoryBroker().changelogs;
    const freshness = (n: number) => ({ definitionVersion: 'v', position: `shop:0/${n}+1` }) as KpiFreshness;
    const part = (n: number, whole: boolean, ...rows: object[]): FollowedPart => ({
      whole,
      rows: rows as never,
      freshness: freshness(n),
    });
    const stop = new AbortController();
    let ended = () => {};
    const drained = new Promise<void>((resolve) => (ended = resolve));
    async function* parts() {
      yield part(1, true, { n: 1 });
      yield part(2, false);
      yield part(3, false, { n: 2 });
      ended();
      await new Promise((resolve) => stop.signal.addEventListener('abort', resolve, { once: true }));
    }
    const config = { name: 'size' } as KpiConfig;
    const publish: KpiPublish = { subject: 'kpi.size', to: [], ask: {}, everyMs: 0, files: null };
    const options = { config, publish, hooks: [], streams, replicas: 1, clock: systemClock, warn: () => {}, parts };
    const [task] = publishing(options);
    const running = task?.(stop.signal);
    await drained;
    stop.abort(new Error('enough'));
    await running;
    const { lastSeq, lastHeaders } = await streams.open('KPI_size', {
      subject: 'kpi.size',
      replicas: 1,
      maxAgeMs: 0,
      maxBytes: 0,
    });
    expect([lastSeq, lastHeaders?.get('tributary-position')]).toEqual([2, 'shop:0/3+1']);
  });

  it('misses states, never the last, where a stream is slow: one message waits for it, whatever happens meanwhile', async () => {
    const { eventStreams } = memoryBroker().changelogs;
    const limits = { subject: 'kpi.size', replicas: 1, maxAgeMs: 0, maxBytes: 0 };
    let asked = 0;
    let take = () => {};
    const slow: EventStreams = {
      ...eventStreams,
      async open(name, given) {
        const writer = await eventStreams.open(name, given);
        return {
          lastSeq: writer.lastSeq,
          lastHeaders: writer.lastHeaders,
          bodyBytesMax: writer.bodyBytesMax,
          close: () => writer.close(),
          append: async (message) => {
            asked++;
            await new Promise<void>((resolve) => (take = resolve));
            return writer.append(message);
          },
        };
      },
    };
    let n = 0;
    let told: () => void = () => {};
    const stop = new AbortController();
    const parts = (signal: AbortSignal) =>
      follow({
        answer: async () => ({
          rows: [{ n }],
          freshness: { definitionVersion: 'v', position: `shop:0/${n}+1` } as KpiFreshness,
        }),
        listen: (heard) => {
          told = heard;
          return () => {};
        },
        clock: systemClock,
        signal,
      });
    const config = { name: 'size' } as KpiConfig;
    const publish: KpiPublish = { subject: 'kpi.size', to: [], ask: {}, everyMs: 0, files: null };
    const options = { config, publish, hooks: [], streams: slow, replicas: 1, clock: systemClock, warn: () => {}, parts };
    const [task] = publishing(options);
    const running = task?.(stop.signal);
    await vi.waitFor(() => expect(asked).toBe(1));
    for (n = 1; n < 500; n++) told();
    n = 500;
    told();
    await new Promise((resolve) => setImmediate(resolve));
    expect(asked).toBe(1);
    take();
    await vi.waitFor(() => expect(asked).toBe(2));
    take();
    await vi.waitFor(async () => expect((await eventStreams.open('KPI_size', limits)).lastSeq).toBe(2));
    expect((await eventStreams.open('KPI_size', limits)).lastHeaders?.get('tributary-position')).toBe('shop:0/500+1');
    stop.abort(new Error('enough'));
    told();
    await running;
  });
});
