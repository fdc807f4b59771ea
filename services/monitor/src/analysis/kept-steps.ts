import { type Duck, duckLiteral } from '@tributary/duckdb';
import { eventsSql, type Scope } from './scope.ts';

/**
 * Tables of steps, in which cases and activities are numbers:
 *
 * - `key (id, c)`, `activity (id, activity)`: what the numbers mean;
 * - `step (c, a, at_us, tick, p, previous_us, next_us, last, nth)`: every event, with the activity (`p`) and time of the one before it in its case, the
 *   time of the next, and its place from 1 on;
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
  #seen: Seen | null = null;
  /** Rows of `step` that were made anew since it was written as a whole: about as many were removed. */
  #gone = 0;

  constructor(duck: Duck) {
    this.duck = duck;
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
    await duck.run(`CREATE OR REPLACE TEMP TABLE kept_new AS ${stepsSql(KEPT, 'kept_event')}`);
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
    await duck.run(`CREATE OR REPLACE TEMP TABLE ${tables.step} AS ${stepsSql(tables, `(${events})`)}`);
    await duck.run(`CREATE OR REPLACE TEMP TABLE ${tables.way} AS ${waysSql(tables.step)}`);
    await duck.run(`CREATE OR REPLACE TEMP TABLE ${tables.again} AS ${againSql(tables.step)}`);
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

function stepsSql({ key, activity }: StepTables, events: string): string {
  return `SELECT c, a, at_us, tick, lag(a) OVER w AS p, lag(at_us) OVER w AS previous_us, lead(at_us) OVER w AS next_us,
      lead(1) OVER w IS NULL AS last, (row_number() OVER w)::INTEGER AS nth
    FROM (SELECT k.id AS c, n.id AS a, at_us, tick, source FROM ${events} e JOIN ${key} k ON k.c = e.c JOIN ${activity} n ON n.activity = e.activity)
    WINDOW w AS (PARTITION BY c ORDER BY tick, source)`;
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
