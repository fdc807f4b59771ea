import { type Duck, duckLiteral } from '@tributary/duckdb';
import { type CaseOrder, ordered, type Placed } from './concurrent.ts';
import { eventsSql, type Scope } from './scope.ts';

/**
 * Tables of steps, in which cases and activities are numbers:
 *
 * - `key (id, c)`, `activity (id, activity)`: what the numbers mean;
 * - `step (c, a, at_us, tick, p, previous_us, next_us, last, nth, near)`: every event, with the activity (`p`) and time of the one before it in its case,
 *   the time of the next, its place from 1 on, and whether it is not known which of it and the one before was first ({@link ordered});
 * - `way (c, first_us, last_us, events, v, w)`: every case; two took the same way exactly when `v` and `w` are the same;
 * - `again (c, a, n)`: what happened in a case more than once.
 */
export interface StepTables {
  readonly key: string;
  readonly activity: string;
  readonly step: string;
  readonly way: string;
  readonly again: string;
}

/** What the tables are made of. */
interface Seen {
  /** Newest tick by source. */
  readonly ticks: ReadonlyMap<string, number>;
  /** Newest `nth` of `recast`. */
  readonly nth: number;
}

const KEPT = tablesOf('kept');
const PASSING = tablesOf('passing');

/** An event in a stretch of a case. */
interface CloseBy {
  readonly c: number;
  readonly stretch: number;
  readonly tick: number;
  readonly atUs: number;
  readonly source: string;
}

const PLACED_COLUMNS = {
  c: 'INTEGER',
  tick: 'BIGINT',
  source: 'VARCHAR',
  in_tick: 'BIGINT',
  in_source: 'VARCHAR',
  at_us: 'BIGINT',
  near: 'BOOLEAN',
} as const;
/** Events in memory at once, beside those of one stretch. */
const PLACED_AT_ONCE = 20_000;

/** Of more changed cases all are made anew. */
const ANEW_SHARE = 0.3;

/**
 * Every event with its neighbours, on one connection, kept from one question to the next: then only cases are sorted in which something changed
 * (M5: what is kept is what making it anew would give). These are the cases of events with ticks that are new, and those of `recast`.
 *
 * Whoever asks begins a transaction, one at a time, and commits it in the end, as what is kept is written in it; or calls {@link forget}.
 *
 * A million events take 2.5 s of CPU and 45 MB at first; bringing them up to date after a thousand cases changed 0.3 s.
 */
export class KeptSteps {
  readonly duck: Duck;
  readonly #order: CaseOrder | null;
  #seen: Seen | null = null;
  /** Rows of `step` that were made anew since it was written as a whole: about as many were removed. */
  #gone = 0;

  /** @param order null: events of a case are in the order of their times */
  constructor(duck: Duck, order: CaseOrder | null) {
    this.duck = duck;
    this.#order = order;
  }

  /** Nothing is kept: the transaction was rolled back. */
  forget(): void {
    this.#seen = null;
  }

  /** The tables as of this transaction. Those of other lives than the root's are made for the question; {@link done} drops them. */
  async tables({ object }: Scope): Promise<StepTables> {
    if (object === undefined) {
      await this.#renew();
      return KEPT;
    }
    await this.#make(PASSING, eventsSql({ object }));
    return PASSING;
  }

  async done({ object }: Scope): Promise<void> {
    if (object === undefined) return;
    for (const table of Object.values(PASSING)) await this.duck.run(`DROP TABLE IF EXISTS ${table}`);
  }

  async #renew(): Promise<void> {
    const before = this.#seen;
    // What fails on the way leaves nothing that could be taken for whole.
    this.#seen = null;
    const now = await this.#now();
    if (!before || !(await this.#changed(before, now))) {
      await this.#make(KEPT, eventsSql({}));
      this.#gone = 0;
    }
    this.#seen = now;
  }

