import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ConfirmedPrefix } from './confirmed-prefix.ts';

describe('confirmed prefix', () => {
  it('never passes a batch that is not stored, and never moves back (I4, I5)', () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: 4_000 }), { minLength: 1, maxLength: 3_000 }), (order) => {
        const prefix = new ConfirmedPrefix(0, 0n);
        const stored = order.map((_, i) => prefix.sent(BigInt(i + 1)));
        const done = new Set<number>();
        let last = 0n;
        let now = 0;
        for (const pick of order) {
          const i = pick % stored.length;
          if (done.has(i)) continue;
          stored[i]?.(now++);
          done.add(i);
          const safe = prefix.safe(now);
          expect(safe >= last).toBe(true);
          for (let k = 0; k < Number(safe); k++) expect(done.has(k)).toBe(true);
          last = safe;
        }
      }),
      { numRuns: 50 },
    );
  });

  it('waits until a batch was stored for the delay, also through merging', () => {
    const prefix = new ConfirmedPrefix(1_000, 5n);
    for (let i = 0; i < 2_000; i++) prefix.sent(BigInt(10 + i))(i);
    expect(prefix.safe(999)).toBe(5n);
    expect(prefix.safe(1_000 + 99)).toBeLessThanOrEqual(10n + 99n);
    expect(prefix.safe(5_000)).toBe(2_009n);
  });
});
