import { describe, expect, it } from 'vitest';
import { type Candidate, type Placeable, place } from './place.ts';

const names = (count: number) => Array.from({ length: count }, (_, i) => `source/s${i}`);
const worker = (id: string, known: readonly string[], rest: Partial<Candidate> = {}): Candidate => ({
  id,
  labels: {},
  capacity: 1,
  assignments: new Set(known),
  ...rest,
});
const wanted = (known: readonly string[], owners: ReadonlyMap<string, string> = new Map()): Placeable[] =>
  known.map((name) => ({ name, labels: {}, owner: owners.get(name) ?? null }));
const loads = (placed: ReadonlyMap<string, string>) => {
  const counts: Record<string, number> = {};
  for (const id of placed.values()) counts[id] = (counts[id] ?? 0) + 1;
  return counts;
};
const moved = (before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>) =>
  [...after].filter(([name, id]) => before.get(name) !== id).length;

describe('placement', () => {
  const known = names(8);

  it('gives everybody its share', () => {
    for (const count of [1, 2, 3, 4, 8]) {
      const workers = Array.from({ length: count }, (_, i) => worker(`w${i}`, known));
      const placed = place(wanted(known), workers);
      expect(placed.size).toBe(8);
      for (const load of Object.values(loads(placed))) expect(load).toBeLessThanOrEqual(Math.ceil(8 / count));
    }
  });

  it('gives twice as much to twice the capacity', () => {
    const many = names(30);
    const placed = place(wanted(many), [worker('small', many), worker('large', many, { capacity: 2 })]);
    expect(loads(placed)).toEqual({ small: 10, large: 20 });
  });

  it('does not depend on the order of what it is given', () => {
    const workers = [worker('a', known), worker('b', known), worker('c', known)];
    expect(place(wanted(known.toReversed()), workers.toReversed())).toEqual(place(wanted(known), workers));
  });

  it('moves only what a new worker takes', () => {
    const two = [worker('a', known), worker('b', known)];
    const before = place(wanted(known), two);
    const after = place(wanted(known, before), [...two, worker('c', known)]);
    expect(loads(after)).toEqual({ a: 3, b: 3, c: 2 });
    expect(moved(before, after)).toBe(2);
  });

  it('moves only what a leaving worker had', () => {
    const three = [worker('a', known), worker('b', known), worker('c', known)];
    const before = place(wanted(known), three);
    const after = place(wanted(known, before), three.slice(0, 2));
    expect(moved(before, after)).toBe([...before.values()].filter((id) => id === 'c').length);
  });

  it('is at rest once its own answer has come true', () => {
    const workers = [worker('a', known), worker('b', known), worker('c', known, { capacity: 3 })];
    const once = place(wanted(known, new Map(known.map((name) => [name, 'a']))), workers);
    expect(moved(once, place(wanted(known, once), workers))).toBe(0);
  });

  it('keeps what labels ask for to workers that have them, whatever the load', () => {
    const pinned = known.map((name) => ({ name, labels: { network: 'shop' }, owner: null }));
    const workers = [
      worker('in', known, { labels: { network: 'shop' } }),
      worker('out', known),
      worker('up', known, { labels: null }),
    ];
    const placed = place(pinned, workers);
    expect(placed.size).toBe(8);
    expect(new Set(placed.values())).toEqual(new Set(['in', 'up']));
    const alone = place(pinned, workers.slice(0, 2));
    expect(loads(alone)).toEqual({ in: 8 });
    expect(
      moved(
        alone,
        place(
          pinned.map((one) => ({ ...one, owner: 'in' })),
          workers.slice(0, 2),
        ),
      ),
    ).toBe(0);
  });

  it('places only where an assignment is known, and leaves alone what nobody may run', () => {
    const placed = place(wanted(['source/x', 'source/y']), [worker('a', ['source/x']), worker('b', [])]);
    expect([...placed]).toEqual([['source/x', 'a']]);
    expect(place(wanted(known), [])).toEqual(new Map());
  });

  it('comes to rest when more is pinned than fits, however often it is asked', () => {
    const crowd = names(9).map((name, i) => ({ name, labels: i < 7 ? { team: 'x' } : {}, owner: null as string | null }));
    const everyone = crowd.map((one) => one.name);
    const workers = [
      worker('a', everyone, { labels: { team: 'x' } }),
      worker('b', everyone, { labels: { team: 'x' } }),
      worker('c', everyone),
      worker('d', everyone),
    ];
    let placed = place(crowd, workers);
    for (let round = 0; round < 3; round++) {
      const next = place(
        crowd.map((one) => ({ ...one, owner: placed.get(one.name) ?? null })),
        workers,
      );
      expect(moved(placed, next)).toBe(0);
      placed = next;
    }
  });
});
