import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ROOT } from '../fixtures/system.ts';
import { simulate } from './simulate.ts';

/** What CI runs; `npm run sim -- --seed N --runs K` runs any others. */
const SEEDS = 500;
const PARTS = 10;

interface Kept {
  readonly seed: number;
  readonly faults: Readonly<Record<string, string>>;
}

const kept: readonly Kept[] = readFileSync(join(ROOT, 'test/sim/seeds.txt'), 'utf8')
  .split('\n')
  .map((line) => line.trim())
  .filter((line) => line && !line.startsWith('#'))
  .map((line) => {
    const [seed, ...faults] = line.split(/\s+/);
    return { seed: Number(seed), faults: Object.fromEntries(faults.map((fault) => fault.split('='))) as Record<string, string> };
  });

async function broken(seeds: Iterable<Kept>): Promise<string[]> {
  const found: string[] = [];
  for (const { seed, faults } of seeds) {
    const plan = Object.fromEntries(Object.entries(faults).map(([fault, ms]) => [fault, Number(ms)]));
    const { violation } = await simulate(seed, { faults: plan });
    if (violation) found.push(`seed ${seed}: ${violation.message} (again: npm run sim -- --seed ${seed} --trace)`);
  }
  return found;
}

describe('simulation', () => {
  it('is a function of its seed', async () => {
    for (const seed of [1, 2, 3]) {
      const first = await simulate(seed);
      const again = await simulate(seed);
      expect(again.hash).toBe(first.hash);
      expect(again.events).toBe(first.events);
    }
    expect((await simulate(1)).hash).not.toBe((await simulate(2)).hash);
  });

  it('holds every rule for every seed that once broke one', async () => {
    expect(kept.length).toBeGreaterThan(0);
    expect(await broken(kept)).toEqual([]);
  });

  it.each(Array.from({ length: PARTS }, (_, part) => part))('holds every rule, part %i', async (part) => {
    const seeds = Array.from({ length: SEEDS / PARTS }, (_, i) => ({ seed: 1 + part * (SEEDS / PARTS) + i, faults: {} }));
    expect(await broken(seeds)).toEqual([]);
  });
});
