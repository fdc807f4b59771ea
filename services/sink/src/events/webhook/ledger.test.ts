import { ORIGIN } from '@tributary/core';
import { describe, expect, it } from 'vitest';
import { behind, type EventPlace, sequenceOf } from '../place.ts';
import { Ledger } from './ledger.ts';

const place = (n: number): EventPlace => ({ lsn: BigInt(n), ordinal: 1, row: 0, part: 0 });
const at = (n: number) => ({ seq: n, lsn: BigInt(n), ordinal: 1 });
const start = { resume: ORIGIN, done: behind(ORIGIN), missing: new Set<string>() };

describe('a ledger', () => {
  it('says what is settled beyond an open event, and where that one can be made again', () => {
    const ledger = new Ledger(start);
    const [one, two, three] = [1, 2, 3].map((n) => ledger.take(place(n), at(n - 1)));
    if (!one || !two || !three) throw new Error('three were taken');
    const end = ledger.end(at(3));
    ledger.settle(one);
    ledger.settle(three);
    expect(ledger.standing()).toEqual({ resume: at(1), done: behind(at(3)), missing: new Set([sequenceOf(place(2))]) });
    expect(ledger.closed(end)).toBe(false);
    ledger.settle(two);
    expect(ledger.closed(end)).toBe(true);
    expect(ledger.standing()).toEqual({ resume: at(3), done: behind(at(3)), missing: new Set() });
  });

  it('keeps what was missing when it was opened, until it has come again or cannot come any more', () => {
    const missing = new Set([sequenceOf(place(2)), sequenceOf(place(3))]);
    const ledger = new Ledger({ resume: at(1), done: behind(at(5)), missing });
    expect(ledger.standing()).toEqual({ resume: at(1), done: behind(at(5)), missing });
    const two = ledger.take(place(2), at(1));
    expect(ledger.standing().missing).toEqual(missing);
    ledger.settle(two);
    expect(ledger.standing()).toEqual({ resume: at(1), done: behind(at(5)), missing: new Set([sequenceOf(place(3))]) });
    ledger.end(at(5));
    expect(ledger.standing()).toEqual({ resume: at(5), done: behind(at(5)), missing: new Set() });
  });

  it('never moves back', () => {
    const ledger = new Ledger({ resume: at(1), done: behind(at(5)), missing: new Set() });
    ledger.settle(ledger.take(place(4), at(3)));
    expect(ledger.standing().done).toEqual(behind(at(5)));
  });
});
