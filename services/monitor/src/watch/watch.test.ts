import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { configReading, type ProcessConfig } from '@tributary/config';
import { isoMicros } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ProcessStore } from '../live/store.ts';
import { appendEvents, appendObjects, type EventKind, type ProcessEvent, type ProcessObject } from '../state.ts';
import type { Finding, Found } from './finding.ts';
import { missingEvents } from './missing.ts';
import { sightOf } from './sight.ts';
import { silentChanges } from './silent.ts';
import { stuckObjects } from './stuck.ts';
import { processProblems } from './problems.ts';
import { Usual } from './usual.ts';
import { whatIf } from './what-if.ts';

const { configOf } = await configReading();

const HOUR = 3_600_000_000;
const START = 500_000 * HOUR;
const ORDERS = 400;
const END = START + (ORDERS / 6 + 200) * HOUR;
/** Orders with a planted fault. */
const PLANTED = { unpacked: [50, 57], lost: [60, 70], backwards: [370, 378], deleted: [120, 124], met: [130, 133] } as const;
const isPlanted = (fault: keyof typeof PLANTED, i: number) => i >= PLANTED[fault][0] && i < PLANTED[fault][1];
const keys = (...faults: (keyof typeof PLANTED)[]) =>
  faults.flatMap((fault) =>
    Array.from({ length: PLANTED[fault][1] - PLANTED[fault][0] }, (_, i) => String(PLANTED[fault][0] + i)),
  );

const CONFIG = `${['shop', 'ship'].map((name) => `kind: Source\nname: ${name}\npostgres: postgres://a@b/c\n---\n`).join('')}kind: Process
name: flow
root: order
objects:
  order: { table: shop.orders, key: id, state: status }
  parcel: { table: ship.parcels, key: id, state: status, of: { order: order_id } }
