import { memoryBroker } from '@tributary/changelog';
import type { KpiConfig, KpiPublish } from '@tributary/config';
import { systemClock } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import type { FollowedPart } from './follow.ts';
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
    const publish: KpiPublish = { subject: 'kpi.size', to: [], ask: {}, everyMs: 0 };
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
});
