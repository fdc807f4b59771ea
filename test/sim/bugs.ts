import { type Changelogs, decodeBatch, type Store } from '@tributary/changelog';
import { Fault } from '@tributary/core';
import { Visibility } from '@tributary/postgres';
import type { Replication, ReplicateOptions, SourceDatabase, SourceSession } from '@tributary/source';
import type { FaultPlan } from './faults.ts';
import { assemble } from './ledger.ts';
import type { Breakage } from './worker.ts';
import type { WorkloadOptions } from './workload.ts';

/** A mistake made on purpose at a seam, and the checkers of which one must notice it. */
export interface Bug {
  readonly name: string;
  readonly breakage: Breakage;
  readonly caughtBy: readonly string[];
  /** What it takes to show at all. */
  readonly faults?: Partial<FaultPlan>;
  readonly workload?: Partial<WorkloadOptions>;
  readonly leases?: false;
}

type Over<T> = { readonly [Key in keyof T]?: T[Key] };

/** The same object with some of its methods replaced. */
function over<T extends object>(target: T, replaced: Over<T>): T {
  return new Proxy(target, {
    get(_, key) {
      const value = (replaced as Record<PropertyKey, unknown>)[key] ?? Reflect.get(target, key, target);
      return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value;
    },
  });
}

const session = (change: (one: SourceSession, name: string) => Over<SourceSession>) => (database: SourceDatabase) =>
  over(database, { open: async (name) => database.open(name).then((one) => over(one, change(one, name))) });

/** A slot that this process found, or made, and that was dropped since: its successor passes for it. */
function forgetsDrop(database: SourceDatabase): SourceDatabase {
  const wrapped = session((one) => ({
    ensureSlot: async () => {
      const slot = await one.ensureSlot();
      const known = KNOWN_SLOT.has(database);
      KNOWN_SLOT.add(database);
      return known && slot.created ? { ...slot, confirmed: 0n, created: false } : slot;
    },
  }));
  return wrapped(database);
}

/** Processes that have seen their slot. */
const KNOWN_SLOT = new WeakSet<SourceDatabase>();

const replication =
  (change: (options: ReplicateOptions) => ReplicateOptions, wrap: (one: Replication) => Replication = (one) => one) =>
  (database: SourceDatabase) =>
    over(database, { replicate: (options) => wrap(database.replicate(change(options))) });

/** Confirms what was received, as the library's own timer would. */
function confirmsReceived(database: SourceDatabase): SourceDatabase {
  return over(database, {
    replicate: (options) => {
      let received = 0n;
      const keepalive: ReplicateOptions['keepalive'] = (walEnd, asked) => {
        received = walEnd;
        options.keepalive(walEnd, asked);
      };
      const one = database.replicate({ ...options, keepalive });
      return over(one, { confirm: (lsn) => one.confirm(received > lsn ? received : lsn) });
    },
  });
}

/** A table is read in one piece, and then the end of the WAL is taken for its beginning. */
function forgetsWhatWasSeen(database: SourceDatabase): SourceDatabase {
  const wrapped = session((one) => {
    let whole = false;
    return {
      begin: (table) => {
        whole = table !== undefined;
        return one.begin(table);
      },
      walPosition: async () => (whole ? 0n : one.walPosition()),
    };
  });
  return wrapped(database);
}

/** An update without the old row that REPLICA IDENTITY FULL adds. */
function withoutOldRow(bytes: Buffer): Buffer {
  if (bytes[0] !== 0x55 || bytes[5] !== 0x4f) return bytes;
  let at = 8;
  for (let cells = bytes.readInt16BE(6); cells > 0; cells--) at += bytes[at] === 0x74 ? 5 + bytes.readInt32BE(at + 1) : 1;
  return Buffer.concat([bytes.subarray(0, 5), bytes.subarray(at)]);
}

/** Reads on from the sequence alone. */
function ignoresChain(changelogs: Changelogs, store: Store): Changelogs {
  return over(changelogs, {
    async *read(source, { after, signal }) {
      let seq = after.seq;
      while (!signal.aborted) {
        let parts: readonly Uint8Array[] = [];
        for await (const stored of store.follow(source, seq + 1, signal)) {
          const whole = assemble(parts, stored.bytes);
          parts = Array.isArray(whole) ? whole : [];
          if (Array.isArray(whole)) continue;
          seq = stored.seq;
          yield { ...decodeBatch(whole as Uint8Array), seq, storedAt: stored.storedAt };
        }
        if ((await store.status(source)) === null) return;
      }
    },
  });
}

