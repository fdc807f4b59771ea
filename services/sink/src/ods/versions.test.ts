import { describe, expect, it } from 'vitest';
import { type Moment, Versions } from './versions.ts';

const at = (n: number): Moment => ({ lsn: BigInt(n), ordinal: 1, at: n });

/** From, to, by which change it began and ended, and its cells. */
function told(versions: Versions) {
  const { ended, all, versions: made } = versions.take();
  return {
    ended: ended.map(({ row, to, by }) => `${row[0]} ${to.at} ${by}`),
    all: all?.to.at ?? null,
    made: made.map(({ cells, from, op, like, end }) => [
      `${op} ${from.at}-${end ? `${end.to.at} ${end.by}` : ''}`,
      cells,
      like?.row[0] ?? null,
    ]),
  };
}

describe('versions', () => {
  it('follow one another, each change one', () => {
    const versions = new Versions([0]);
    versions.create(['1', 'a'], at(1));
    versions.update(undefined, ['1', 'b'], at(2));
    versions.delete(['1', undefined], at(3));
    versions.create(['1', 'c'], at(4));
    expect(told(versions)).toEqual({
      // Whatever the target held ended with the first change.
      ended: ['1 1 c'],
      all: null,
      made: [
        ['c 1-2 u', ['1', 'a'], null],
        ['u 2-3 d', ['1', 'b'], null],
        ['c 4-', ['1', 'c'], null],
      ],
    });
    expect(told(versions)).toEqual({ ended: [], all: null, made: [] });
  });

  it('take what the stream left out from the version before, here or in the target, also across a move', () => {
    const versions = new Versions([0]);
    versions.update(undefined, ['1', 'a', undefined], at(1));
    versions.update(['1', undefined, undefined], ['2', undefined, undefined], at(2));
    versions.create(['3', 'x', 'long'], at(3));
    versions.update(['3', undefined, undefined], ['1', 'y', undefined], at(4));
    expect(told(versions)).toEqual({
      ended: ['1 1 u', '2 2 u', '3 3 c'],
      all: null,
      made: [
        ['u 1-2 u', ['1', 'a', undefined], '1'],
        ['u 2-', ['2', 'a', undefined], '1'],
        ['c 3-4 u', ['3', 'x', 'long'], null],
        ['u 4-', ['1', 'y', 'long'], null],
      ],
    });
  });

  it('end with a truncation; what comes behind it follows nothing', () => {
    const versions = new Versions([0]);
    versions.delete(['1', undefined], at(1));
    versions.create(['2', 'a'], at(2));
    versions.truncate(at(3));
    versions.truncate(at(4));
    versions.update(undefined, ['5', undefined], at(5));
    expect(told(versions)).toEqual({
      ended: ['1 1 d', '2 2 c'],
      all: 3,
      made: [
        ['c 2-3 t', ['2', 'a'], null],
        ['u 5-', ['5', undefined], null],
      ],
    });
  });
});
