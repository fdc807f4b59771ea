import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ConfirmedPrefix } from './confirmed-prefix.ts';

describe('confirmed prefix', () => {
  it('never passes a batch that is not stored, and never moves back (I4, I5)', () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: 4_000 }), { minLength: 1, maxLength: 3_000 }), (order) => {
        const prefix = new ConfirmedPrefix(0, 0n);
        const stored = order.map((_, i) => prefix.sent(BigInt(i + 1), i));
        const done = new Set<number>();
        let last = 0n;
        let now = 0;
        for (const pick of order) {
          const i = pick % stored.length;
          if (done.has(i)) continue;
          stored[i]?.(now++);
          done.add(i);
          const safe = prefix.safe();
          expect(safe >= last).toBe(true);
          for (let k = 0; k < Number(safe); k++) expect(done.has(k)).toBe(true);
          last = safe;
        }
      }),
      { numRuns: 50 },
    );
  });

  it('waits until a later batch proves that the broker has had one for the delay, also through merging', () => {
    const prefix = new ConfirmedPrefix(1_000, 5n);
    for (let i = 0; i < 2_000; i++) prefix.sent(BigInt(10 + i), i)(i);
    expect(prefix.safe()).toBeLessThanOrEqual(10n + 999n);
    expect(prefix.safe()).toBeGreaterThan(10n + 800n);
    prefix.sent(3_000n, 5_000)(5_001);
    expect(prefix.safe()).toBe(2_009n);
  });

  it('is not moved by time alone: the broker may have lost its newest while nobody asked it', () => {
    const prefix = new ConfirmedPrefix(1_000, 5n);
    prefix.sent(10n, 0)(1);
    const second = prefix.sent(20n, 900_000);
    expect(prefix.safe()).toBe(5n);
    second(900_001);
    expect(prefix.safe()).toBe(10n);
  });
});
