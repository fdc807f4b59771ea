import { once } from 'node:events';
import { connect as tcp } from 'node:net';
import type { Config } from '@tributary/config';
import { formatLsn } from '@tributary/core';
import { startSources } from '@tributary/source';
import type { Output } from '../output.ts';
import { barrier } from '../cluster.ts';
import { Thread } from '../system.ts';
import { findProgram, measure, measureProgram, round, type Usage } from './measure.ts';
import { openWorld, ORDERS, ordersFrom, type World } from './world.ts';

const SMALL = 20;
/** Every reader reads the WAL so often, in turns: the machine's moods reach all of them alike. The median counts. */
const ROUNDS = [1, 2, 3] as const;

/**
 * Rows a second from WAL that is already there into the changelog, beside two readers of the same WAL through slots of the same
 * age: one that drains the socket with coalesced reads and throws the bytes away (what the server can send), and pg_recvlogical.
 */
export async function benchSource(rows: number, output: Output): Promise<void> {
  const world = await openWorld(['bench']);
  try {
    const session = await world.session('bench');
    await session.run(ORDERS);
    for (const round of ROUNDS) {
      // One run of the source makes slot and publication; it ends before the load.
      const first = await startSources(configOf(world, round), world.runtime);
      await barrier(world.broker.bus, sourceOf(round), Date.now() + 60_000);
      await first.stop();
      for (const slot of [`drain_${round}`, `recv_${round}`])
        await session.run(`SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput')`);
    }
    await session.run(`SELECT pg_create_logical_replication_slot('warm', 'pgoutput')`);
    await load(session, rows);
    const { lsn } = await session.row<{ lsn: string }>('SELECT pg_current_wal_insert_lsn()::text AS lsn');

    // The first reader warms the caches that all of them read from.
    await drainSlot(world, 'warm', rows);
    const program = findProgram('pg_recvlogical');
    const ours: Usage[] = [];
    const drain: Usage[] = [];
    const recv: Usage[] = [];
    for (const round of ROUNDS) {
      ours.push(await measure(() => capture(world, round)));
      await expectRows(world, sourceOf(round), rows);
      drain.push(await measure(() => drainSlot(world, `drain_${round}`, rows)));
      if (program) recv.push(await measureProgram(program, recvArguments(world, `recv_${round}`, lsn)));
    }
    report({ rows, ours: median(ours), drain: median(drain), recv: program ? median(recv) : null }, output);
  } finally {
    await world.close();
  }
}

/** All rounds capture the same database, each into a changelog of its own. */
function sourceOf(round: number): string {
  return `bench_${round}`;
}

function configOf(world: World, round: number): Config {
  const config = world.config([]);
  return { ...config, sources: config.sources.map((source) => ({ ...source, name: sourceOf(round) })) };
}

function median(usages: readonly Usage[]): Usage {
  return usages.toSorted((a, b) => a.seconds - b.seconds)[Math.floor(usages.length / 2)] as Usage;
}

/** The source as `up` runs it: in a thread of its own. Includes its start. */
async function capture(world: World, round: number): Promise<void> {
  const thread = new Thread({
    service: 'source',
    config: configOf(world, round),
    nats: world.nats.url,
    dataDir: world.folder,
    worker: 'bench',
    logLevel: 'warn',
  });
  await thread.started;
  await barrier(world.broker.bus, sourceOf(round), Date.now() + 600_000);
  await thread.stop();
}

/** Half of the rows in one transaction, half in small ones. */
async function load(session: Awaited<ReturnType<World['session']>>, rows: number): Promise<void> {
  const half = Math.floor(rows / 2);
  await session.run(ordersFrom(1, half));
  await session.run(
    `CREATE PROCEDURE public.small() LANGUAGE plpgsql AS $$ BEGIN FOR i IN 0..${Math.ceil((rows - half) / SMALL) - 1} LOOP
       ${ordersFrom(0, 0).replace('generate_series(0, 0)', `generate_series(${half} + 1 + i_ * ${SMALL}, least(${rows}, ${half} + (i_ + 1) * ${SMALL}))`)};
       COMMIT; END LOOP; END $$`.replace('FOR i IN', 'FOR i_ IN'),
  );
  await session.run('CALL public.small()');
}

function recvArguments(world: World, slot: string, endLsn: string): string[] {
  const { host, port, user, database } = world.connection('bench');
  const options = ['proto_version=1', `publication_names=tributary_${sourceOf(1)}`, 'messages=true'].flatMap((option) => [
    '-o',
    option,
  ]);
  return [
    '-h',
    host,
    '-p',
    String(port),
    '-U',
    user,
    '-d',
    database,
    '-S',
    slot,
    '--start',
    '-f',
    '/dev/null',
    '-E',
    endLsn,
    '--no-loop',
    ...options,
  ];
}

