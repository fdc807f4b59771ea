import { type Broker, type EventStreams, memoryBroker, MemoryEventStreams, SectionDraft } from '@tributary/changelog';
import type { EventsSinkConfig } from '@tributary/config';
import { Fault, Op, type OpCode, systemClock, type TableSchema } from '@tributary/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EventsProjection } from './events.ts';
import { NatsOutlet } from './nats-outlet.ts';

const type = { oid: 23, schema: 'pg_catalog', name: 'int4', kind: 'base' } as const;
const schemaOf = (table: string): TableSchema => ({
  schema: 'public',
  table,
  identity: 'default',
  columns: [
    { name: 'id', type, typmod: -1, sqlType: 'integer', key: 1 },
    { name: 'v', type, typmod: -1, sqlType: 'integer', key: 0 },
  ],
});
const SCHEMAS = [schemaOf('a'), schemaOf('b')] as const;
const LOG = { debug() {}, info() {}, warn() {}, error() {} };
const OPS: readonly OpCode[] = [Op.created, Op.updated, Op.deleted, Op.truncated];

interface Row {
  readonly table: 0 | 1;
  readonly op: OpCode;
  readonly id: number;
  /** Of an update: the former key. */
  readonly from: number | null;
}

/** Transactions, and after how many changes of all each message ends. */
interface History {
  readonly transactions: readonly (readonly Row[])[];
  readonly cuts: ReadonlySet<number>;
}

/** Writes a history: a message ends where it is told to, and at least at the end. */
async function write({ changelogs }: Broker, { transactions, cuts }: History): Promise<void> {
  const writer = await changelogs.write('s', { replicas: 1, maxAgeMs: 0, maxBytes: 0 });
  let written = 0;
  let pending: { lsn: bigint; ordinal: number; row: Row }[] = [];
  let continues = false;
  const flush = async (more: boolean) => {
    if (pending.length === 0) return;
    const lsns = [...new Set(pending.map(({ lsn }) => lsn))];
    const sections = SCHEMAS.map((schema) => new SectionDraft(schema));
    for (const { lsn, ordinal, row } of pending) {
      const draft = sections[row.table] as SectionDraft;
      const truncated = row.op === Op.truncated;
      draft.cells[0]?.push(truncated ? null : String(row.id));
      draft.cells[1]?.push(truncated ? null : row.op === Op.deleted ? undefined : String(ordinal));
      if (row.op === Op.updated && row.from !== null) {
        const [key, value] = draft.oldCells();
        key?.push(String(row.from));
        value?.push(undefined);
      }
      draft.row(row.op, lsns.indexOf(lsn), ordinal);
    }
    const last = pending.at(-1) as (typeof pending)[number];
    const position = { lsn: last.lsn, ordinal: last.ordinal };
    const header = {
      source: 's',
      epoch: 'e.1',
      kind: 'stream',
      position,
      restart: last.lsn,
      watermark: 1,
      mark: null,
      state: null,
    } as const;
    const list = lsns.map((lsn) => ({ lsn, endLsn: lsn + 1n, xid: Number(lsn), committedAt: 1_000 }));
    await writer.append({
      header: { ...header, continues, more, transactions: list },
      sections: sections.filter(({ rows }) => rows > 0),
    });
    pending = [];
    continues = more;
  };
  for (const [t, rows] of transactions.entries()) {
    for (const [i, row] of rows.entries()) {
      pending.push({ lsn: BigInt(10 * (t + 1)), ordinal: i + 1, row });
      if (cuts.has(++written)) await flush(i < rows.length - 1);
    }
  }
  await flush(false);
}

