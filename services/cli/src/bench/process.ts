import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { ORIGIN } from '@tributary/core';
import { type ProcessMap, startMonitor } from '@tributary/monitor';
import type { Session } from '@tributary/postgres';
import { startSources } from '@tributary/source';
import { barrier } from '../cluster.ts';
import type { Output } from '../output.ts';
import { measure, peakRssMb, round, type Usage } from './measure.ts';
import { insertPlainly } from './process-events.ts';
import { type MapFigures, mapOfMillion } from './process-map.ts';
import { type LetterFigures, measureLetters } from './process-letters.ts';
import {
  ask,
  begin,
  BROKEN_ONE_IN,
  configOf,
  EVENTS_A_CASE,
  far,
  OPEN_STEPS,
  reached,
  rounds,
  type Source,
  SOURCES,
} from './process-world.ts';
import { openWorld, type World } from './world.ts';

const LIVE_SECONDS = 20;
const LIVE_RATE = 1_000;

/**
 * Orders, payments and parcels of three databases, whose changes stand in three changelogs already, become a process with ten rules, by a monitor that
 * starts when they do. Then cases that stay open (memory of each), a steady rate (from a commit that breaks a rule until the verdict can be asked
 * for), and a map over a million events. Beside it: reading the same changelogs and nothing else, and plain DuckDB inserting the same events.
 * @param rows events
 */
export async function benchProcess(rows: number, output: Output): Promise<void> {
  const world = await openWorld(SOURCES);
  const running: { stop(): Promise<void> }[] = [];
  try {
    const sessions = await begin(world);
    const config = await configOf(world);
    running.push(await startSources(config, world.runtime));
    // Nothing of what follows is before their slots.
    for (const source of SOURCES) await barrier(world.broker.bus, source, far());
    const cases = Math.ceil(rows / EVENTS_A_CASE);
    await rounds(sessions, { first: 1, cases, steps: EVENTS_A_CASE });
    const reading = await measure(() => readAll(world));
    const ours = await measure(async () => {
      running.push(await startMonitor(config, world.runtime));
      await reached(world);
    });
    const map = await expectSame(world, cases);
    const memory = await memoryOfOpen(world, sessions, cases);
    const latency = await measureVerdicts(world, sessions, 3 * cases);
    await running.pop()?.stop();
    const plain = await insertPlainly(
      join(world.runtime.dataDir, 'process', 'flow.duckdb'),
      await mkdtemp(join(world.folder, 'plain-')),
    );
    const large = await mapOfMillion(config, await mkdtemp(join(world.folder, 'map-')));
    const letters = await measureLetters();
    report({ events: map.events, ours, reading, plain, memory, latency, letters, large }, output);
  } finally {
    for (const one of running.toReversed()) await one.stop();
    await world.close();
  }
}

async function readAll(world: World): Promise<void> {
  for (const source of SOURCES) {
    await barrier(world.broker.bus, source, far());
    const last = (await world.broker.changelogs.last(source))?.seq ?? 0;
    const stop = new AbortController();
    for await (const batch of world.broker.changelogs.read(source, { after: ORIGIN, signal: stop.signal })) {
      for (const section of batch.sections) for (const column of section.columns) column.values();
      if (batch.seq >= last) break;
    }
    stop.abort();
  }
}

/** The figure counts only if every event is there, and exactly what was broken is found. */
async function expectSame(world: World, cases: number): Promise<ProcessMap> {
  const map = await ask<ProcessMap>(world, { what: 'map' });
  const broken = await ask<{ cases: object[] }>(world, { what: 'cases', state: 'violated', limit: 2_000 });
  const expected = Math.min(2_000, Math.floor(cases / BROKEN_ONE_IN));
  if (map.cases !== cases || map.events !== cases * EVENTS_A_CASE || broken.cases.length !== expected)
    throw new Error(
      `the process holds ${map.events} events of ${map.cases} cases, ${broken.cases.length} broken, not ${cases} and ${expected}`,
    );
  return map;
}

interface Memory {
  readonly cases: number;
  readonly heapBytesPerCase: number;
  readonly rssBytesPerCase: number;
}

/** What as many cases again that stay open add to this process. */
async function memoryOfOpen(world: World, sessions: ReadonlyMap<Source, Session>, cases: number): Promise<Memory> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const now = () => {
    collect();
    const { heapUsed, external, rss } = process.memoryUsage();
    return { heap: heapUsed + external, rss };
  };
  const before = now();
  await rounds(sessions, { first: cases + 1, cases, steps: OPEN_STEPS });
  await reached(world);
  const after = now();
  return {
    cases,
    heapBytesPerCase: Math.round((after.heap - before.heap) / cases),
    rssBytesPerCase: Math.round((after.rss - before.rss) / cases),
  };
}

