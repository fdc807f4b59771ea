import { describe, expect, it } from 'vitest';
import { Vitals } from './vitals.ts';

function world() {
  let now = 0;
  const clock = { now: () => now, monotonic: () => now, sleep: () => Promise.reject(new Error('nobody sleeps here')) };
  const vitals = new Vitals(1_000, clock);
  const at = (ms: number) => {
    now = ms;
    return vitals;
  };
  return at;
}

describe('vitals of a source', () => {
  it('grow old while nothing is confirmed, whatever instance asks', () => {
    const at = world();
    expect(at(5).facts(null)).toMatchObject({ confirmAgeMs: null, lagMs: null });
    at(1_000).confirmed(10n);
    at(50_000).confirmed(10n);
    expect(at(61_000).facts(null)).toMatchObject({ confirmAgeMs: 60_000 });
    at(62_000).confirmed(11n);
    expect(at(62_000).facts(null)).toMatchObject({ confirmAgeMs: 0 });
  });

  it('show how late a commit came while the changelog moves, and its age once it stands still', () => {
    const at = world();
    const micros = (ms: number) => ms * 1_000;
    at(100_000).complete(micros(100_000));
    expect(at(101_000).facts(7)).toMatchObject({ lagMs: 7 });
    expect(at(400_000).facts(7)).toMatchObject({ lagMs: 300_000 });
    at(400_000).complete(micros(399_900));
    expect(at(400_000).facts(9)).toMatchObject({ lagMs: 9 });
  });
});