/** Streams that fail now and then: before a message is stored, or after, when only the answer is lost. */
function faulty(streams: EventStreams, budget: { left: number; after: boolean }): EventStreams {
  return {
    async open(...given) {
      const writer = await streams.open(...given);
      let broken = false;
      return {
        ...writer,
        async append(message) {
          if (broken) throw new Fault('broker_unreachable', 'lost before');
          const lost = budget.left-- === 0;
          broken = lost;
          if (lost && !budget.after) throw new Fault('broker_unreachable', 'lost');
          const seq = await writer.append(message);
          if (lost) throw new Fault('broker_unreachable', 'the answer was lost');
          return seq;
        },
      };
    },
  };
}

async function run(broker: Broker, streams: EventStreams, config: EventsSinkConfig, name: string): Promise<void> {
  const target = { subject: 'e.{schema}.{table}', stream: name, maxAgeMs: 0, maxBytes: 0 };
  const { positions } = broker.changelogs;
  const outlet = new NatsOutlet({
    sink: name,
    source: 's',
    target,
    replicas: 1,
    streams,
    positions,
    clock: systemClock,
    log: LOG,
  });
  const projection = new EventsProjection({ config, source: 's', database: 'd', outlet });
  const end = (await broker.changelogs.status('s'))?.lastSeq ?? 0;
  const after = await projection.position();
  if (after.seq < end) {
    const stop = new AbortController();
    for await (const batch of broker.changelogs.read('s', { after, signal: stop.signal })) {
      const { position, epoch, more, watermark } = batch.header;
      const group = { batches: [batch], partial: more, watermark, after: { seq: batch.seq, ...position, epoch } };
      await (await projection.apply(group)).settled;
      if (batch.seq >= end) break;
    }
  }
  await projection.close();
}

const FORMATS: readonly Partial<EventsSinkConfig>[] = [
  { format: 'cloudevents' },
  { format: 'cloudevents', transactions: true },
  { format: 'debezium', transactions: true, tombstones: true },
];

const row: fc.Arbitrary<Row> = fc.record({
  table: fc.constantFrom(0, 1),
  op: fc.constantFrom(...OPS),
  id: fc.integer({ min: 1, max: 3 }),
  from: fc.option(fc.integer({ min: 1, max: 3 })),
});
const history: fc.Arbitrary<History> = fc.record({
  transactions: fc.array(fc.array(row, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 6 }),
  cuts: fc.uniqueArray(fc.integer({ min: 1, max: 36 })).map((cuts) => new Set(cuts)),
});

describe('events of one source', () => {
  it.each(FORMATS)('are the same however the changelog is cut, whoever crashes when: %j', async (format) => {
    const config = {
      name: 'e',
      from: ['*'],
      tables: ['*.*'],
      ops: ['create', 'update', 'delete', 'truncate', 'read'],
      where: { 'public.b': { id: { not: 2 } } },
      snapshot: true,
      transactions: false,
      schemas: false,
      tombstones: false,
      serverName: '{source}',
      onError: 'halt',
      target: {},
      ...format,
    } as unknown as EventsSinkConfig;
    await fc.assert(
      fc.asyncProperty(
        history,
        fc.uniqueArray(fc.integer({ min: 1, max: 36 })),
        fc.array(fc.record({ left: fc.nat(6), after: fc.boolean() }), { maxLength: 5 }),
        async (told, otherCuts, crashes) => {
          const streams = new MemoryEventStreams();
          const whole = memoryBroker();
          await write(whole, told);
          await run(whole, streams, config, 'whole');
          const broker = memoryBroker();
          await write(broker, { ...told, cuts: new Set(otherCuts) });
          for (const crash of crashes) await run(broker, faulty(streams, { ...crash }), config, 'crashed').catch(() => {});
          await run(broker, streams, config, 'crashed');
          const sent = (name: string) =>
            streams
              .messages(name)
              .map(({ id, subject, body }) => `${id} ${subject} ${String(body).replaceAll(/"ts_[a-z]+":\d+/g, '')}`);
          expect(sent('crashed')).toEqual(sent('whole'));
          expect(new Set(sent('whole').map((one) => one.split(' ')[0])).size).toBe(sent('whole').length);
        },
      ),
      { numRuns: 40 },
    );
  });
});