interface Latency {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly rate: number;
}

/** Orders at a steady rate, of which one in twenty breaks a rule; each of these is timed from its commit until a question finds it. */
async function measureVerdicts(world: World, sessions: ReadonlyMap<Source, Session>, first: number): Promise<Latency> {
  const shop = sessions.get('shop') as Session;
  await shop.run('SET synchronous_commit = on');
  const broken: { readonly id: string; readonly atMs: number }[] = [];
  const began = performance.now();
  let id = first;
  let writing = true;
  const write = (async () => {
    for (let passed = 0; passed < LIVE_SECONDS * 1_000; passed = performance.now() - began) {
      const due = Math.floor((passed / 1_000) * LIVE_RATE) / 20;
      if ((id - first) / 20 >= due) {
        await new Promise((resolve) => setTimeout(resolve, 1));
        continue;
      }
      await shop.run(
        `INSERT INTO public.orders SELECT i, CASE WHEN i = ${id} THEN 'lost' ELSE 'new' END FROM generate_series(${id}, ${id + 19}) i`,
      );
      broken.push({ id: String(id), atMs: performance.now() });
      id += 20;
    }
    writing = false;
  })();
  const waits: number[] = [];
  for (let seen = 0; writing || seen < broken.length; ) {
    const { cases } = await ask<{ cases: { case: string }[] }>(world, {
      what: 'cases',
      state: 'violated',
      rule: 'allowed.order',
      limit: 1,
    });
    const newest = broken.findIndex((one) => one.id === cases[0]?.case);
    const now = performance.now();
    for (; seen <= newest; seen++) waits.push(now - (broken[seen]?.atMs ?? now));
    // One after the other they would be measured themselves.
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  await write;
  const seconds = (performance.now() - began) / 1_000;
  waits.sort((a, b) => a - b);
  const at = (quantile: number) => round(waits[Math.min(waits.length - 1, Math.floor(waits.length * quantile))] as number, 1);
  return { p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1), rate: Math.round((id - first) / seconds) };
}

interface Figures {
  readonly events: number;
  readonly ours: Usage;
  readonly reading: Usage;
  readonly plain: Usage & { readonly events: number };
  readonly memory: Memory;
  readonly latency: Latency;
  readonly letters: LetterFigures;
  readonly large: MapFigures;
}

function report({ events, ours, reading, plain, memory, latency, letters, large }: Figures, output: Output): void {
  const rate = (usage: Usage, count: number) => Math.round(count / usage.seconds);
  const reference = { name: 'plain DuckDB, the same events appended', rowsPerSecond: rate(plain, plain.events) };
  const told = {
    bench: 'process',
    rows: events,
    rules: 10,
    rowsPerSecond: rate(ours, events),
    rowsPerCpuSecond: Math.round(events / ours.cpuSeconds),
    cpuMicrosPerRow: round((ours.cpuSeconds * 1e6) / events),
    rssMb: peakRssMb(),
    reference,
    ratio: round(rate(ours, events) / reference.rowsPerSecond, 3),
    others: [
      {
        name: 'reading the changelogs',
        rowsPerSecond: rate(reading, events),
        cpuMicrosPerRow: round((reading.cpuSeconds * 1e6) / events),
      },
      { name: 'open cases', ...memory },
      { name: 'commit to verdict', ...latency },
      { name: 'commit to webhook', ...letters },
      { name: 'map', ...large },
    ],
  };
  if (output.json) return output.value(told);
  output.line(
    `${events} events, ten rules: ${told.rowsPerSecond}/s, ${told.cpuMicrosPerRow} µs CPU an event (${told.rowsPerCpuSecond} a CPU second), ${told.rssMb} MB\n` +
      `plain DuckDB ${reference.rowsPerSecond} events/s, ratio ${told.ratio}; reading alone ${rate(reading, events)}/s\n` +
      `an open case: ${memory.heapBytesPerCase} bytes of heap, ${memory.rssBytesPerCase} resident (${memory.cases} cases)\n` +
      `commit to verdict: p50 ${latency.p50Ms}, p99 ${latency.p99Ms}, max ${latency.maxMs} ms at ${latency.rate} events/s\n` +
      `commit to webhook: p50 ${letters.p50Ms}, p99 ${letters.p99Ms}, max ${letters.maxMs} ms at ${letters.rate} orders/s (${letters.letters} letters)\n` +
      `map over ${large.events} events: the first ${round(large.first.seconds)} s (${round(large.first.cpuSeconds)} of CPU), behind ${large.changed} changed cases ${large.next.seconds} s (${large.next.cpuSeconds}), of half of the time ${large.half.seconds} s (${large.half.cpuSeconds})`,
  );
}
