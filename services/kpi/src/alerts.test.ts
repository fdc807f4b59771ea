import { memoryBroker } from '@tributary/changelog';
import type { AlertExpression, HookConfig, KpiAlert, KpiConfig } from '@tributary/config';
import { systemClock } from '@tributary/core';
import type { Answer, Message } from '@tributary/projection';
import { describe, expect, it } from 'vitest';
import { evaluate } from './alert-sight.ts';
import type { Sight } from '@tributary/alerts';
import type { Group } from './alert-groups.ts';
import { KpiAlerts, type Seen } from './alerts.ts';

const hook = (name: string): HookConfig => ({
  name,
  target: {
    url: `http://${name}.example/`,
    secrets: ['a text of more than 24 bytes'],
    headers: {},
    timeoutMs: 1_000,
    concurrency: 1,
    batch: 1,
    retries: { attempts: 2, firstMs: 0, mostMs: 0 },
  },
});
const drop: KpiAlert = {
  name: 'drop',
  about: 'values',
  when: 'gmv(hour) < 1',
  condition: { kind: 'number', value: 1 },
  by: [],
  seenWithinMs: 1_000,
  forMs: 0,
  keepFiringMs: 0,
  noData: 'hold',
  stale: 'hold',
  renotifyMs: null,
  everyMs: 1_000,
  to: ['ops', 'boss'],
};
const kpi = (...alerts: KpiAlert[]) =>
  ({ name: 'sales', owner: 'bi@shop', staleAfterMs: 30_000, alerts }) as unknown as KpiConfig;

const sighting = (sight: Sight, group: Group = {}) => ({ group, sight, named: { 'gmv(hour)': 0.5 } });

/** Alerts that tell receivers which answer as `judge` says; every request is kept as `hook id state`. */
function world(judge: (hook: string, message: Message) => Answer | Promise<Answer> = () => ({ kind: 'taken' })) {
  const { positions } = memoryBroker().changelogs;
  const posted: string[] = [];
  const warned: string[] = [];
  const ended = new AbortController();
  let at = 1_000;
  const open = async (config: KpiConfig) => {
    const receiverOf = ({ name }: HookConfig) => ({
      post: async (message: Message) => {
        posted.push(`${name} ${message.id} ${(JSON.parse(message.body) as { state: string }).state}`);
        return judge(name, message);
      },
    });
    const options = { config, hooks: [hook('ops'), hook('boss')], positions, clock: systemClock, chance: () => 0, receiverOf };
    const alerts = new KpiAlerts({ ...options, warn: (_facts, message) => warned.push(message) });
    await alerts.open();
    const seeAll = (seen: Seen, name = 'drop') => alerts.take({ at: at++, freshness: null, alerts: new Map([[name, seen]]) });
    const see = (sight: Sight, name?: string) => seeAll({ sightings: [sighting(sight)], more: false }, name);
    /** Delivers until so many requests were made in all. */
    const deliver = async (requests: number) => {
      const stop = new AbortController();
      const delivering = alerts.deliver(AbortSignal.any([stop.signal, ended.signal]));
      while (posted.length < requests || alerts.lettersLeft > 0) await new Promise((resolve) => setImmediate(resolve));
      stop.abort(new Error('enough'));
      await delivering;
    };
    return { alerts, see, seeAll, deliver };
  };
  return { open, posted, warned, positions };
}

