import { appendFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tributary } from '../../fixtures/system.ts';
import { runWorkload, seeded } from '../../fixtures/workload.ts';
import { chaos } from './chaos.ts';
import { LANES } from './faults.ts';
import { expectTruth } from './oracle.ts';
import { Takeovers } from './takeovers.ts';
import { SOURCES, World } from './world.ts';

/** Printed by every run; `npm run chaos -- --seed N` repeats the same blows. What they meet depends on timing. */
const seed = Number(process.env['TRIBUTARY_SEED'] ?? Date.now() % 1_000_000);
const minutes = Number(process.env['TRIBUTARY_CHAOS_MINUTES'] ?? 1);
/** Between two transactions of one source: the machine has other things to do. */
const REST_MS = 80;

describe(`three NATS servers, three sources and six workers under ${minutes} min of faults (seed ${seed})`, () => {
  let logs: string;
  let world: World;
  let takeovers: Takeovers;
  let passed = false;
  const began = performance.now();
  const say = (what: string, facts: object = {}) => {
    const line = `${new Date().toISOString().slice(11, 23)} ${((performance.now() - began) / 1000).toFixed(1).padStart(7)} s  ${what}`;
    appendFileSync(join(logs, 'faults.log'), `${line}  ${JSON.stringify(facts)}\n`);
    process.stderr.write(`${line}\n`);
  };

  beforeAll(async () => {
    logs = await mkdtemp(join(tmpdir(), `tributary-chaos-${seed}-logs-`));
    process.stderr.write(`Chaos with seed ${seed} for ${minutes} min. Logs meanwhile: ${logs}\n`);
    world = await World.open(logs);
    await world.fill();
    await world.start();
    takeovers = await Takeovers.listen(world.nats.url, ({ fault, actor, ms }) =>
      say(`${actor} was away for ${Math.round(ms / 1000)} s after ${fault}`),
    );
  }, 180_000);

  afterAll(async () => {
    await takeovers?.close();
    await world?.keepLogs(logs);
    await world?.close();
    if (!passed)
      process.stderr.write(`CHAOS FAILED. The same blows again: npm run chaos -- --minutes ${minutes} --seed ${seed}\n`);
    if (passed && !process.env['TRIBUTARY_KEEP']) await rm(logs, { recursive: true });
    else process.stderr.write(`Logs of workers, servers and faults: ${logs}\n`);
  }, 120_000);

  it(
    'ends with every projection equal to its source, and every change in its changelog exactly once',
    async () => {
      const nats = ['--nats', world.nats.url];
      const caught = await tributary(['status', '--wait', 'caught-up', '--timeout', '120s', ...nats], { timeoutMs: 180_000 });
      expect(caught.code, caught.stderr).toBe(0);
      const enough = new AbortController();
      const loads = SOURCES.map((source, i) =>
        runWorkload({
          url: world.sources.url(source),
          schema: 'public',
          seed: seed + i,
          operations: Number.POSITIVE_INFINITY,
          restMs: REST_MS,
          signal: enough.signal,
          truncatable: ['film_actor', 'payment', 'film_category'],
        }),
      );
      try {
        const timer = setTimeout(() => enough.abort(), minutes * 60_000);
        const over = Promise.all(loads).finally(() => enough.abort());
        // Also one that fails is awaited below, when everything is whole again.
        over.catch(() => {});
        const blows = await chaos(LANES, { world, takeovers, random: seeded(seed), say }, enough.signal);
        clearTimeout(timer);
        say(`${blows} blows dealt; everything is whole again`);
        const operations = (await over).reduce((sum, one) => sum + one, 0);
        const { tables, transactions } = await expectTruth(world);
        say(`equal: ${tables} tables; exactly once: ${transactions} transactions (${operations} statements)`);
      } finally {
        enough.abort();
        await Promise.allSettled(loads);
      }
      for (const line of takeovers.report()) say(line);
      passed = true;
    },
    minutes * 60_000 + 900_000,
  );
});
