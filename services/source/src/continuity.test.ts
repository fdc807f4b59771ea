import type { LastBatch } from '@tributary/changelog';
import { describe, expect, it } from 'vitest';
import { branchOf, continuity, walOf } from './continuity.ts';

const BRANCH = 1n << 48n;

/** The last batch of a changelog: a commit at 1000 that ends at 1040. */
function last(patch: Partial<LastBatch['header']> = {}): LastBatch {
  const header = {
    source: 's',
    epoch: 'e',
    kind: 'stream',
    follows: { lsn: 900n, ordinal: 1 },
    position: { lsn: 1000n, ordinal: 3 },
    restart: 1040n,
    watermark: 77,
    continues: false,
    more: false,
    transactions: [],
    mark: null,
    state: null,
    stateSeq: 0,
    ...patch,
  } as const;
  return { seq: 9, header, state: null, statePosition: null };
}

const slot = (confirmed: bigint, created = false) => ({ name: 'tributary_s', confirmed, created });

describe('does the database go on where the changelog ends?', () => {
  it('begins anew where there is nothing', () => {
    expect(continuity(null, slot(500n, true), 600n)).toEqual({ kind: 'fresh', from: 500n });
  });

  it('goes on, and asks for the last transaction once more where PostgreSQL still has it', () => {
    expect(continuity(last(), slot(800n), 2000n)).toEqual({
      kind: 'follows',
      from: 1000n,
      anchor: { commit: 1000n, committedBy: 77 },
    });
    expect(continuity(last({ more: true }), slot(1000n), 2000n)).toMatchObject({ anchor: { committedBy: null } });
  });

  it('goes on without asking where the slot is confirmed up to the end', () => {
    expect(continuity(last(), slot(1040n), 1040n)).toEqual({ kind: 'follows', from: 1040n, anchor: null });
  });

  it('goes on behind a gap that was told of, when nothing was streamed since', () => {
    const told = last({ position: { lsn: 1039n, ordinal: 2 ** 32 } });
    expect(continuity(told, slot(700n), 1040n)).toMatchObject({ kind: 'follows', from: 1040n, anchor: null });
  });

  it.each([
    ['a changelog that was lost', null, slot(500n), 600n, 500n, 499n],
    ['a slot that was lost', last(), slot(1500n, true), 1600n, 1500n, 1499n],
    ['a changelog that lost its end', last(), slot(1500n), 1600n, 1500n, 1499n],
    ['a database that was set back', last(), slot(600n), 700n, 700n, BRANCH + 699n],
    ['a database that was set back, without its slot', last(), slot(650n, true), 700n, 700n, BRANCH + 699n],
    ['a slot that stands where no batch ended', last(), slot(1020n), 2000n, 2000n, 1999n],
  ])('tells a gap: %s', (_name, end, at, walEnd, from, place) => {
    expect(continuity(end, at, walEnd)).toMatchObject({ kind: 'gap', from, place });
  });

  it('counts every time a database was set back, and places rise all the same', () => {
    const again = last({ position: { lsn: BRANCH + 1000n, ordinal: 1 } });
    expect(continuity(again, slot(600n), 700n)).toMatchObject({ kind: 'gap', from: 700n, place: 2n * BRANCH + 699n });
    expect(continuity(again, slot(800n), 1100n)).toMatchObject({ kind: 'follows', from: 1000n });
    expect([walOf(2n * BRANCH + 5n), branchOf(2n * BRANCH + 5n)]).toEqual([5n, 2n * BRANCH]);
  });
});
