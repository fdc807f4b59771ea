import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Lanes, type Ordered } from './lanes.ts';

interface One extends Ordered {
  readonly n: number;
}

const row = (n: number, ...keys: string[]): One => ({
  n,
  keys,
  tables: [...new Set(keys.map((key) => key.split(':')[0] as string))],
});
const table = (n: number, name: string): One => ({ n, keys: [], tables: [name] });
const everything = (n: number): One => ({ n, keys: [], tables: [] });

function taken(lanes: Lanes<One>): number[] {
  const all: number[] = [];
  for (let one = lanes.take(); one; one = lanes.take()) all.push(one.n);
  return all;
}

const meets = (a: One, b: One): boolean => {
  if (a.tables.length === 0 || b.tables.length === 0) return true;
  if (a.keys.some((key) => b.keys.includes(key))) return true;
  const shared = a.tables.some((name) => b.tables.includes(name));
  return shared && (a.keys.length === 0 || b.keys.length === 0);
};

describe('lanes', () => {
  it('let rows go side by side, and events of one row one after the other', () => {
    const lanes = new Lanes<One>();
    const first = row(1, 't:a');
    const others = [row(2, 't:a'), row(3, 't:b'), row(4, 't:a')];
    for (const one of [first, ...others]) lanes.add(one);
    expect(taken(lanes)).toEqual([1, 3]);
    lanes.release(first);
    expect(taken(lanes)).toEqual([2]);
    lanes.release(others[0] as One);
    expect(taken(lanes)).toEqual([4]);
  });

  it('let a row that moved wait for both of its names, and a whole table for all of its rows', () => {
    const lanes = new Lanes<One>();
    const all = [
      row(1, 't:a'),
      row(2, 't:b'),
      row(3, 't:a', 't:b'),
      table(4, 't'),
      row(5, 't:c'),
      row(6, 'u:a'),
      everything(7),
      row(8, 'u:b'),
    ];
    for (const one of all) lanes.add(one);
    expect(taken(lanes)).toEqual([1, 2, 6]);
    const done = (n: number) => lanes.release(all[n - 1] as One);
    done(1);
    expect(taken(lanes)).toEqual([]);
    done(2);
    expect(taken(lanes)).toEqual([3]);
    done(3);
    expect(taken(lanes)).toEqual([4]);
    done(4);
    expect(taken(lanes)).toEqual([5]);
    done(6);
    done(5);
    expect(taken(lanes)).toEqual([7]);
    done(7);
    expect(taken(lanes)).toEqual([8]);
  });

  it('whatever comes: nothing that meets is under way together or out of order, and everything comes', () => {
    const key = fc.constantFrom('t:a', 't:b', 'u:a', 'u:b');
    const event = fc.oneof(
      { weight: 6, arbitrary: fc.uniqueArray(key, { minLength: 1, maxLength: 3 }).map((keys) => (n: number) => row(n, ...keys)) },
      { weight: 1, arbitrary: fc.constantFrom('t', 'u').map((name) => (n: number) => table(n, name)) },
      { weight: 1, arbitrary: fc.constant(everything) },
    );
    fc.assert(
      fc.property(fc.array(event, { maxLength: 30 }), fc.infiniteStream(fc.nat()), (makers, choices) => {
        const lanes = new Lanes<One>();
        const waiting = makers.map((make, n) => make(n));
        const added: One[] = [];
        const active: One[] = [];
        const done: One[] = [];
        while (done.length < makers.length) {
          const choice = choices.next().value as number;
          const next = waiting[0];
          if (next && choice % 3 !== 0) {
            lanes.add(next);
            added.push(waiting.shift() as One);
          }
          for (let one = lanes.take(); one; one = lanes.take()) {
            for (const other of active) expect(meets(one, other)).toBe(false);
            for (const other of added) if (other.n < one.n && meets(one, other)) expect(done).toContain(other);
            active.push(one);
          }
          expect(active.length > 0 || waiting.length > 0).toBe(true);
          const [ended] = active.splice(choice % Math.max(1, active.length), 1);
          if (ended) {
            lanes.release(ended);
            done.push(ended);
          }
        }
      }),
      { numRuns: 300 },
    );
  });
});
