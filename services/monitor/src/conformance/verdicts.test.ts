import { configReading, type ProcessConfig } from '@tributary/config';
import { Database, type Duck } from '@tributary/duckdb';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { NOWHERE, readPlaces, writePlace } from '../live/place.ts';
import { appendEvents, appendObjects, type EventKind, type ProcessEvent, SETUP } from '../state.ts';
import { VERDICT_TABLES } from './kept.ts';
import { RECAST, type VerdictChange, Verdicts } from './verdicts.ts';

/** Every run prints its seed; one that failed is put here to be repeated. */
const SEED = Date.now() % 1_000_000;
const SOURCE_OF = { order: 's', payment: 'p', parcel: 'l' } as const;
type Type = keyof typeof SOURCE_OF;
const SECOND = 1_000_000;
const CASES = 12;

const PROCESS = `kind: Process
name: flow
objects:
  order: { table: s.orders, key: id, state: status, milestones: [paid_at] }
  payment: { table: p.payments, key: id, state: state, of: { order: order_id } }
  parcel: { table: l.parcels, key: id, state: status, of: { order: order_id } }
root: order
done: "order.status = 'done' and all(parcel.status != 'new')"
allowed: { order: ">new; new>paid|done; paid>done" }
rules:
  - { name: answered, response: [payment.paid, parcel.new], within: 20s }
  - { name: answered_once, response: [order.paid, order.done] }
  - { name: first, precedence: [payment.paid, parcel.done] }
  - { name: lately, precedence: [order.new, order.done], within: 30s }
  - { name: both, succession: [order.paid_at, payment.done] }
  - { name: at_once, chain_response: [order.paid, parcel.paid], within: 40s }
  - { name: never_back, not_response: [order.done, payment.new], after: 2s }
  - { name: not_soon, not_response: [parcel.done, payment.done], within: 10s }
  - { name: not_both, not_coexistence: [parcel.deleted, payment.deleted] }
  - { name: there, existence: payment.created, within: 60s }
  - { name: none, absence: parcel.deleted }
  - { name: begins, init: order.created }
  - { name: some, condition: count(parcel) > 0, at: order.done }
  - { name: ended, condition: "all(payment.state != 'new')" }
sla: { cycle: { target: 100s, warn_at: 0.5 }, stage: { order.new: 15s, parcel.new: 9s } }
`;

function seeded(seed: number): () => number {
  let state = (seed % 2_147_483_646) + 1;
  return () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
}

async function definition(): Promise<ProcessConfig> {
  const { configOf } = await configReading();
  const sources = ['s', 'p', 'l'].map((name) => `kind: Source\nname: ${name}\npostgres: postgres://a@b/c\n---\n`).join('');
  const [process] = configOf([{ name: 'a.yaml', text: sources + PROCESS }], { env: {} }).processes;
  if (!process) throw new Error('there is no process');
  return process;
}

/** Databases at work: what each tells in its order, with clocks that go back now and then. */
class Business {
  readonly told: Record<string, ProcessEvent[]> = { s: [], p: [], l: [] };
  readonly #random: () => number;
  readonly #states = new Map<string, string>();
  readonly #ticks: Record<string, number> = { s: 0, p: 0, l: 0 };
  #lsn = 0n;

  constructor(seed: number, events: number) {
    this.#random = seeded(seed);
    for (let i = 0; i < events; i++) this.#happens(i);
  }

