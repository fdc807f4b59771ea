import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isoMicros } from '@tributary/core';
import type { Database, Duck } from '@tributary/duckdb';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { answerProcess, type ProcessQuestion } from '../answers.ts';
import { appendEvents, openState, type ProcessEvent } from '../state.ts';
import type { Bottleneck } from './bottlenecks.ts';
import type { ProcessCase } from './cases.ts';
import type { Drift } from './drift.ts';
import type { ProcessMap } from './map.ts';
import type { Spectrum } from './spectrum.ts';
import type { Timeline } from './timeline.ts';
import type { WorkInProgress } from './wip.ts';

const START = Date.parse('2026-03-01T00:00:00Z') * 1_000;
const SECOND = 1_000_000;
const CASES = 120;
/** Everything that happened before is known. */
const NOW = START + 1_930 * SECOND;
/** Behind it packing takes five times as long, and more orders are cancelled. */
const CHANGE = START + 1_000 * SECOND;

interface Told {
  readonly c: string;
  readonly activity: string;
  readonly us: number;
}

/** Orders that are placed, checked perhaps twice, packed and sent, or cancelled; the youngest are still on their way. */
function history(): Told[] {
  let state = 12_345;
  const random = () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
  const told: Told[] = [];
  for (let i = 0; i < CASES; i++) {
    let us = START + i * 16 * SECOND + Math.floor(random() * SECOND);
    const happens = (activity: string, seconds: number) => {
      us += Math.floor(seconds * SECOND * (0.5 + random()));
      if (us < NOW) told.push({ c: `o${i}`, activity, us });
    };
    const late = us >= CHANGE;
    happens('placed', 0);
    happens('checked', 4);
    if (random() < 0.3) happens('checked', 2);
    if (random() < (late ? 0.4 : 0.05)) {
      happens('cancelled', 3);
      continue;
    }
    happens('packed', late ? 100 : 20);
    happens('sent', 5);
  }
  return told.toSorted((a, b) => a.us - b.us);
}

function grouped<Row>(rows: readonly Row[], by: (row: Row) => string): Map<string, Row[]> {
  const groups = new Map<string, Row[]>();
  for (const row of rows) groups.set(by(row), [...(groups.get(by(row)) ?? []), row]);
  return groups;
}

