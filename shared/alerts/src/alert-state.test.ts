import { describe, expect, it } from 'vitest';
import { ALL_WELL, type AlertRule, type AlertState, type Notice, type Sight, step } from './alert-state.ts';

const RULE: AlertRule = { forMs: 0, keepFiringMs: 0, noData: 'hold', stale: 'hold', renotifyMs: null };
const GAP_MS = 100;

/** What is shown of a step: phase, what was told, and since when the alert has been raised. */
type Row = readonly [at: number, sight: Sight, phase: AlertState['phase'], notice: Notice | null, raisedAt: number | null];

/** A rule and what becomes of its alert, look by look. */
const TRUTH: readonly (readonly [name: string, rule: Partial<AlertRule>, rows: readonly Row[]])[] = [
  [
    'fires at once, is told once, and is over at once',
    {},
    [
      [0, 'unmet', 'ok', null, null],
      [50, 'met', 'firing', 'firing', 50],
      [100, 'met', 'firing', null, 50],
      [150, 'unmet', 'ok', 'resolved', null],
      [200, 'unmet', 'ok', null, null],
      [250, 'met', 'firing', 'firing', 250],
    ],
  ],
  [
    'for: fires only when it held for long enough, and says since when',
    { forMs: 100 },
    [
      [0, 'met', 'pending', null, 0],
      [50, 'met', 'pending', null, 0],
      [100, 'met', 'firing', 'firing', 0],
    ],
  ],
  [
    'for: one look without it begins anew, and nobody is told',
    { forMs: 100 },
    [
      [0, 'met', 'pending', null, 0],
      [60, 'unmet', 'ok', null, null],
      [90, 'met', 'pending', null, 90],
      [150, 'met', 'pending', null, 90],
      [190, 'met', 'firing', 'firing', 90],
    ],
  ],
  [
    'for: time in which nobody looked counts for little',
    { forMs: 250 },
    [
      [0, 'met', 'pending', null, 0],
      [90, 'met', 'pending', null, 0],
      [5_000, 'met', 'pending', null, 0],
      [5_060, 'met', 'firing', 'firing', 0],
    ],
  ],
  [
    'keep_firing: flapping is one episode',
    { keepFiringMs: 100 },
    [
      [0, 'met', 'firing', 'firing', 0],
      [50, 'unmet', 'keep_firing', null, 0],
      [90, 'met', 'firing', null, 0],
      [120, 'unmet', 'keep_firing', null, 0],
      [180, 'unmet', 'keep_firing', null, 0],
      [220, 'unmet', 'ok', 'resolved', null],
    ],
  ],
  [
    'renotify: reminds while it fires, also while it is kept',
    { renotifyMs: 100, keepFiringMs: 1_000 },
    [
      [0, 'met', 'firing', 'firing', 0],
      [90, 'met', 'firing', null, 0],
      [100, 'met', 'firing', 'reminder', 0],
      [190, 'unmet', 'keep_firing', null, 0],
      [210, 'unmet', 'keep_firing', 'reminder', 0],
      [320, 'met', 'firing', 'reminder', 0],
    ],
  ],
  [
    'renotify: never while it is only pending',
    { renotifyMs: 10, forMs: 1_000 },
    [
      [0, 'met', 'pending', null, 0],
      [90, 'met', 'pending', null, 0],
    ],
  ],
  [
    'stale: hold leaves everything as it is',
    { forMs: 100 },
    [
      [0, 'stale', 'ok', null, null],
      [10, 'met', 'pending', null, 10],
      [60, 'met', 'pending', null, 10],
      [110, 'stale', 'pending', null, 10],
      [300, 'stale', 'pending', null, 10],
      [340, 'met', 'pending', null, 10],
      [360, 'met', 'firing', 'firing', 10],
      [400, 'stale', 'firing', null, 10],
      [500, 'unmet', 'ok', 'resolved', null],
    ],
  ],
  [
    'stale: hold reminds of what fires',
    { renotifyMs: 100 },
    [
      [0, 'met', 'firing', 'firing', 0],
      [110, 'stale', 'firing', 'reminder', 0],
    ],
  ],
  [
    'stale: hold does not bring keep_firing to its end',
    { keepFiringMs: 100 },
    [
      [0, 'met', 'firing', 'firing', 0],
      [50, 'unmet', 'keep_firing', null, 0],
      [150, 'stale', 'keep_firing', null, 0],
      [200, 'unmet', 'keep_firing', null, 0],
      [250, 'unmet', 'ok', 'resolved', null],
    ],
  ],
  [
    'stale: alert fires',
    { stale: 'alert' },
    [
      [0, 'stale', 'firing', 'firing', 0],
      [50, 'unmet', 'ok', 'resolved', null],
    ],
  ],
  [
    'no_data: hold changes nothing',
    {},
    [
      [0, 'no_data', 'ok', null, null],
      [10, 'met', 'firing', 'firing', 10],
      [50, 'no_data', 'firing', null, 10],
    ],
  ],
  [
    'no_data: alert is as if it held, after the same time',
    { noData: 'alert', forMs: 50 },
    [
      [0, 'no_data', 'pending', null, 0],
      [50, 'no_data', 'firing', 'firing', 0],
      [60, 'met', 'firing', null, 0],
      [90, 'unmet', 'ok', 'resolved', null],
    ],
  ],
  [
    'no_data: ok is as if it did not hold',
    { noData: 'ok' },
    [
      [0, 'met', 'firing', 'firing', 0],
      [50, 'no_data', 'ok', 'resolved', null],
    ],
  ],
];