done: any(parcel.status = 'delivered') and order.status = 'done'
stuck: { min_cases: 100 }
`;

interface Told {
  readonly object: 'order' | 'parcel';
  readonly key: string;
  readonly kind: EventKind;
  readonly us: number;
  readonly before: string | null;
  readonly after: string | null;
}

/** What two databases tell of one order. Some are cancelled, which is usual. */
function toldOf(i: number): Told[] {
  const from = START + i * (HOUR / 6);
  const told: Told[] = [];
  const states = { order: null as string | null, parcel: null as string | null };
  /** Times vary by a tenth, order by order. */
  const happens = (hours: number, object: Told['object'], after: string | null, kind: EventKind = 'state') => {
    const us = Math.round(from + hours * HOUR * (0.9 + ((i * 7_919) % 100) / 500));
    told.push({ object, key: String(i), kind, us, before: states[object], after });
    states[object] = after;
  };
  happens(0, 'order', 'new', 'created');
  if (i % 40 === 7) {
    happens(0.5, 'order', 'cancelled');
    return told;
  }
  happens(1, 'order', 'paid');
  // Where every update is an event, one may change nothing.
  if (i % 9 === 0 && !isPlanted('unpacked', i) && !isPlanted('deleted', i)) happens(1.2, 'order', 'paid');
  if (isPlanted('backwards', i)) {
    happens(1.5, 'order', 'new');
    happens(2, 'order', 'paid');
  }
  if (isPlanted('deleted', i)) happens(3, 'order', null, 'deleted');
  if (isPlanted('unpacked', i) || isPlanted('deleted', i) || isPlanted('met', i)) return told;
  happens(10, 'parcel', 'packed', 'created');
  happens(20, 'parcel', 'handed_over');
  if (isPlanted('lost', i)) return told;
  happens(40, 'parcel', 'delivered');
  happens(41, 'order', 'done');
  return told;
}

/** All events and objects of all orders. */
async function fill(duck: Duck): Promise<void> {
  const told = Array.from({ length: ORDERS }, (_, i) => toldOf(i))
    .flat()
    .toSorted((a, b) => a.us - b.us);
  const rest = { parents: null, attributes: null, reached: null };
  const objects = new Map<string, ProcessObject>();
  const events = told.map(({ object, key, kind, us, before, after }, i): ProcessEvent => {
    const source = object === 'order' ? 'shop' : 'ship';
    const life = { born: true, alive: kind !== 'deleted', named: 0 };
    objects.set(`${object} ${key}`, { object, key, source, state: after, case: key, ...life, ...rest });
    const activity = `${object} ${kind === 'state' ? after : kind}`;
    const place = { tick: us + i, source, lsn: BigInt(i), ordinal: 1, part: 0 };
    return { case: key, activity, atUs: us, ...place, object, key, kind, before, after, attributes: null };
  });
  // Their parcels were there before anybody looked.
  for (const key of keys('met')) {
    const life = { born: false, alive: true, named: 1 };
    objects.set(`parcel ${key}`, { object: 'parcel', key, source: 'ship', state: 'packed', case: key, ...life, ...rest });
  }
  await appendEvents(duck, events);
  await appendObjects(duck, [...objects.values()]);
}

describe('what is usual is learned, and what is not is found', () => {
  let folder: string;
  let store: ProcessStore;

  /** A process whose changelogs were read up to `mark`. */
  async function opened(name: string, more: string, mark = END): Promise<ProcessStore> {
    const text = `${CONFIG.replace('name: flow', `name: ${name}`)}${more}`;
    const [process] = configOf([{ name: 'a.yaml', text }], { env: {} }).processes;
    if (!process) throw new Error('there is no process');
    const own = await ProcessStore.open({ dataDir: folder, process, heldBytes: 2 ** 20, warn: () => {} });
    await own.transaction(async (duck) => {
      await fill(duck);
      for (const source of ['shop', 'ship'])
        await duck.run(`INSERT INTO place VALUES ('${source}', 1, '1/0', 0, NULL, ${mark}, 0, NULL)`);
      await own.verdicts.judgeAll(duck);
    });
    return own;
  }

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'tributary-watch-'));
    store = await opened('flow', '');
  });
  afterAll(async () => {
    store?.close();
    await rm(folder, { recursive: true, force: true });
  });

  /** @param marks how far sources were read, where that is not to the end */
  async function found(look: typeof stuckObjects, marks: Readonly<Record<string, number>> = {}, change = ''): Promise<Found> {
    const duck = store.writer;
    await duck.run('BEGIN');
    try {
      for (const [source, mark] of Object.entries(marks))
        await duck.run(`UPDATE place SET watermark = ${mark} WHERE source = '${source}'`);
      if (change !== '') await duck.run(change);
      return await look(duck, store.process, await sightOf(duck, store.process, END));
    } finally {
      await duck.run('ROLLBACK');
    }
  }
  const byRule = (findings: readonly Finding[]) =>
    Object.fromEntries(
      [...new Set(findings.map(({ rule }) => rule))]
        .toSorted()
        .map((rule) => [
          rule,
          findings.flatMap((one) => (one.rule === rule ? [one.case] : [])).toSorted((a, b) => Number(a) - Number(b)),
        ]),
    );

  it('objects that stay in a state for longer than others did, and none whose state is an end', async () => {
    const { findings, unknown } = await found(stuckObjects);
    expect(byRule(findings)).toEqual({
      'stuck.order.paid': keys('unpacked', 'lost', 'met'),
      'stuck.parcel.handed_over': keys('lost'),
    });
    expect(unknown).toEqual([]);
    const last = findings.find(({ rule, case: key }) => rule === 'stuck.parcel.handed_over' && key === '69');
    expect(last).toMatchObject({
      case: '69',
      event: { object: 'parcel', key: '69', before: 'packed', after: 'handed_over', source: 'ship' },
    });
    expect(last?.reason).toMatch(/^parcel 69 is still handed_over: 99\.5 % of stays are over after 2\d h$/);
    // The deadline is what was learned: nobody left later than nearly all, and it lies behind every usual stay.
    expect((last?.atUs ?? 0) - (START + 69 * (HOUR / 6))).toBeGreaterThan(38 * HOUR);
  });

  it('activities that usually follow, of a chain the first that is missing, and not of cancelled orders', async () => {
    const { findings, unknown } = await found(missingEvents);
    expect(byRule(findings)).toEqual({ 'missing.parcel created': keys('unpacked'), 'missing.parcel delivered': keys('lost') });
    expect(unknown).toEqual([]);
    const last = findings.find(({ rule, case: key }) => rule === 'missing.parcel created' && key === '56');
    expect(last).toMatchObject({ case: '56', event: { activity: 'order paid' } });
    expect(last?.reason).toMatch(
      /^no "parcel created" after "order paid": 9[5-9]\.?\d* % of cases have it, 99\.5 % of them within \d+(\.\d)? h$/,
    );
  });

  it('states that move backwards, and rows that are deleted', async () => {
    const findings = await silentChanges(store.writer, store.process);
    expect(byRule(findings)).toEqual({ 'silent.order.deleted': keys('deleted'), 'silent.order.paid>new': keys('backwards') });
  });

  it('not before the source that could tell otherwise was read: it is unknown', async () => {
    const early = START + 60 * (HOUR / 6) + 30 * HOUR;
    const stuck = await found(stuckObjects, { ship: early });
    expect(byRule(stuck.findings)).toEqual({ 'stuck.order.paid': keys('unpacked', 'lost', 'met') });
    expect(byRule(stuck.unknown)).toEqual({ 'stuck.parcel.handed_over': keys('lost') });
    expect(stuck.unknown[0]?.reason).toBe(`source ship lags ${Math.round((END - early) / 1e6)} s`);
    // Nothing is learned of times that were not seen to pass, and nothing is missing.
    expect((await found(missingEvents, { ship: 0 })).findings).toEqual([]);
    const missing = await found(
      missingEvents,
      { ship: START + 120 * HOUR - 1 },
      `DELETE FROM event WHERE at_us >= ${START + 120 * HOUR} AND source = 'ship'`,
    );
    expect(byRule(missing.findings)).toEqual({
      'missing.parcel created': keys('unpacked'),
      'missing.parcel delivered': keys('lost'),
    });
  });

  it('not while the table is read again: what was lost is found at its end', async () => {
    const reading = `INSERT INTO snapshot VALUES ('public.parcels', 'ship', 2, true)`;
    const stuck = await found(stuckObjects, {}, reading);
    expect(byRule(stuck.unknown)).toEqual({ 'stuck.parcel.handed_over': keys('lost') });
    expect(stuck.unknown[0]?.reason).toBe('source ship reads the table of parcel again');
    expect((await found(missingEvents, {}, reading)).findings).toEqual([]);
  });

  it('changes of states that were not usual until a day, once all sources were read up to it', async () => {
    const until = new Date((START + 60 * HOUR) / 1_000);
    const learned = `allowed: { learned: { until: "${until.toISOString()}" } }\n`;
    const broken = (own: ProcessStore) =>
      own.writer.rows<{ rule: string; c: string }>('SELECT rule, "case" AS c FROM violation ORDER BY rule, "case"::INTEGER');
    const early = await opened('learning', learned, until.getTime() * 1_000);
    await early.learn();
    expect([await broken(early), early.judging === early.process]).toEqual([[], true]);
    await early.writer.run(`UPDATE place SET watermark = ${END}`);
    await early.learn();
    const expected = keys('backwards').map((c) => ({ rule: 'allowed.order', c }));
    expect(await broken(early)).toEqual(expected);
    expect(early.judging.conformance.allowed.map(({ object }) => object)).toEqual(['order', 'parcel']);
    expect(await silentChanges(early.writer, early.judging)).toHaveLength(keys('deleted').length);
    const { process } = early;
    early.close();
    // It is learned once: what comes later changes nothing, also after a restart.
    const later = await ProcessStore.open({ dataDir: folder, process, heldBytes: 2 ** 20, warn: () => {} });
    await later.transaction(async (duck) => later.verdicts.judgeAll(duck));
    expect(await broken(later)).toEqual(expected);
    later.close();
  });

  it('what is wrong, as the watch saw it, as long as it looks', async () => {
    let ms = 0;
    const usual = new Usual({ monotonic: () => ms, now: () => 0, sleep: async () => {} });
    const nowUs = END;
    const asked = async () => {
      const { problems, learnedAt } = await processProblems(store.writer, store.process, { limit: 1, nowUs, usual });
      return { learned: problems.filter(({ cases }) => cases > 0).map(({ rule }) => rule), learnedAt };
    };
    const all = await asked();
    expect(all.learned.length).toBeGreaterThan(1);
    expect(all.learnedAt).toBe(isoMicros(nowUs));
    const finding = { kind: 'stuck', rule: 'stuck.order.seen', severity: 'warning', case: '1', id: 'seen', atUs: END } as const;
    const seen = { ...finding, reason: 'as seen', event: null };
    usual.saw({ kinds: ['stuck', 'missing', 'silent', 'drift'], findings: [seen], nowUs: START }, 1_000);
    expect(await asked()).toEqual({ learned: ['stuck.order.seen'], learnedAt: isoMicros(START) });
    // Of what it does not look for, nothing is known from it; and it may have ended.
    usual.saw({ kinds: ['stuck', 'missing', 'drift'], findings: [seen], nowUs: START }, 1_000);
    const silent = all.learned.filter((rule) => rule.startsWith('silent.'));
    expect(silent.length).toBeGreaterThan(0);
    expect((await asked()).learned.toSorted()).toEqual([...silent, 'stuck.order.seen'].toSorted());
    ms = 1_001;
    expect(await asked()).toEqual(all);
  });

  it('what other rules would have said of the cases that are here, beside what the running ones say', async () => {
    const rule = (name: string, rest: string) => `{ name: ${name}, ${rest} }`;
    const kept = rule('kept', 'absence: order.cancelled');
    const own = await opened('asked', `rules: [${kept}, ${rule('present', 'absence: order.deleted')}]\n`);
    const changed = `${CONFIG.replace('name: flow', 'name: asked')}rules: [${kept}, ${rule('paid', 'precedence: [parcel.delivered, order.done]')}, ${rule('sent', 'response: [order.paid, parcel.handed_over], within: 48h')}]\n`;
    const before = await own.writer.rows('SELECT * FROM violation ORDER BY ALL');
    const processIn = (text: string) => configOf([{ name: 'a.yaml', text }], { env: {} }).processes[0] as ProcessConfig;
    const asked = async (text: string, other?: string) => {
      const duck = await own.reader();
      try {
        const against = other === undefined ? null : processIn(other);
        return await whatIf(duck, own.process, { definition: processIn(text), against, limit: 5 });
      } finally {
        duck.close();
      }
    };
    const told = await asked(changed);
    const unsent = keys('unpacked', 'deleted').length;
    expect(told).toMatchObject({ cases: ORDERS, fired: 10 + unsent, against: { definition: 'running', fired: 14 } });
    const never = { fired: 0, cases: 0 };
    expect(told.rules).toEqual([
      { rule: 'kept', fired: 10, cases: 10, against: { fired: 10, cases: 10 }, more: 0, fewer: 0 },
      { rule: 'present', ...never, against: { fired: 4, cases: 4 }, more: 0, fewer: 4 },
      { rule: 'sent', fired: unsent, cases: unsent, against: never, more: unsent, fewer: 0 },
    ]);
    expect(told.violations[0]).toMatchObject({ rule: 'sent', case: '123', change: 'more', event: { after: 'paid' } });
    expect(told.violations).toHaveLength(5);
    expect(await own.writer.rows('SELECT * FROM violation ORDER BY ALL')).toEqual(before);
    // Two definitions side by side, of which neither runs.
    const shorter = changed.replace('within: 48h', 'within: 1h');
    const sides = await asked(shorter, changed);
    const late = sides.rules.find(({ rule }) => rule === 'sent');
    expect(late).toMatchObject({ against: { fired: unsent, cases: unsent }, fewer: unsent });
    expect(late?.fired).toBeGreaterThan(unsent);
    expect(late?.more).toBe(late?.fired);
    expect(sides).toMatchObject({ cases: ORDERS, against: { definition: 'given', fired: 10 + unsent } });
    expect(sides.rules.map(({ rule }) => rule)).toEqual(['kept', 'sent']);
    expect((await asked(changed, changed)).rules).toEqual([
      { rule: 'kept', fired: 10, cases: 10, against: { fired: 10, cases: 10 }, more: 0, fewer: 0 },
      { rule: 'sent', fired: unsent, cases: unsent, against: { fired: unsent, cases: unsent }, more: 0, fewer: 0 },
    ]);
    expect(await own.writer.rows('SELECT * FROM violation ORDER BY ALL')).toEqual(before);
    await expect(asked(changed, changed.replace('shop.orders', 'shop.others'))).rejects.toThrow('in "objects"');
    await expect(asked(changed.replace('shop.orders', 'shop.others'))).rejects.toThrow('differs from process asked in "objects"');
    own.close();
  });
});