describe('alerts of a KPI', () => {
  it('tell every hook of the beginning and the end, once each', async () => {
    const { open, posted } = world();
    const { alerts, see, deliver } = await open(kpi(drop));
    for (const sight of ['unmet', 'met', 'met', 'unmet', 'unmet'] as const) await see(sight);
    await deliver(4);
    expect(posted.toSorted()).toEqual([
      'boss sales.drop.1001.1 firing',
      'boss sales.drop.1001.2 resolved',
      'ops sales.drop.1001.1 firing',
      'ops sales.drop.1001.2 resolved',
    ]);
    expect(alerts.facts()).toEqual([
      {
        alert: 'drop',
        state: 'resolved',
        problem: 'gmv(hour) < 1',
        cause: null,
        owner: 'bi@shop',
        raisedAt: 1_001,
        resolvedAt: 1_003,
        acknowledged: null,
      },
    ]);
  });

  it('go on where the worker before stood: nothing is told twice, and nothing is forgotten', async () => {
    const { open, posted } = world();
    const first = await open(kpi(drop));
    await first.see('met');
    // The first worker dies before a letter is sent; the next one sees the same.
    const second = await open(kpi(drop));
    await second.see('met');
    await second.deliver(2);
    const third = await open(kpi(drop));
    await third.see('met');
    expect(third.alerts.facts()).toMatchObject([
      { state: 'firing', raisedAt: 1_000, problem: 'gmv(hour) < 1 (gmv(hour) = 0.5)' },
    ]);
    await third.see('unmet');
    await third.deliver(4);
    expect(posted.toSorted()).toEqual([
      'boss sales.drop.1000.1 firing',
      'boss sales.drop.1000.2 resolved',
      'ops sales.drop.1000.1 firing',
      'ops sales.drop.1000.2 resolved',
    ]);
    await expect(first.see('unmet')).rejects.toMatchObject({ kind: 'fenced' });
  });

  it('repeat a letter only under its id', async () => {
    const { open, posted } = world((name) => (name === 'ops' ? new Promise<Answer>(() => {}) : { kind: 'taken' }));
    const first = await open(kpi({ ...drop, to: ['ops'] }));
    await first.see('met');
    const stop = new AbortController();
    void first.alerts.deliver(stop.signal);
    while (posted.length === 0) await new Promise((resolve) => setImmediate(resolve));
    stop.abort(new Error('killed while the receiver had it'));
    const second = await open(kpi({ ...drop, to: ['ops'] }));
    void second.alerts.deliver(new AbortController().signal);
    while (posted.length < 2) await new Promise((resolve) => setImmediate(resolve));
    expect(new Set(posted)).toEqual(new Set(['ops sales.drop.1000.1 firing']));
  });

  it('wait for a receiver that is away, give up a letter that is refused, and tell others meanwhile', async () => {
    let away = 3;
    const { open, posted, warned } = world((name) => {
      if (name === 'boss') return { kind: 'refused', reason: 'boss answered 400', retryAfterMs: null };
      return away-- > 0 ? { kind: 'away', reason: 'ops: ECONNREFUSED', retryAfterMs: null } : { kind: 'taken' };
    });
    const { see, deliver } = await open(kpi(drop));
    await see('met');
    await deliver(6);
    expect(posted.filter((one) => one.startsWith('ops')).length).toBe(4);
    expect(posted.filter((one) => one.startsWith('boss')).length).toBe(2);
    expect(warned.filter((one) => one.includes('given up')).length).toBe(1);
  });

  it('remind nobody once somebody has taken note, also after a restart', async () => {
    const { open, posted } = world();
    const reminding = kpi({ ...drop, to: ['ops'], renotifyMs: 1 });
    const first = await open(reminding);
    await first.see('met');
    await first.see('met');
    await first.alerts.acknowledge('drop', { by: 'night shift', at: 1_002 });
    const second = await open(reminding);
    await second.see('met');
    await second.see('met');
    expect(second.alerts.facts()).toMatchObject([{ state: 'firing', acknowledged: { by: 'night shift', at: 1_002 } }]);
    await second.see('unmet');
    await second.deliver(3);
    expect(posted.map((one) => one.split(' ')[2])).toEqual(['firing', 'reminder', 'resolved']);
    await expect(second.alerts.acknowledge('drop', { by: 'ops', at: 1 })).rejects.toMatchObject({ kind: 'not_found' });
  });

  it('are over when they are taken out of the definition', async () => {
    const { open } = world();
    await (await open(kpi(drop))).see('met');
    const { alerts, see } = await open(kpi({ ...drop, name: 'other' }));
    await see('unmet', 'other');
    expect(alerts.facts()).toMatchObject([{ alert: 'drop', state: 'resolved', resolvedAt: 1_001 }]);
  });

  it('divided by dimensions have a life for every value, which goes on after a restart, and is over with its rows', async () => {
    const { open, posted, warned } = world();
    const divided = kpi({ ...drop, by: ['country'], to: ['ops'], stale: 'alert' });
    const of = (...seen: [country: string | null, sight: Sight][]): Seen => ({
      sightings: seen.map(([country, sight]) => sighting(sight, { country })),
      more: true,
    });
    const first = await open(divided);
    await first.seeAll(of(['DE', 'unmet'], ['FR', 'met'], [null, 'unmet']));
    await first.seeAll(of(['DE', 'met'], ['FR', 'met'], [null, 'unmet']));
    const second = await open(divided);
    expect(second.alerts.facts().map(({ alert, raisedAt }) => [alert, raisedAt])).toEqual([
      ['drop{country=DE}', 1_001],
      ['drop{country=FR}', 1_000],
    ]);
    // Nothing can be seen: of each that is known, and of none that is not.
    await second.seeAll('stale');
    await second.seeAll(of(['DE', 'unmet'], [null, 'unmet']));
    expect(second.alerts.facts().map(({ alert, state, resolvedAt }) => [alert, state, resolvedAt])).toEqual([
      ['drop{country=FR}', 'resolved', 1_003],
      ['drop{country}', 'resolved', 1_003],
      ['drop{country=DE}', 'resolved', 1_003],
    ]);
    await second.deliver(5);
    expect(posted).toEqual([
      'ops sales.drop{country=FR}.1000.1 firing',
      'ops sales.drop{country=DE}.1001.1 firing',
      'ops sales.drop{country}.1002.1 firing',
      'ops sales.drop{country=DE}.1001.2 resolved',
      'ops sales.drop{country}.1002.2 resolved',
    ]);
    expect(warned).toEqual(
      Array.from({ length: 2 }, () => 'an alert has more values than it can watch: those with the most rows are watched'),
    );
  });
});

describe('a condition over values', () => {
  const value = (measure: string): AlertExpression => ({ kind: 'value', measure, grain: null, bucket: 'closed' });
  const values: Readonly<Record<string, number | null>> = { one: 1, two: 2, none: null };
  const of = (operator: string, left: string, right: string) =>
    evaluate(
      { kind: 'operation', operator, left: value(left), right: value(right) } as AlertExpression,
      (leaf) => values[leaf.measure] ?? null,
    );

  it('is unknown where a value is missing, unless the other side decides', () => {
    expect([of('<', 'one', 'two'), of('>', 'one', 'two'), of('<', 'one', 'none'), of('=', 'none', 'none')]).toEqual([
      1,
      0,
      null,
      null,
    ]);
    expect([of('/', 'one', 'two'), of('*', 'two', 'two'), of('+', 'one', 'none')]).toEqual([0.5, 4, null]);
    expect([of('and', 'none', 'one'), of('or', 'none', 'one'), of('or', 'none', 'none')]).toEqual([null, 1, null]);
    const zero: AlertExpression = { kind: 'number', value: 0 };
    const divided: AlertExpression = { kind: 'operation', operator: '/', left: value('one'), right: zero };
    expect(evaluate(divided, (leaf) => values[leaf.measure] ?? null)).toBeNull();
    expect(evaluate({ kind: 'operation', operator: 'and', left: value('none'), right: zero }, () => null)).toBe(0);
    expect(evaluate({ kind: 'not', of: value('none') }, () => null)).toBeNull();
  });
});
