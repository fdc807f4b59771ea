import { expect, test } from 'vitest';
import { joinParts, projectionView, unassignedProjection } from './facts.ts';

const part = (index: number, facts: Record<string, unknown>, state: 'running' | 'failed' = 'running') =>
  projectionView(`w${index}`, {
    name: `ods/shop#${index}`,
    kind: 'ods',
    state,
    restarts: 1,
    fault: null,
    faults: { fenced: index },
    facts: { changelog: 'shop', ...facts },
  });

test('a split projection is as far as its hindmost part, and as well as its worst', () => {
  const parts = [
    part(2, { position: { seq: 5, lsn: '0/5' }, lagMs: 70, applied: 10, watermark: 5_000 }),
    part(1, { position: { seq: 9, lsn: '0/9' }, lagMs: 3, applied: 1, watermark: 9_000 }),
  ];
  expect(joinParts('ods/shop', parts)).toMatchObject({
    name: 'ods/shop',
    state: 'running',
    worker: 'w1, w2',
    restarts: 2,
    position: { seq: 5, lsn: '0/5' },
    lagMs: 70,
    watermark: 5,
    faults: { fenced: 3 },
    applied: 11,
    parts: [{ name: 'ods/shop#1' }, { name: 'ods/shop#2' }],
  });
  expect(joinParts('ods/shop', [...parts, part(3, {}, 'failed')])).toMatchObject({ state: 'failed', position: null });
  expect(joinParts('ods/shop', [...parts, unassignedProjection('ods/shop#3', 'ods')])).toMatchObject({
    state: 'unassigned',
    changelog: 'shop',
    worker: 'w1, w2',
    position: null,
  });
});
