import { describe, expect, it } from 'vitest';
import { standing } from './standing.ts';

const look = (rows: Record<string, string>) => new Map(Object.entries(rows));
const kept = (earlier: Record<string, string>, now: Record<string, string>) => [...standing(look(earlier), look(now)).keys()];

describe('two looks of a comparison', () => {
  it('agree on a row of the projection that has another value and does not move', () => {
    expect(kept({ '-1': 'a', '+1': 'x' }, { '-1': 'a', '+1': 'x' })).toEqual(['-1', '+1']);
    // Also while the source's row goes on: the projection has not followed.
    expect(kept({ '-1': 'a', '+1': 'x' }, { '-1': 'b', '+1': 'x' })).toEqual(['-1', '+1']);
  });

  it('say nothing of a row that differs each time because it moves', () => {
    expect(kept({ '-1': 'b', '+1': 'a' }, { '-1': 'd', '+1': 'c' })).toEqual([]);
  });

  it('agree on what the projection lacked and lacks, whatever its value in the source', () => {
    expect(kept({ '-1': 'a' }, { '-1': 'a' })).toEqual(['-1']);
    expect(kept({ '-1': 'a' }, { '-1': 'b' })).toEqual(['-1']);
  });

  it('agree on what the projection has alone', () => {
    expect(kept({ '+1': 'x' }, { '+1': 'x' })).toEqual(['+1']);
    expect(kept({ '+1': 'x' }, { '+1': 'y' })).toEqual([]);
  });

  it('forget what only one of them saw', () => {
    expect(kept({ '-1': 'a' }, { '-2': 'b', '+3': 'x' })).toEqual([]);
    expect(kept({ '-1': 'b', '+1': 'a' }, { '-1': 'c' })).toEqual([]);
  });
});