  async #now(): Promise<Seen> {
    const { duck } = this;
    const places = await duck.rows<{ source: string; tick: number }>('SELECT source, tick FROM place');
    const [recast] = await duck.rows<{ nth: number | null }>('SELECT max(nth) AS nth FROM recast');
    return { ticks: new Map(places.map(({ source, tick }) => [source, tick])), nth: recast?.nth ?? 0 };
  }

  /** Makes what changed anew. @returns false: too much did */
  async #changed(before: Seen, now: Seen): Promise<boolean> {
    const { duck } = this;
    const told = [...now.ticks].filter(([source, tick]) => tick > (before.ticks.get(source) ?? 0));
    if (told.length === 0 && now.nth === before.nth) return true;
    const behind = told.map(([source]) => `source = ${duckLiteral(source)} AND tick > ${before.ticks.get(source) ?? 0}`);
    await duck.run(`CREATE OR REPLACE TEMP TABLE kept_changed AS SELECT DISTINCT "case" AS c, all_of_them FROM (
      SELECT "case", false AS all_of_them FROM event WHERE "case" IS NOT NULL AND (${behind.join(' OR ') || 'false'})
      UNION ALL SELECT "case", "case" IS NULL FROM recast WHERE nth > ${before.nth})`);
    const [size] = await duck.rows<{ changed: number; everything: boolean | null; kept: number }>(
      `SELECT count(*) AS changed, bool_or(all_of_them) AS everything, (SELECT count(*) FROM ${KEPT.way}) AS kept FROM kept_changed`,
    );
    if (!size || size.everything === true || size.changed > ANEW_SHARE * size.kept) return false;
    await duck.run(`CREATE OR REPLACE TEMP TABLE kept_event AS FROM (${eventsSql({})}) WHERE c IN (SELECT c FROM kept_changed)`);
    await duck.run(`CREATE OR REPLACE TEMP TABLE kept_old AS SELECT id AS c FROM ${KEPT.key} SEMI JOIN kept_changed USING (c)`);
    for (const table of [KEPT.step, KEPT.way, KEPT.again])
      await duck.run(`DELETE FROM ${table} WHERE c IN (SELECT c FROM kept_old)`);
    await this.#number(KEPT, 'kept_event');
    await this.#place(KEPT, 'kept_event');
    await duck.run(`CREATE OR REPLACE TEMP TABLE kept_new AS ${stepsSql(KEPT, 'kept_event', this.#order !== null)}`);
    await duck.run(`INSERT INTO ${KEPT.step} FROM kept_new`);
    await duck.run(`INSERT INTO ${KEPT.way} ${waysSql('kept_new')}`);
    await duck.run(`INSERT INTO ${KEPT.again} ${againSql('kept_new')}`);
    await this.#compact();
    return true;
  }

  /** What was removed keeps its room. */
  async #compact(): Promise<void> {
    const [size] = await this.duck.rows<{ removed: number; there: number }>(
      `SELECT (SELECT count(*) FROM kept_new) AS removed, (SELECT count(*) FROM ${KEPT.step}) AS there`,
    );
    this.#gone += size?.removed ?? 0;
    if (this.#gone <= (size?.there ?? 0)) return;
    for (const table of [KEPT.step, KEPT.way, KEPT.again])
      await this.duck.run(`CREATE OR REPLACE TEMP TABLE ${table} AS FROM ${table}`);
    this.#gone = 0;
  }

  async #make(tables: StepTables, events: string): Promise<void> {
    const { duck } = this;
    await duck.run(`CREATE OR REPLACE TEMP TABLE ${tables.key} (id INTEGER, c VARCHAR)`);
    await duck.run(`CREATE OR REPLACE TEMP TABLE ${tables.activity} (id INTEGER, activity VARCHAR)`);
    await this.#number(tables, `(${events})`);
    await this.#place(tables, `(${events})`);
    await duck.run(`CREATE OR REPLACE TEMP TABLE ${tables.step} AS ${stepsSql(tables, `(${events})`, this.#order !== null)}`);
    await duck.run(`CREATE OR REPLACE TEMP TABLE ${tables.way} AS ${waysSql(tables.step)}`);
    await duck.run(`CREATE OR REPLACE TEMP TABLE ${tables.again} AS ${againSql(tables.step)}`);
  }

  /**
   * Writes to `placed` the events whose order is not known, each with the tick and source in whose place it stands. Behind a pause longer than
   * the skew everything surely came later, so a case falls into stretches, and only those of several sources are looked at.
   */
  async #place({ key }: StepTables, events: string): Promise<void> {
    const order = this.#order;
    if (!order) return;
    const { duck } = this;
    await duck.run(
      'CREATE OR REPLACE TEMP TABLE placed (c INTEGER, tick BIGINT, source VARCHAR, in_tick BIGINT, in_source VARCHAR, at_us BIGINT, near BOOLEAN)',
    );
    await duck.run(`CREATE OR REPLACE TEMP TABLE close_by AS WITH
       own AS (SELECT k.id AS c, tick, at_us, source, tick - lag(tick) OVER (PARTITION BY k.id ORDER BY tick, source) > ${order.skewUs} AS apart
         FROM ${events} e JOIN ${key} k ON k.c = e.c),
       cut AS (SELECT c, tick, at_us, source, count(*) FILTER (apart) OVER (PARTITION BY c ORDER BY tick, source) AS stretch FROM own)
       SELECT c, stretch, tick, at_us, source FROM cut
         QUALIFY min(source) OVER (PARTITION BY c, stretch) <> max(source) OVER (PARTITION BY c, stretch) ORDER BY c, tick, source`);
    let held: CloseBy[] = [];
    for (let from = 0; ; from += PLACED_AT_ONCE) {
      const rows = await duck.rows<CloseBy>(
        `SELECT c, stretch, tick, at_us AS "atUs", source FROM close_by WHERE rowid >= ${from} AND rowid < ${from + PLACED_AT_ONCE} ORDER BY rowid`,
      );
      held = [...held, ...rows];
      const last = held.at(-1);
      // The last stretch may go on behind these rows.
      const whole = rows.length < PLACED_AT_ONCE ? held.length : held.findIndex((one) => last && sameStretch(one, last));
      await this.#keepPlaces(held.slice(0, whole), order);
      held = held.slice(whole);
      if (rows.length < PLACED_AT_ONCE) break;
    }
    await duck.run('DROP TABLE close_by');
  }

  async #keepPlaces(events: readonly CloseBy[], order: CaseOrder): Promise<void> {
    const placed: (Placed & { readonly c: number; readonly place: CloseBy })[] = [];
    for (let begin = 0, end = 0; begin < events.length; begin = end) {
      const first = events[begin] as CloseBy;
      while (end < events.length && sameStretch(events[end] as CloseBy, first)) end++;
      const own = events.slice(begin, end);
      placed.push(...ordered(own, order).map((one, i) => ({ ...one, c: first.c, place: own[i] as CloseBy })));
    }
    await this.duck.append('placed', PLACED_COLUMNS, {
      c: placed.map(({ c }) => c),
      tick: placed.map(({ tick }) => BigInt(tick)),
      source: placed.map(({ source }) => source),
      in_tick: placed.map(({ place }) => BigInt(place.tick)),
      in_source: placed.map(({ place }) => place.source),
      at_us: placed.map(({ atUs }) => BigInt(atUs)),
      near: placed.map(({ near }) => near),
    });
  }

  /** Numbers for the cases and activities of these events that have none. */
  async #number({ key, activity }: StepTables, events: string): Promise<void> {
    for (const [table, column] of [
      [key, 'c'],
      [activity, 'activity'],
    ])
      await this.duck.run(`INSERT INTO ${table} SELECT (SELECT coalesce(max(id), 0) FROM ${table}) + row_number() OVER (), ${column}
        FROM (SELECT DISTINCT ${column} FROM ${events} ANTI JOIN ${table} USING (${column}))`);
  }
}

