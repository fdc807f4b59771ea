import { describe, expect, it } from 'vitest';
import { shareOut } from './shares.ts';
import { seenName } from './target-table.ts';

const load = (name: string, weight: number, tie = name) => ({ name, weight, tie });

describe('tables among parts', () => {
  it('the heaviest first, each to the part that has the least to do', () => {
    const shares = shareOut([load('a', 10), load('b', 100), load('c', 60), load('d', 50)], 2);
    expect([...shares].toSorted()).toEqual([
      ['a', 1],
      ['b', 1],
      ['c', 2],
      ['d', 2],
    ]);
  });

  it('many of which nothing is known spread', () => {
    const shares = shareOut(
      Array.from({ length: 12 }, (_, i) => load(`t${i}`, 0)),
      4,
    );
    for (const part of [1, 2, 3, 4]) expect([...shares.values()].filter((one) => one === part)).toHaveLength(3);
  });

  it('tied ones stay together', () => {
    const shares = shareOut([load('a', 10), load('b', 10, 'a'), load('c', 15), load('d', 1, 'c')], 2);
    expect(shares.get('a')).toBe(shares.get('b'));
    expect(shares.get('c')).toBe(shares.get('d'));
    expect(shares.get('a')).not.toBe(shares.get('c'));
  });
});

describe('the table that notes which keys a snapshot named', () => {
  it('is no other table’s, however alike their names end', () => {
    const names = ['ods/eu/public.customer_preferences_of_all', 'ods/us/public.customer_preferences_of_all', 'ods/us/b.t'];
    expect(new Set(names.map(seenName)).size).toBe(3);
  });
});
