import { expect, it } from 'vitest';
import { Visibility } from './visibility.ts';

it('sees what had committed, and nothing that ran or came later', () => {
  const snapshot = new Visibility('100:110:103,105');
  expect([99n, 100n, 103n, 104n, 105n, 109n, 110n].map((xid) => snapshot.sees(xid))).toEqual([
    true,
    true,
    false,
    true,
    false,
    true,
    false,
  ]);
});

it('widens 32-bit xids around the wrap', () => {
  const snapshot = new Visibility(`${(5n << 32n) + 10n}:${(5n << 32n) + 20n}:`);
  expect(snapshot.widen(15)).toBe((5n << 32n) + 15n);
  expect(snapshot.widen(0xfffffff0)).toBe((4n << 32n) + 0xfffffff0n);
  const late = new Visibility(`${(5n << 32n) + 0xfffffff0n}:${(5n << 32n) + 0xfffffff9n}:`);
  expect(late.widen(3)).toBe((6n << 32n) + 3n);
});
