import type { World } from './world.ts';
import { ORDERS, ordersFrom } from './world.ts';

type Session = Awaited<ReturnType<World['session']>>;

/** A kind of work whose WAL both readers apply. */
export interface OdsLoad {
  readonly name: 'inserts' | 'updates' | 'wide' | 'deletes';
  /** Tables, and procedures that only the source needs. */
  readonly tables: readonly string[];
  /** Rows that are there before either reader begins. */
  fill(session: Session): Promise<void>;
  /** About `rows` changes, for the `round`th time (from 0). @returns how many */
  run(session: Session, rows: number, round: number): Promise<number>;
  /** One row of numbers that is the same on both sides when they hold the same. `%` = the schema. */
  readonly proof: string;
}

const INSERTS_A_TRANSACTION = 1_000;

const inserts: OdsLoad = {
  name: 'inserts',
  tables: [ORDERS],
  fill: async () => {},
  async run(session, rows, round) {
    const before = round * rows;
    for (let at = 1; at <= rows; at += INSERTS_A_TRANSACTION)
      await session.run(ordersFrom(before + at, before + Math.min(rows, at + INSERTS_A_TRANSACTION - 1)));
    return rows;
  },
  proof: 'SELECT count(*)::text AS a, sum(id)::text AS b, sum(amount)::text AS c FROM %.orders',
};

/** Rows of which some are deleted. */
const DELETABLE = 400_000;
const SCALE = 5;
const ACCOUNTS = 100_000 * SCALE;
const TELLERS = 10 * SCALE;

/** As TPC-B has it: three balances updated and one line of history inserted in every transaction. */
const TRANSACTION_OF_FOUR = `CREATE PROCEDURE public.tpcb(transactions int) LANGUAGE plpgsql AS $$
DECLARE a int; t int; b int; delta int;
BEGIN
  FOR i IN 1..transactions LOOP
    a := 1 + floor(random() * ${ACCOUNTS}); t := 1 + floor(random() * ${TELLERS}); b := 1 + (t - 1) / 10; delta := floor(random() * 10001) - 5000;
    UPDATE public.accounts SET abalance = abalance + delta WHERE aid = a;
    UPDATE public.tellers SET tbalance = tbalance + delta WHERE tid = t;
    UPDATE public.branches SET bbalance = bbalance + delta WHERE bid = b;
    INSERT INTO public.history VALUES (t, b, a, delta, clock_timestamp(), NULL);
    COMMIT;
  END LOOP;
END $$`;

export const UPDATES: OdsLoad = {
  name: 'updates',
  tables: [
    'CREATE TABLE public.branches (bid int PRIMARY KEY, bbalance int NOT NULL, filler char(88)) WITH (fillfactor = 50)',
    'CREATE TABLE public.tellers (tid int PRIMARY KEY, bid int NOT NULL, tbalance int NOT NULL, filler char(84)) WITH (fillfactor = 50)',
    'CREATE TABLE public.accounts (aid int PRIMARY KEY, bid int NOT NULL, abalance int NOT NULL, filler char(84))',
    'CREATE TABLE public.history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))',
  ],
  async fill(session) {
    await session.run(TRANSACTION_OF_FOUR);
    await session.run(`INSERT INTO public.branches SELECT i, 0, '' FROM generate_series(1, ${SCALE}) i;
      INSERT INTO public.tellers SELECT i, 1 + (i - 1) / 10, 0, '' FROM generate_series(1, ${TELLERS}) i;
      INSERT INTO public.accounts SELECT i, 1 + (i - 1) / 100000, 0, '' FROM generate_series(1, ${ACCOUNTS}) i`);
  },
  async run(session, rows) {
    await session.run(`CALL public.tpcb(${Math.floor(rows / 4)})`);
    return Math.floor(rows / 4) * 4;
  },
  proof: `SELECT (SELECT sum(abalance) FROM %.accounts)::text AS a, (SELECT sum(tbalance) FROM %.tellers)::text AS b,
    (SELECT sum(bbalance) FROM %.branches)::text AS c, (SELECT sum(delta) FROM %.history)::text AS d,
    (SELECT count(*) FROM %.history)::text AS e, (SELECT sum(aid::int8 * abalance) FROM %.accounts)::text AS f`,
};

/** Half of what is there is deleted, in transactions of as many as are inserted at once. */
export const DELETES: OdsLoad = {
  name: 'deletes',
  tables: [ORDERS],
  async fill(session) {
    await session.run(ordersFrom(1, DELETABLE));
  },
  async run(session, rows, round) {
    const done = Math.min(rows, DELETABLE / 2);
    for (let at = 1; at <= done; at += INSERTS_A_TRANSACTION) {
      const last = Math.min(done, at + INSERTS_A_TRANSACTION - 1);
      await session.run(`DELETE FROM public.orders WHERE id BETWEEN ${2 * at} AND ${2 * last + 1} AND id % 2 = ${round}`);
    }
    return done;
  },
  proof: inserts.proof,
};

/** 60 columns, about 1.4 KB a row as text. */
const WIDE = {
  int: (i: number) => `(i * ${i + 1})::bigint`,
  numeric: (i: number) => `(i % 1000000) / ${i + 3}.0`,
  text: (i: number) => `'a text of some length, number ' || i % ${97 + i}`,
  timestamptz: (i: number) => `timestamptz '2026-01-01' + i * interval '${i + 1} seconds'`,
} as const;
const WIDE_COLUMNS = Object.keys(WIDE).flatMap((type) => Array.from({ length: 15 }, (_, i) => ({ type, i }))) as {
  readonly type: keyof typeof WIDE;
  readonly i: number;
}[];
const WIDE_TYPES = { int: 'bigint', numeric: 'numeric(14,4)', text: 'text', timestamptz: 'timestamptz' } as const;
const WIDE_SHARE = 10;

const wide: OdsLoad = {
  name: 'wide',
  tables: [
    `CREATE TABLE public.wide (id bigint PRIMARY KEY, ${WIDE_COLUMNS.map(({ type, i }) => `${type}_${i} ${WIDE_TYPES[type]}`).join(', ')})`,
  ],
  fill: async () => {},
  /** Fewer rows: each is as large as ten of the others. */
  async run(session, rows, round) {
    const total = Math.floor(rows / WIDE_SHARE);
    const before = round * total;
    const values = WIDE_COLUMNS.map(({ type, i }) => WIDE[type](i)).join(', ');
    for (let at = 1; at <= total; at += 100)
      await session.run(
        `INSERT INTO public.wide SELECT i, ${values} FROM generate_series(${before + at}, ${before + Math.min(total, at + 99)}) i`,
      );
    return total;
  },
  proof: 'SELECT count(*)::text AS a, sum(numeric_14)::text AS b, sum(length(text_3))::text AS c FROM %.wide',
};

export const ODS_LOADS: readonly OdsLoad[] = [inserts, UPDATES, wide];
