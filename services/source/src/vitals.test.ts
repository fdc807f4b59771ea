import { describe, expect, it } from 'vitest';
import { Vitals } from './vitals.ts';

const HEARTBEAT_MS = 1_000;
const micros = (ms: number) => ms * 1_000;

describe('vitals of a source', () => {
  it('grow old while nothing is confirmed, whatever instance asks', () => {
    const vitals = new Vitals(HEARTBEAT_MS);
    expect(vitals.facts(null, 5)).toMatchObject({ confirmAgeMs: null, lagMs: null });
    vitals.confirmed(10n, 1_000);
    vitals.confirmed(10n, 50_000);
    expect(vitals.facts(null, 61_000)).toMatchObject({ confirmAgeMs: 60_000 });
    vitals.confirmed(11n, 62_000);
    expect(vitals.facts(null, 62_000)).toMatchObject({ confirmAgeMs: 0 });
  });

  it('show how late a commit came while the changelog moves, and its age once it stands still', () => {
    const vitals = new Vitals(HEARTBEAT_MS);
    vitals.complete(micros(100_000));
    expect(vitals.facts(7, 101_000)).toMatchObject({ lagMs: 7 });
    expect(vitals.facts(7, 400_000)).toMatchObject({ lagMs: 300_000 });
    vitals.complete(micros(399_900));
    expect(vitals.facts(9, 400_000)).toMatchObject({ lagMs: 9 });
  });
});
