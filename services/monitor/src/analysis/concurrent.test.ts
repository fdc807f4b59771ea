import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Database, Duck } from '@tributary/duckdb';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { appendEvents, openState, type ProcessEvent } from '../state.ts';
import { type CaseOrder, ordered } from './concurrent.ts';
import { KeptSteps } from './kept-steps.ts';
import { processMap } from './map.ts';
import { processVariants } from './variants.ts';

const MS = 1_000;
const SKEW = 250 * MS;
const ORDER: CaseOrder = { skewUs: SKEW, sources: ['shop', 'pay', 'ship'] };

interface Told {
  readonly source: string;
  readonly tick: number;
  readonly atUs: number;
  readonly activity: string;
}

const told = (source: string, ms: number, activity = ''): Told => ({ source, tick: ms * MS, atUs: ms * MS, activity });
const byTick = (events: readonly Told[]) => events.toSorted((a, b) => a.tick - b.tick || (a.source < b.source ? -1 : 1));

function randomly(seed: number): (below: number) => number {
  let state = seed;
  return (below) => (state = (state * 48_271) % 2_147_483_647) % below;
}

/** Events of three sources, many of them close by. */
function someEvents(random: (below: number) => number, n: number): Told[] {
  const ticks = new Map<string, number>();
  return byTick(
    Array.from({ length: n }, () => {
      const source = ORDER.sources[random(3)] as string;
      const atUs = random(n * 150) * MS;
      return { source, atUs, tick: atUs, activity: `${source}${random(3)}` };
    }),
  ).map((event) => {
    const tick = Math.max(event.tick, (ticks.get(event.source) ?? -1) + 1);
    ticks.set(event.source, tick);
    return { ...event, tick };
  });
}

/** The definition, word by word: what surely came before goes first, and of what could be next the first source. */
function plainly(events: readonly Told[]): Told[] {
  const before = (a: Told, b: Told) => (a.source === b.source ? a.tick < b.tick : a.tick + SKEW < b.tick);
  const left = new Set(events);
  const order: Told[] = [];
  while (left.size > 0) {
    const next = [...left].filter((event) => ![...left].some((other) => before(other, event)));
    const first = next.toSorted((a, b) => ORDER.sources.indexOf(a.source) - ORDER.sources.indexOf(b.source))[0] as Told;
    left.delete(first);
    order.push(first);
  }
  return order;
}

describe('events of two sources within the skew', () => {
  let folder: string;
  let database: Database;
  let duck: Duck;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-concurrent-'));
    database = await openState(join(folder, 'flow.duckdb'));
    duck = await database.connect();
  });
  afterAll(async () => {
    duck.close();
    database.close();
    await rm(folder, { recursive: true, force: true });
  });

  it('are told in the order of the sources, and everything else as it is known', () => {
    for (let seed = 1; seed <= 300; seed++) {
      const events = someEvents(randomly(seed * 7_919), 1 + (seed % 12));
      const placed = ordered(events, ORDER);
      expect(
        placed.map(({ tick, source }) => [tick, source]),
        `seed ${seed}`,
      ).toEqual(plainly(events).map(({ tick, source }) => [tick, source]));
    }
  });

  it('have times that rise with their order, at most the skew later than they were', () => {
    const placed = ordered([told('pay', 0), told('shop', 100), told('pay', 400), told('ship', 600)], ORDER);
    expect(placed.map(({ source, atUs, near }) => [source, atUs / MS, near])).toEqual([
      ['shop', 100, false],
      ['pay', 100, true],
      ['pay', 400, false],
      ['ship', 600, true],
    ]);
  });

  it('are in the tables as the definition has them, and kept from one question to the next as a recompute has them', async () => {
    const random = randomly(4_711);
    const cases = Array.from({ length: 40 }, (_, i): [string, Told[]] => {
      const own = someEvents(random, 1 + (i % 12));
      return [`o${i}`, own.map((one) => ({ ...one, atUs: one.atUs + i * 5_000 * MS }))];
    });
    const kept = new KeptSteps(duck, ORDER);
    // Most come at first; of a few cases the rest comes later, so few that not all are made anew.
    const rounds = 3;
    const roundOf = (i: number, nth: number) => (i % 8 < rounds - 1 && nth > 4 ? 1 + (i % 8) : 0);
    const all = cases.flatMap(([c, events], i) => events.map((event, nth) => ({ c, round: roundOf(i, nth), ...event })));
    const newest = new Map<string, number>();
    const places = new Map<string, number>();
    const known = new Map<string, Told[]>();
    for (let round = 0; round < rounds; round++) {
      const rows = all
        .filter((one) => one.round === round)
        .map(({ c, source, atUs, activity }): ProcessEvent => {
          const tick = Math.max(atUs, (newest.get(source) ?? 0) + 1);
          newest.set(source, tick);
          const ordinal = (places.get(source) ?? 0) + 1;
          places.set(source, ordinal);
          return { case: c, activity, atUs, tick, source, ordinal, object: source, key: c, ...NOTHING };
        });
      await appendEvents(duck, rows);
      await duck.run('DELETE FROM place');
      for (const [source, tick] of newest)
        await duck.run(`INSERT INTO place VALUES ('${source}', 1, '0/0', 0, NULL, 0, ${tick}, NULL)`);
      const asked = async (steps: KeptSteps) => ({
        map: await processMap(steps, {}),
        variants: await processVariants(steps, {}, 1_000),
      });
      const before = await asked(kept);
      expect(before, `round ${round}`).toEqual(await asked(new KeptSteps(duck, ORDER)));
      for (const { case: c, ...event } of rows) known.set(c ?? '', [...(known.get(c ?? '') ?? []), event]);
      const ways = [...known.values()].map((events) =>
        plainly(byTick(events))
          .map(({ activity }) => activity)
          .join(),
      );
      expect(before.variants.flatMap((one) => Array<string>(one.cases).fill(one.activities.join())).toSorted()).toEqual(
        ways.toSorted(),
      );
    }
  });

  it('make one way of a case whatever the clocks say, and are by their times where nobody said how far clocks may differ', async () => {
    await duck.run('DELETE FROM event');
    const at = (c: string, source: string, ms: number, activity: string): ProcessEvent => ({
      ...NOTHING,
      ...told(source, ms, activity),
      case: c,
      ordinal: ms,
      object: source,
      key: c,
    });
    await appendEvents(duck, [
      at('a', 'shop', 1_000, 'packed'),
      at('a', 'pay', 1_050, 'paid'),
      at('b', 'pay', 9_000, 'paid'),
      at('b', 'shop', 9_070, 'packed'),
    ]);
    const edges = async (order: CaseOrder | null) =>
      (await processMap(new KeptSteps(duck, order), {})).edges.map((edge) => ({
        step: `${edge.from} > ${edge.to}`,
        count: edge.count,
        concurrent: edge.concurrent,
        ms: edge.meanMs,
      }));
    expect(await edges(null)).toEqual([
      { step: 'packed > paid', count: 1, concurrent: undefined, ms: 50 },
      { step: 'paid > packed', count: 1, concurrent: undefined, ms: 70 },
    ]);
    expect(await edges(ORDER)).toEqual([{ step: 'packed > paid', count: 2, concurrent: 2, ms: 25 }]);
  });
});

const NOTHING = { lsn: 0n, part: 0, kind: 'state', before: null, after: null, attributes: null } as const;
