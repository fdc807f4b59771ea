import { describe, expect, it } from 'vitest';
import { formatLsn, parseLsn } from './lsn.ts';
import {
  compareSourcePosition,
  formatSourcePosition,
  ORIGIN,
  parseSourcePosition,
  READ_ORDINAL_MIN,
  type SourcePosition,
} from './position.ts';

describe('LSN', () => {
  it.each(['0/0', '16/B374D848', 'FFFFFFFF/FFFFFFFF', '0/1'])('%s survives reading and writing', (text) => {
    expect(formatLsn(parseLsn(text))).toBe(text);
  });
  it.each(['', '16', '16/', '/B3', 'G/0', '123456789/0', '1/2/3'])('%j is refused', (text) => {
    expect(() => parseLsn(text)).toThrow(RangeError);
  });
});

describe('source position', () => {
  it('orders heartbeat, changes, snapshot messages and the next transaction', () => {
    const rising: SourcePosition[] = [
      ORIGIN,
      { lsn: 5n, ordinal: 0 },
      { lsn: 5n, ordinal: 1 },
      { lsn: 5n, ordinal: 2 },
      { lsn: 5n, ordinal: READ_ORDINAL_MIN + 1 },
      { lsn: 6n, ordinal: 0 },
    ];
    for (let i = 0; i < rising.length; i++) {
      for (let j = 0; j < rising.length; j++) {
        expect(Math.sign(compareSourcePosition(rising[i] as SourcePosition, rising[j] as SourcePosition))).toBe(Math.sign(i - j));
      }
    }
  });
  it('is written and read as LSN+ORDINAL', () => {
    expect(formatSourcePosition({ lsn: parseLsn('16/B374D848'), ordinal: 3 })).toBe('16/B374D848+3');
    expect(parseSourcePosition('16/B374D848+3')).toEqual({ lsn: parseLsn('16/B374D848'), ordinal: 3 });
    expect(parseSourcePosition('16/B374D848')).toEqual({ lsn: parseLsn('16/B374D848'), ordinal: 0 });
    expect(() => parseSourcePosition('16/B374D848+x')).toThrow(RangeError);
  });
});
