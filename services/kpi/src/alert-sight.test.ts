import type { AlertExpression, Grain } from '@tributary/config';
import { Database, type Duck } from '@tributary/duckdb';
import { tmpdir } from 'node:os';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { look } from './alert-sight.ts';
import type { Compiled } from './definition.ts';

describe('what a condition looks at', () => {
  let database: Database;
  let duck: Duck;
  beforeAll(async () => {
    database = await Database.open({ path: ':memory:', memoryBytes: 2 ** 27, threads: 1, spillDir: tmpdir() });
    duck = await database.connect();
  });
  afterAll(() => {
    duck.close();
    database.close();
  });

  /** Buckets that are read for one leaf, when everything up to a time is there. */
  const read = async (leaf: AlertExpression, completeTo: string): Promise<string[]> => {
    const buckets: string[] = [];
    const compiled = { calendar: { zone: 'Europe/Berlin', weekStart: 'monday' } } as Compiled;
    const condition: AlertExpression = { kind: 'operation', operator: '<', left: leaf, right: { kind: 'number', value: 3 } };
    const [seen] = await look(
      { condition },
      {
        duck,
        compiled,
        completeTo: Date.parse(completeTo) * 1_000,
        groups: [{}],
        read: async (_measure, grain, bucket) => {
          const nth = buckets.push(`${grain} ${bucket}`);
          // The mean of what is there: 1, 3, 5, … with every other one missing.
          return () => (nth % 2 === 1 ? nth : null);
        },
      },
    );
    const { sight, named = {} } = seen ?? {};
    expect(sight).toBe(Object.values(named)[0] === 1 || Object.values(named)[0] === 2 ? 'met' : 'unmet');
    return buckets;
  };
  const value = (grain: Grain | null, bucket: 'closed' | 'open' = 'closed'): AlertExpression => ({
    kind: 'value',
    measure: 'm',
    grain,
    bucket,
  });

  it('is the newest bucket that is closed, in the zone of the KPI', async () => {
    // Clocks are set back at 01:00Z: the day before this one had 25 hours.
    const at = '2026-10-26T09:30:00Z';
    expect(await read(value('hour'), at)).toEqual(['hour 2026-10-26T08:00:00.000Z']);
    expect(await read(value('hour', 'open'), at)).toEqual(['hour 2026-10-26T09:00:00.000Z']);
    expect(await read(value('day'), at)).toEqual(['day 2026-10-24T22:00:00.000Z']);
    expect(await read(value('month'), at)).toEqual(['month 2026-08-31T22:00:00.000Z']);
    expect(await read(value(null), at)).toEqual(['null null']);
  });

  it('compares with the same time of earlier weeks and days, and with buckets before', async () => {
    const at = '2026-10-26T09:30:00Z';
    const baseline = (grain: Grain, of: 'same_weekday' | 'same_time' | 'previous', count: number): AlertExpression => ({
      kind: 'baseline',
      measure: 'm',
      grain,
      of,
      count,
    });
    // 09:00 in Berlin, before and after the clocks were set back.
    expect(await read(baseline('hour', 'same_weekday', 2), at)).toEqual([
      'hour 2026-10-19T07:00:00.000Z',
      'hour 2026-10-12T07:00:00.000Z',
    ]);
    expect(await read(baseline('hour', 'same_time', 2), at)).toEqual([
      'hour 2026-10-25T08:00:00.000Z',
      'hour 2026-10-24T07:00:00.000Z',
    ]);
    expect(await read(baseline('day', 'previous', 3), at)).toEqual([
      'day 2026-10-23T22:00:00.000Z',
      'day 2026-10-22T22:00:00.000Z',
      'day 2026-10-21T22:00:00.000Z',
    ]);
  });
});