  any(max: number): number {
    return Math.floor(this.#random() * max);
  }

  #happens(i: number): void {
    const type = (['order', 'payment', 'parcel'] as const)[this.any(3)] as Type;
    const source = SOURCE_OF[type];
    const own = String(this.any(CASES));
    const key = type === 'order' ? own : `${own}.${this.any(2)}`;
    const name = `${type} ${key}`;
    const before = this.#states.get(name);
    const atUs = i * SECOND + this.any(3) * 100_000 - (this.any(20) === 0 ? 5 * SECOND : 0);
    const after = (['new', 'paid', 'done'] as const)[this.any(3)] as string;
    const dice = this.any(12);
    const [kind, what, now]: [EventKind, string, string | null] =
      before === undefined
        ? ['created', 'created', after]
        : dice === 0
          ? ['deleted', 'deleted', null]
          : dice === 1 && type === 'order'
            ? ['milestone', 'paid_at', null]
            : dice === 2
              ? ['found', after, after]
              : ['state', after, after];
    if (now !== null) this.#states.set(name, now);
    if (kind === 'deleted') this.#states.delete(name);
    const tick = Math.max(atUs, (this.#ticks[source] ?? 0) + 1);
    this.#ticks[source] = tick;
    if (this.any(3) > 0) this.#lsn += 8n;
    const place = { source, lsn: this.#lsn, ordinal: i, part: 0, atUs, tick };
    const event = { case: own, activity: `${type} ${what}`, object: type, key, kind, before: before ?? null, after: now };
    this.told[source]?.push({ ...event, ...place, attributes: null });
  }
}

describe(`verdicts that are kept (seed ${SEED})`, () => {
  let database: Database;
  let duck: Duck;
  let process: ProcessConfig;

  beforeEach(async () => {
    process = await definition();
    database = await Database.open({ path: ':memory:', memoryBytes: 128 * 2 ** 20, threads: 1, spillDir: '' });
    duck = await database.connect();
    for (const statement of [...SETUP, ...VERDICT_TABLES, RECAST]) await duck.run(statement);
  });
  afterEach(() => {
    duck.close();
    database.close();
  });

  const kept = async () => {
    const rows = async (table: string) =>
      (await duck.rows(`SELECT * FROM ${table} ORDER BY ALL`)).map((row) => JSON.stringify(row));
    return { followed: await rows('followed'), violation: await rows('violation'), owed: await rows('owed') };
  };

  /** How far a source is, that tells of no event. */
  async function beat(verdicts: Verdicts, source: string, toUs: number): Promise<VerdictChange[]> {
    const before = (await readPlaces(duck)).get(source);
    if (!before || before.watermark >= toUs) return [];
    const idle = await verdicts.idle(duck, source, toUs);
    await writePlace(duck, source, { before, after: { ...before, watermark: toUs } });
    return idle ? [] : verdicts.follow(duck, { source, watermark: toUs, behind: before.tick, events: [], recast: false });
  }

  /** One transaction: the next events of a source, and how far it is. */
  async function batch(
    verdicts: Verdicts,
    source: string,
    { events, behind, watermark }: { events: readonly ProcessEvent[]; behind: number; watermark: number },
  ) {
    await appendEvents(duck, events);
    const tick = events.at(-1)?.tick ?? behind;
    const before = (await readPlaces(duck)).get(source) ?? NOWHERE;
    const after = { position: { seq: 1, lsn: 1n, ordinal: 1 }, watermark, tick, held: null };
    await writePlace(duck, source, { before, after });
    // Told, or to be read.
    return verdicts.follow(duck, { source, watermark, behind, events: events.length % 2 === 0 ? events : null, recast: false });
  }

  it.each([
    { held: 'in memory', bytes: 2 ** 20, newsMax: 1_000 },
    { held: 'partly in memory, and large transactions', bytes: 6_000, newsMax: 3 },
  ])('are those of a recompute, however events come, with cases $held', async ({ bytes, newsMax }) => {
    const business = new Business(SEED, 260);
    // Of each type one object whose beginning was not seen.
    const met = { state: 'new', parents: null, attributes: null, reached: null, born: false, alive: true, named: 0 };
    await appendObjects(duck, [{ object: 'payment', key: '3.0', source: 'p', case: '3', ...met }]);
    const verdicts = new Verdicts(process, bytes, newsMax);
    const standing = new Map<string, VerdictChange>();
    const nameOf = (one: VerdictChange) => `${one.case} ${one.rule} ${one.level} ${one.atUs} ${one.tick} ${one.source}`;
    const at: Record<string, number> = { s: 0, p: 0, l: 0 };
    for (let i = 0; ; i++) {
      const left = ['s', 'p', 'l'].filter((one) => (at[one] as number) < (business.told[one]?.length ?? 0));
      if (left.length === 0) break;
      const source = left[business.any(left.length)] as string;
      const own = business.told[source] as ProcessEvent[];
      const from = at[source] as number;
      const events = own.slice(from, from + 1 + business.any(25));
      at[source] = from + events.length;
      const last = events.at(-1) as ProcessEvent;
      const known = (await readPlaces(duck)).get(source)?.watermark ?? 0;
      const watermark = Math.max(known, ...own.slice(0, at[source]).map(({ atUs }) => atUs));
      const changes = await batch(verdicts, source, { events, behind: own[from - 1]?.tick ?? 0, watermark });
      const later = await beat(verdicts, ['s', 'p', 'l'][business.any(3)] as string, watermark + business.any(9) * SECOND);
      for (const change of [...changes, ...later]) {
        if (change.change === 'resolved') expect(standing.delete(nameOf(change)), nameOf(change)).toBe(true);
        else {
          expect(standing.has(nameOf(change)), nameOf(change)).toBe(false);
          standing.set(nameOf(change), change);
        }
      }
      if (i % 7 > 0 && left.length > 1) continue;
      const was = await kept();
      await new Verdicts(process, 0).judgeAll(duck);
      const now = await kept();
      expect(was, `after ${source} ${last.tick}`).toEqual(now);
      expect(was.violation).toHaveLength(standing.size);
      // A worker that dies knows nothing any more.
      if (business.any(4) === 0) verdicts.forget();
    }
    const { followed, violation, owed } = await kept();
    expect(Math.min(followed.length, violation.length, owed.length)).toBeGreaterThan(0);
  });
});