function run(rule: AlertRule, looks: readonly (readonly [number, Sight])[]): { state: AlertState; rows: Row[] } {
  let state = ALL_WELL;
  const rows = looks.map(([at, sight]): Row => {
    const next = step(rule, state, { sight, at, gapMs: GAP_MS });
    state = next.state;
    return [at, sight, state.phase, next.notice, state.raisedAt];
  });
  return { state, rows };
}

describe('an alert, look by look', () => {
  it.each(TRUTH)('%s', (_name, rule, rows) => {
    const looks = rows.map(([at, sight]) => [at, sight] as const);
    expect(run({ ...RULE, ...rule }, looks).rows).toEqual(rows);
  });

  it('says why it is raised', () => {
    const rule: AlertRule = { ...RULE, noData: 'alert', stale: 'alert' };
    const cause = (...sights: Sight[]) =>
      run(
        rule,
        sights.map((sight, i) => [i * 10, sight] as const),
      ).state.cause;
    expect([cause('met'), cause('no_data'), cause('stale'), cause('met', 'no_data'), cause('met', 'unmet')]).toEqual([
      'condition',
      'no_data',
      'stale',
      'no_data',
      null,
    ]);
  });

  it('is told once more when there is more of it, and reminds nobody once somebody has taken note', () => {
    const rule: AlertRule = { ...RULE, renotifyMs: 100 };
    let state = ALL_WELL;
    const seen = (at: number, sight: Sight, news = false) => {
      const next = step(rule, state, { sight, at, gapMs: GAP_MS, news });
      state = next.state;
      return next.notice;
    };
    expect([seen(0, 'met', true), seen(50, 'met'), seen(60, 'met', true), seen(70, 'stale', true)]).toEqual([
      'firing',
      null,
      'firing',
      null,
    ]);
    expect(state).toMatchObject({ phase: 'firing', raisedAt: 0, notifiedAt: 60, told: 2 });
    state = { ...state, acknowledged: { by: 'ops', at: 80 } };
    expect([seen(200, 'met'), seen(300, 'stale')]).toEqual([null, null]);
    expect([seen(400, 'met', true), seen(500, 'met'), seen(510, 'unmet')]).toEqual(['firing', 'reminder', 'resolved']);
    expect(state).toEqual({ ...ALL_WELL, lookedAt: 510 });
  });

  it('tells firing and resolved in turns, whatever is seen', () => {
    const sights: readonly Sight[] = ['met', 'unmet', 'no_data', 'stale'];
    for (let seed = 0; seed < 500; seed++) {
      let dice = seed + 1;
      const pick = (n: number) => {
        dice = (dice * 48_271) % 2_147_483_647;
        return dice % n;
      };
      const rule: AlertRule = {
        forMs: pick(3) * 40,
        keepFiringMs: pick(3) * 40,
        noData: (['alert', 'ok', 'hold'] as const)[pick(3)] as 'ok',
        stale: (['hold', 'alert'] as const)[pick(2)] as 'hold',
        renotifyMs: pick(2) === 0 ? null : 30,
      };
      const { rows, state } = run(
        rule,
        Array.from({ length: 40 }, (_, i) => [i * 20, sights[pick(4)] as Sight] as const),
      );
      const told = rows.flatMap(([, , , notice]) => (notice === null || notice === 'reminder' ? [] : [notice]));
      expect(told, `seed ${seed}`).toEqual(told.map((_, i) => (i % 2 === 0 ? 'firing' : 'resolved')));
      expect(told.length % 2 === 1, `seed ${seed}`).toBe(state.phase === 'firing' || state.phase === 'keep_firing');
    }
  });
});
