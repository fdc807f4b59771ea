import { randomBytes } from 'node:crypto';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Session } from '@tributary/postgres';
import { startMonitor } from '@tributary/monitor';
import { startSources } from '@tributary/source';
import { barrier } from '../cluster.ts';
import { measure, round } from './measure.ts';
import { begin, configOf, EVENTS_A_CASE, far, reached, rounds, SOURCES } from './process-world.ts';
import { openWorld } from './world.ts';

/** Cases that are there before; in three of them a rule is broken. */
const CASES = 3_000;
const SECONDS = 30;
const RATE = 300;
/** Orders of one commit. */
const ORDERS = 20;
/** Of so many commits one breaks a rule: as many alerts must fit at once. */
const BROKEN_ONE_IN = 4;
/** Of the first orders. */
const FIRST = 100_000_000;
const SETTLED_MS = 30_000;

export interface LetterFigures {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  /** Orders a second. */
  readonly rate: number;
  readonly letters: number;
  /** Of everything but PostgreSQL and NATS, per second. */
  readonly cpuSeconds: number;
}

/**
 * Orders at a steady rate into a process that knows 30,000 events, of which some break a rule: each from its commit until a receiver on loopback was told
 * of its case (`group_by: case`, so that no letter waits for the one before it).
 */
export async function measureLetters(): Promise<LetterFigures> {
  const world = await openWorld(SOURCES);
  const running: { stop(): Promise<void> }[] = [];
  const told = new Map<string, number>();
  const receiver = await receive((one) => {
    if (!told.has(one)) told.set(one, performance.now());
  });
  try {
    const sessions = await begin(world);
    const url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`;
    const more = `alerts: [{ on: [rule], to: [ops], group_by: case }]\n---\nkind: Hook\nname: ops\nwebhook: { url: "${url}", secret: whsec_${randomBytes(24).toString('base64')} }\n`;
    const config = await configOf(world, more);
    running.push(await startSources(config, world.runtime));
    for (const source of SOURCES) await barrier(world.broker.bus, source, far());
    await rounds(sessions, { first: 1, cases: CASES, steps: EVENTS_A_CASE });
    running.push(await startMonitor(config, world.runtime));
    await reached(world);
    const committed = new Map<string, number>();
    let rate = 0;
    const usage = await measure(async () => {
      rate = await write(sessions.get('shop') as Session, committed);
    });
    const until = performance.now() + SETTLED_MS;
    while ([...committed.keys()].some((one) => !told.has(one)) && performance.now() < until)
      await new Promise((resolve) => setTimeout(resolve, 20));
    const waits = [...committed].map(([one, atMs]) => (told.get(one) ?? Infinity) - atMs).toSorted((a, b) => a - b);
    if (waits.at(-1) === Infinity) throw new Error('some that broke a rule were not told of');
    const at = (quantile: number) => round(waits[Math.min(waits.length - 1, Math.floor(waits.length * quantile))] as number, 1);
    const cpuSeconds = round(usage.cpuSeconds / usage.seconds);
    return { p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1), rate, letters: waits.length, cpuSeconds };
  } finally {
    for (const one of running.toReversed()) await one.stop();
    receiver.closeAllConnections();
    receiver.close();
    await world.close();
  }
}

/** @param told of every case that a letter names */
async function receive(told: (one: string) => void): Promise<Server> {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const { findings } = JSON.parse(Buffer.concat(chunks).toString('utf8')) as { findings: { case: string }[] };
      for (const one of findings) told(one.case);
      response.writeHead(204).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return server;
}

/** @param committed when each order that breaks a rule was. @returns orders a second */
async function write(shop: Session, committed: Map<string, number>): Promise<number> {
  await shop.run('SET synchronous_commit = on');
  const began = performance.now();
  let commits = 0;
  for (let passed = 0; passed < SECONDS * 1_000; passed = performance.now() - began) {
    if (commits * ORDERS >= (passed / 1_000) * RATE) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      continue;
    }
    const id = FIRST + commits * ORDERS;
    const state = commits % BROKEN_ONE_IN === 0 ? `CASE WHEN i = ${id} THEN 'lost' ELSE 'new' END` : `'new'`;
    await shop.run(`INSERT INTO public.orders SELECT i, ${state} FROM generate_series(${id}, ${id + ORDERS - 1}) i`);
    if (commits % BROKEN_ONE_IN === 0) committed.set(String(id), performance.now());
    commits++;
  }
  return Math.round((commits * ORDERS) / ((performance.now() - began) / 1_000));
}