function tablesOf(prefix: string): StepTables {
  return {
    key: `${prefix}_key`,
    activity: `${prefix}_activity`,
    step: `${prefix}_step`,
    way: `${prefix}_way`,
    again: `${prefix}_again`,
  };
}

function sameStretch(a: CloseBy, b: CloseBy): boolean {
  return a.c === b.c && a.stretch === b.stretch;
}

/** @param placed some events stand in the place of others */
function stepsSql({ key, activity }: StepTables, events: string, placed: boolean): string {
  const [columns, join] = placed
    ? [
        'coalesce(o.at_us, e.at_us) AS at_us, coalesce(in_tick, e.tick) AS in_tick, coalesce(in_source, e.source) AS in_source, coalesce(near, false) AS near',
        'LEFT JOIN placed o ON o.c = k.id AND o.tick = e.tick AND o.source = e.source',
      ]
    : ['at_us, tick AS in_tick, source AS in_source, false AS near', ''];
  return `SELECT c, a, at_us, tick, lag(a) OVER w AS p, lag(at_us) OVER w AS previous_us, lead(at_us) OVER w AS next_us,
      lead(1) OVER w IS NULL AS last, (row_number() OVER w)::INTEGER AS nth, near
    FROM (SELECT k.id AS c, n.id AS a, e.tick, ${columns} FROM ${events} e JOIN ${key} k ON k.c = e.c JOIN ${activity} n ON n.activity = e.activity ${join})
    WINDOW w AS (PARTITION BY c ORDER BY in_tick, in_source)`;
}

function waysSql(steps: string): string {
  return `SELECT c, min(at_us) AS first_us, max(at_us) AS last_us, count(*)::INTEGER AS events, ${WAY} FROM ${steps} GROUP BY c`;
}

/**
 * SQL of `v` and `w` over the steps of a case: two sums of 64 bits over every (place, activity) instead of the list itself, which takes ten times as
 * long. Two ways with the same sums are less likely than a machine that errs.
 */
export const WAY = 'sum(hash(nth, a)) AS v, bit_xor(hash(a, nth)) AS w';

function againSql(steps: string): string {
  return `SELECT c, a, count(*)::INTEGER AS n FROM ${steps} GROUP BY ALL HAVING count(*) > 1`;
}