const written = (changelogs: Changelogs, change: (writer: Awaited<ReturnType<Changelogs['write']>>) => object): Changelogs =>
  over(changelogs, {
    write: async (source, options) => changelogs.write(source, options).then((writer) => over(writer, change(writer))),
  });

/** Does not say that a table is read in one piece. */
function hidesWhole(changelogs: Changelogs): Changelogs {
  return over(changelogs, {
    async *read(source, options) {
      for await (const batch of changelogs.read(source, options)) {
        const { header } = batch;
        const mark = header.mark?.step === 'begin' ? { ...header.mark, progress: undefined } : header.mark;
        yield { ...batch, header: { ...header, mark: mark as typeof header.mark } };
      }
    },
  });
}

/** PostgreSQL sends the last transaction once more, to show that it is still there: drops none of its changes. */
function keepsDuplicates(changelogs: Changelogs): Changelogs {
  return written(changelogs, ({ last }) => {
    if (!last) return {};
    const { lsn } = last.header.position;
    return { last: { ...last, header: { ...last.header, position: { lsn, ordinal: 0 } } } };
  });
}

const everything = new Visibility('999999999:999999999:');

export const BUGS: readonly Bug[] = [
  {
    name: 'fencing off: the broker takes every message, whatever it expects',
    breakage: {
      publish: async (store, source, bytes, place) =>
        store.publish(source, bytes, { ...place, after: (await store.status(source))?.lastSeq ?? 0, afterId: null }),
    },
    caughtBy: ['fencing', 'chain', 'duplicate'],
    faults: { pause: 4_000 },
  },
  {
    name: 'confirms as soon as a batch is acknowledged',
    breakage: { confirmAfterMs: 0 },
    caughtBy: ['confirm'],
  },
  { name: 'confirms what was received', breakage: { database: confirmsReceived }, caughtBy: ['confirm'] },
  {
    name: 'the position in a write of its own',
    breakage: {
      write: async ({ model, statement, batches, after }) => {
        await statement(() => model.apply(batches));
        await statement(() => model.move(after));
      },
    },
    caughtBy: ['exactly once', 'projection'],
    faults: { sinkTrouble: 2_000, breakConnection: 1_000 },
  },
  {
    name: 'a sink that does not ask who else wrote',
    breakage: { write: ({ model, statement, batches, after }) => statement(() => model.commit(model.position, batches, after)) },
    caughtBy: ['exactly once', 'projection'],
    faults: { pause: 4_000 },
  },
  {
    name: 'a sink that knows where it stands by sequence alone',
    breakage: {
      write: ({ model, statement, expected, batches, after }) =>
        statement(() => {
          if (model.position.seq !== expected.seq) throw new Fault('fenced', `the sink stands at ${model.position.seq}`);
          model.commit(model.position, batches, after);
        }),
    },
    caughtBy: ['exactly once', 'projection'],
    faults: {
      brokerCrash: 1_500,
      sinkTrouble: 1_000,
      pause: 0,
      crash: 0,
      postgresCrash: 0,
      partition: 0,
      slotDrop: 0,
      breakConnection: 0,
    },
    workload: { everyMs: 250, keyless: 0, hugeChance: 0 },
    leases: false,
  },
  {
    name: 'a reader that goes by sequence alone',
    breakage: { changelogs: ignoresChain },
    caughtBy: ['exactly once', 'projection'],
    faults: { brokerCrash: 3_000 },
    workload: { keyless: 0 },
  },
  {
    name: 'resumes a little too far',
    breakage: { database: replication((options) => ({ ...options, from: options.from + 256n })) },
    caughtBy: ['gap'],
    faults: { breakConnection: 500 },
  },
  {
    name: 'a slot that was made anew is taken for the old one',
    breakage: { database: forgetsDrop },
    caughtBy: ['gap'],
    faults: { brokerCrash: 0, slotDrop: 5_000 },
  },
  {
    name: 'drops no duplicates on resume',
    breakage: { changelogs: keepsDuplicates },
    caughtBy: ['duplicate', 'order'],
    faults: { breakConnection: 500 },
  },
  {
    name: 'a lease taken whatever its revision',
    breakage: {
      kv: (kv) => over(kv, { update: async (key, value) => kv.update(key, value, (await kv.get(key))?.revision ?? 0) }),
    },
    caughtBy: ['lease'],
    faults: { pause: 4_000, kvLoss: 0 },
  },
  {
    name: 'parts of a large transaction that do not say that more comes',
    breakage: {
      changelogs: (changelogs) =>
        written(changelogs, (writer) => ({
          append: (batch: Parameters<typeof writer.append>[0]) =>
            writer.append({ ...batch, header: { ...batch.header, more: false } }),
        })),
    },
    caughtBy: ['exactly once', 'projection'],
    workload: { hugeChance: 0.1 },
  },
  {
    name: 'a snapshot chunk that is not reconciled',
    breakage: {
      database: session((one) => ({
        begin: async (table) => {
          await one.begin(table);
          return everything;
        },
      })),
    },
    caughtBy: ['projection'],
    workload: { rows: 100, everyMs: 60, keyless: 0 },
  },
  {
    name: 'a snapshot chunk published before the stream has passed it',
    breakage: { database: session((_, name) => (name.startsWith('snapshot') ? { walPosition: async () => 0n } : {})) },
    caughtBy: ['projection'],
    faults: { ask: 300, weather: 500, crash: 0, pause: 0, brokerCrash: 0, postgresCrash: 0, slotDrop: 0 },
    workload: { rows: 40, everyMs: 40, keyless: 0, truncateChance: 0, hugeChance: 0 },
  },
  {
    name: 'the bound of transactions nobody remembers taken from a snapshot',
    breakage: { database: session((one) => ({ nextXid: async () => (await one.visibility()).xmax })) },
    caughtBy: ['projection'],
    faults: { breakConnection: 300 },
    workload: { rows: 40, everyMs: 600, statementMs: 100, visibleMs: 3_000, keyless: 0 },
  },
  {
    name: 'a table read in one piece before everything streamed of it is visible',
    breakage: {
      database: session((one) => ({
        begin: async (table) => {
          const seen = await one.begin(table);
          return table ? over(seen, { sees: () => true }) : seen;
        },
      })),
    },
    caughtBy: ['projection', 'gap'],
    workload: { keyless: 1, everyMs: 60, visibleMs: 1_500 },
  },
  {
    name: 'a table read in one piece, and what its snapshot saw comes again',
    breakage: { database: forgetsWhatWasSeen },
    caughtBy: ['duplicate', 'projection'],
    workload: { keyless: 1, everyMs: 60 },
  },
  {
    name: 'a table read in one piece that may be truncated between its snapshot and its rows',
    breakage: { database: session((one) => ({ begin: () => one.begin() })) },
    caughtBy: ['projection'],
    workload: { keyless: 1, everyMs: 60, truncateChance: 0.2 },
  },
  {
    name: 'a table read in one piece that is not emptied first',
    breakage: {
      changelogs: (changelogs) =>
        written(changelogs, (writer) => ({
          append: ({ header, sections }: Parameters<typeof writer.append>[0]) =>
            writer.append({ header: { ...header, mark: header.mark && { ...header.mark, reset: false } }, sections }),
        })),
    },
    caughtBy: ['projection'],
    workload: { keyless: 1 },
  },
  {
    name: 'a projection that stands inside of a table read in one piece when the broker loses it',
    breakage: { changelogs: hidesWhole },
    caughtBy: ['projection', 'convergence'],
    faults: { brokerAim: 0.5, brokerCrash: 0, crash: 0, breakConnection: 0, ask: 300, weather: 300 },
    workload: { keyless: 0.7, everyMs: 30, statementMs: 2, visibleMs: 0 },
  },
  {
    name: 'the old row of an update is not told',
    breakage: {
      database: replication((options) => ({
        ...options,
        message: (bytes, start, end) => options.message(withoutOldRow(bytes.subarray(start, end))),
      })),
    },
    caughtBy: ['content'],
    workload: { keyless: 1 },
  },
  {
    name: 'nobody looks for updates of append-only tables',
    breakage: {
      database: session((one) => ({
        tables: async (wanted) => (await one.tables(wanted)).map((table) => ({ ...table, churn: '' })),
        contentOf: async () => '',
      })),
    },
    caughtBy: ['convergence'],
    faults: { ask: 0 },
    workload: { keyless: 1 },
  },
  {
    name: 'statistics that a crash took are taken for those of before',
    breakage: {
      database: session((one) => ({
        tables: async (wanted) =>
          (await one.tables(wanted)).map((table) => ({ ...table, churn: table.churn.replace(/ since .*/, '') })),
      })),
    },
    caughtBy: ['convergence'],
    faults: { postgresCrash: 3_000, ask: 0 },
    workload: { keyless: 0.5, everyMs: 400 },
  },
];