/** Speaks just enough of the protocol to receive everything, in large reads with a millisecond's rest between them. */
async function drainSlot(world: World, slot: string, rows: number): Promise<void> {
  const { host, port, user, database } = world.connection('bench');
  let seen = 0;
  let rest: Buffer | null = null;
  let streaming = false;
  const done = new AbortController();
  const buffer = Buffer.allocUnsafe(1 << 20);
  const take = (length: number): boolean => {
    let bytes = rest ? Buffer.concat([rest, buffer.subarray(0, length)]) : buffer.subarray(0, length);
    let at = 0;
    while (bytes.length - at >= 5) {
      const size = bytes.readUInt32BE(at + 1) + 1;
      if (bytes.length - at < size) break;
      if (bytes[at] === 0x5a && !streaming) {
        streaming = true;
        socket.write(
          message(
            'Q',
            `START_REPLICATION SLOT ${slot} LOGICAL 0/0 (proto_version '1', publication_names 'tributary_${sourceOf(1)}', messages 'true')\0`,
          ),
        );
      } else if (bytes[at] === 0x64 && bytes[at + 5] === 0x77 && bytes[at + 30] === 0x49 && ++seen === rows) done.abort();
      at += size;
    }
    bytes = bytes.subarray(at);
    rest = bytes.length > 0 ? Buffer.from(bytes) : null;
    if (!streaming) return true;
    setTimeout(() => socket.resume(), 1);
    return false;
  };
  const socket = tcp({ host, port, onread: { buffer, callback: take } });
  socket.once('connect', () => {
    const parameters = Object.entries({ user, database, replication: 'database', client_encoding: 'UTF8' }).flat().join('\0');
    const body = Buffer.from(`\0\x03\0\0${parameters}\0\0`, 'latin1');
    const head = Buffer.alloc(4);
    head.writeInt32BE(body.length + 4);
    socket.write(Buffer.concat([head, body]));
  });
  await once(done.signal, 'abort');
  socket.destroy();
}

function message(type: string, body: string): Buffer {
  const bytes = Buffer.alloc(5 + Buffer.byteLength(body));
  bytes.write(type, 0, 'latin1');
  bytes.writeInt32BE(Buffer.byteLength(body) + 4, 1);
  bytes.write(body, 5);
  return bytes;
}

/** The figure counts only if every row is in the changelog. */
async function expectRows(world: World, source: string, rows: number): Promise<void> {
  const stop = new AbortController();
  const last = await world.broker.changelogs.last(source);
  let found = 0;
  for await (const batch of world.broker.changelogs.read(source, {
    after: { seq: 0, lsn: 0n, ordinal: 0 },
    signal: stop.signal,
  })) {
    for (const section of batch.sections) found += section.rows;
    if (batch.seq >= (last?.seq ?? 0)) break;
  }
  stop.abort();
  if (found !== rows)
    throw new Error(`the changelog up to ${formatLsn(last?.header.position.lsn ?? 0n)} holds ${found} rows, not ${rows}`);
}

function report(
  { rows, ours, drain, recv }: { rows: number; ours: Usage; drain: Usage; recv: Usage | null },
  output: Output,
): void {
  const perSecond = (usage: Usage) => Math.round(rows / usage.seconds);
  const micros = (usage: Usage) => round((usage.cpuSeconds * 1e6) / rows);
  const others = recv
    ? [
        {
          name: 'pg_recvlogical -f /dev/null',
          rowsPerSecond: perSecond(recv),
          cpuMicrosPerRow: micros(recv),
          rssMb: recv.rssMb,
          ratio: round(perSecond(ours) / perSecond(recv)),
        },
      ]
    : [];
  const result = {
    bench: 'source',
    rows,
    rowsPerSecond: perSecond(ours),
    cpuMicrosPerRow: micros(ours),
    rssMb: ours.rssMb,
    reference: { name: 'drain, coalesced reads', rowsPerSecond: perSecond(drain), cpuMicrosPerRow: micros(drain) },
    ratio: round(perSecond(ours) / perSecond(drain)),
    others,
  };
  if (output.json) output.value(result);
  else {
    output.line(
      `source            ${result.rowsPerSecond} rows/s durable, ${result.cpuMicrosPerRow} µs CPU a row, ${result.rssMb} MB`,
    );
    output.line(
      `drain (the limit) ${result.reference.rowsPerSecond} rows/s, ${result.reference.cpuMicrosPerRow} µs; ratio ${result.ratio}`,
    );
    for (const other of others)
      output.line(`pg_recvlogical    ${other.rowsPerSecond} rows/s, ${other.cpuMicrosPerRow} µs; ratio ${other.ratio}`);
    if (!recv) output.line('pg_recvlogical is not installed: not compared');
  }
}