describe('questions, beside a plain reckoning', () => {
  const told = history();
  const cases = grouped(told, ({ c }) => c);
  const closing = new Set(['cancelled', 'sent']);
  const open = [...cases.values()].filter((events) => !closing.has(events.at(-1)?.activity ?? ''));
  const steps = [...cases.values()].flatMap((events) => events.slice(1).map((to, i) => ({ from: events[i] as Told, to })));
  let folder: string;
  let database: Database;
  let duck: Duck;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-questions-'));
    database = await openState(join(folder, 'flow.duckdb'));
    duck = await database.connect();
    await appendEvents(
      duck,
      told.map(
        ({ c, activity, us }, i): ProcessEvent => ({
          case: c,
          activity,
          atUs: us,
          tick: us + i,
          source: 'shop',
          lsn: (1n << 32n) + BigInt(i),
          ordinal: 1,
          part: 0,
          object: activity === 'packed' ? 'parcel' : 'order',
          key: activity === 'packed' ? `p-${c}` : c,
          kind: activity === 'placed' ? 'created' : 'state',
          before: null,
          after: activity,
          attributes: null,
        }),
      ),
    );
    await duck.run(`INSERT INTO place VALUES ('shop', 1, '1/0', 0, NULL, ${NOW}, 0, NULL)`);
  });
  afterAll(async () => {
    duck?.close();
    database?.close();
    await rm(folder, { recursive: true, force: true });
  });
  const ask = async <Answer>(question: ProcessQuestion): Promise<Answer> => {
    for await (const part of answerProcess(duck, question, { name: 'flow', root: 'order' })) return part as Answer;
    throw new Error('no answer');
  };
  const median = (values: readonly number[]) => {
    const sorted = values.toSorted((a, b) => a - b);
    const middle = (sorted.length - 1) / 2;
    return ((sorted[Math.floor(middle)] as number) + (sorted[Math.ceil(middle)] as number)) / 2;
  };
  const p95 = (values: readonly number[]) => {
    const sorted = values.toSorted((a, b) => a - b);
    const at = 0.95 * (sorted.length - 1);
    const [low, high] = [sorted[Math.floor(at)] as number, sorted[Math.ceil(at)] as number];
    return low + (at - Math.floor(at)) * (high - low);
  };
  const closeTo = (values: readonly number[]) => values.map((one) => expect.closeTo(one, 2) as number);
  const waits = (list: typeof steps) => list.map(({ from, to }) => (to.us - from.us) / 1_000);

  it('knows which cases go on, where they stand and for how long', async () => {
    expect(open.length).toBeGreaterThan(2);
    const { cases: listed } = await ask<{ cases: ProcessCase[] }>({ what: 'cases', ended: false, sort: 'longest' });
    const expected = open.toSorted((a, b) => (a[0]?.us ?? 0) - (b[0]?.us ?? 0)).map((events) => events[0]?.c);
    expect(listed.map((one) => one.case)).toEqual(expected);
    for (const { case: c, open: goesOn, waitingMs, activity } of listed) {
      const last = cases.get(c)?.at(-1);
      expect([goesOn, waitingMs, activity]).toEqual([true, (NOW - (last?.us ?? 0)) / 1_000, last?.activity]);
    }
    const { cases: closed } = await ask<{ cases: ProcessCase[] }>({ what: 'cases', ended: true, limit: 1_000 });
    expect(closed).toHaveLength(CASES - open.length);
    const map = await ask<ProcessMap>({ what: 'map' });
    const waiting = grouped(open, (events) => events.at(-1)?.activity ?? '');
    expect(map.waiting).toEqual(Object.fromEntries([...waiting].map(([activity, list]) => [activity, list.length])));
  });

  it.each([
    { fromUs: START, toUs: NOW, period: {} },
    ...[500, 1_100, 1_400].map((at) => {
      const [fromUs, toUs] = [START + at * SECOND, START + (at + 200) * SECOND];
      return { fromUs, toUs, period: { from: isoMicros(fromUs), to: isoMicros(toUs) } };
    }),
  ])('counts ways by what happened: $period', async ({ fromUs, toUs, period }) => {
    const within = told.filter(({ us }) => us >= fromUs && us < toUs);
    const ways = [...grouped(within, ({ c }) => c).values()].map((events) => events.map(({ activity }) => activity).join());
    expect((await ask<ProcessMap>({ what: 'map', ...period })).variants).toBe(new Set(ways).size);
  });

  it('does not say for how long a case has stood where a source lags behind it', async () => {
    const came = open.map((events) => events.at(-1)?.us ?? 0).toSorted((a, b) => a - b);
    const [first = 0, second = 0] = came;
    try {
      for (const [mark, known] of [
        [second, [(second - first) / 1_000, 0]],
        [first - 1, []],
      ] as const) {
        await duck.run(`UPDATE place SET watermark = ${mark}`);
        const { cases: listed } = await ask<{ cases: ProcessCase[] }>({ what: 'cases', ended: false, sort: 'waiting' });
        expect(listed.map(({ waitingMs }) => waitingMs)).toEqual(came.map((_, i) => known[i] ?? null));
        const { activities } = await ask<{ activities: Bottleneck[] }>({ what: 'bottlenecks' });
        const stand = activities.filter(({ waiting }) => waiting.cases > 0);
        expect(stand.map(({ waiting }) => waiting.longestMs)).toEqual([known[0] ?? null]);
      }
    } finally {
      await duck.run(`UPDATE place SET watermark = ${NOW}`);
    }
  });

  it('finds where time passes, before, after and now; and rework', async () => {
    const { activities } = await ask<{ activities: Bottleneck[] }>({ what: 'bottlenecks' });
    expect(activities[0]?.activity).toBe('checked');
    const total =
      waits(steps).reduce((a, b) => a + b, 0) + open.reduce((sum, events) => sum + (NOW - (events.at(-1)?.us ?? 0)) / 1_000, 0);
    expect(activities.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 9);
    for (const { activity, share, before, after, waiting, rework } of activities) {
      const stand = open
        .filter((events) => events.at(-1)?.activity === activity)
        .map((events) => (NOW - (events.at(-1)?.us ?? 0)) / 1_000);
      const out = waits(steps.filter(({ from }) => from.activity === activity));
      const into = waits(steps.filter(({ to }) => to.activity === activity));
      const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
      expect(share).toBeCloseTo((sum(out) + sum(stand)) / total, 9);
      expect(after?.count ?? 0).toBe(out.length);
      if (after) expect([after.medianMs, after.p95Ms, after.totalMs]).toEqual(closeTo([median(out), p95(out), sum(out)]));
      expect(before?.count ?? 0).toBe(into.length);
      if (before) expect([before.medianMs, before.p95Ms, before.totalMs]).toEqual(closeTo([median(into), p95(into), sum(into)]));
      expect(waiting.cases).toBe(stand.length);
      expect(waiting.longestMs).toBe(stand.length === 0 ? null : Math.max(...stand));
      const repeats = [...cases.values()]
        .map((events) => events.filter((one) => one.activity === activity).length - 1)
        .filter((n) => n > 0);
      expect(rework).toEqual({ cases: repeats.length, repeats: sum(repeats) });
    }
  });

  it('counts what stands where, at every moment', async () => {
    const wip = await ask<WorkInProgress>({ what: 'wip', buckets: 50 });
    expect(wip.times).toHaveLength(51);
    expect(wip.activities.map(({ activity }) => activity).toSorted()).toEqual(['checked', 'packed', 'placed']);
    wip.times.forEach((time, i) => {
      const at = Date.parse(time) * 1_000 + Number(time.slice(23, 26));
      for (const { activity, cases: counted } of wip.activities) {
        const standing = [...cases.values()].filter((events) => events.findLast(({ us }) => us <= at)?.activity === activity);
        expect(counted[i], `${activity} at ${time}`).toBe(standing.length);
      }
    });
    expect((await ask<{ text: string }>({ what: 'wip', format: 'svg' })).text).toContain('packed: ');
  });

  it('shows one by one how long a step took', async () => {
    const spectrum = await ask<Spectrum>({ what: 'spectrum', segment: 'checked > packed', limit: 30 });
    const all = steps
      .filter(({ from, to }) => from.activity === 'checked' && to.activity === 'packed')
      .toSorted((a, b) => a.to.us - b.to.us);
    expect(spectrum.total).toBe(all.length);
    expect(spectrum.quartilesMs[1]).toBeCloseTo(median(waits(all)), 3);
    expect(spectrum.steps.map(({ ms }) => ms)).toEqual(waits(all.slice(-30)));
    for (const { ms, quarter } of spectrum.steps) expect(quarter).toBe(spectrum.quartilesMs.filter((one) => ms > one).length);
    expect((await ask<{ text: string }>({ what: 'spectrum', segment: 'checked>packed', format: 'svg' })).text).toContain(
      'class="q3"',
    );
    await expect(ask({ what: 'spectrum', segment: 'checked>nowhere' })).rejects.toThrow('a segment is two activities');
  });

  it('sees that the pace and the ways changed when they did, and not before', async () => {
    const to = new Date(NOW / 1_000).toISOString();
    const drift = await ask<Drift>({ what: 'drift', to, window: '930s', against: '1000s', alpha: 0.001 });
    expect(drift.edges.drifted).toBe(true);
    expect(drift.durations.filter(({ drifted }) => drifted).map((one) => [one.from, one.to])).toEqual([['checked', 'packed']]);
    const [packed] = drift.durations;
    const side = (late: boolean) =>
      waits(
        steps.filter((one) => one.from.activity === 'checked' && one.to.activity === 'packed' && one.to.us >= CHANGE === late),
      );
    const share = (values: readonly number[], x: number) => values.filter((one) => one <= x).length / values.length;
    const [before, now] = [side(false), side(true)];
    const d = Math.max(...[...before, ...now].map((x) => Math.abs(share(before, x) - share(now, x))));
    expect(packed?.d).toBeCloseTo(d, 9);
    expect([packed?.before.count, packed?.now.count]).toEqual([before.length, now.length]);
    const calm = await ask<Drift>({ what: 'drift', to: new Date(CHANGE / 1_000).toISOString(), window: '500s', against: '500s' });
    expect([calm.edges.drifted, calm.durations.some(({ drifted }) => drifted)]).toEqual([false, false]);
  });

  it('tells the whole way of one object, with places in the source', async () => {
    const [c, events] = [...cases].find(([, list]) => list.at(-1)?.activity === 'sent') as [string, Told[]];
    const whole = await ask<Timeline>({ what: 'timeline', object: 'order', key: c });
    expect(whole.events.map(({ activity }) => activity)).toEqual(events.map(({ activity }) => activity));
    expect(whole.events[0]).toMatchObject({
      kind: 'created',
      source: 'shop',
      lsn: expect.stringMatching(/^1\/[0-9A-F]+$/),
      ordinal: 1,
    });
    const parcel = await ask<Timeline>({ what: 'timeline', object: 'parcel', key: `p-${c}` });
    expect(parcel.events.map(({ activity }) => activity)).toEqual(['packed']);
    await expect(ask({ what: 'timeline', object: 'order', key: 'none' })).rejects.toThrow('there is no order of this key');
  });
});
