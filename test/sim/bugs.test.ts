import { describe, expect, it } from 'vitest';
import { BUGS } from './bugs.ts';
import { simulate } from './simulate.ts';

/** Seeds within which a deliberate mistake must be caught. */
const SEEDS_MAX = 300;

describe('a simulation that can fail', () => {
  it.each(BUGS.map((bug) => [bug.name, bug] as const))('catches: %s', async (_, { name: _name, caughtBy, ...options }) => {
    for (let seed = 1; seed <= SEEDS_MAX; seed++) {
      const { violation } = await simulate(seed, options);
      if (!violation) continue;
      expect(caughtBy, violation.message).toContain(violation.checker);
      return;
    }
    expect.fail(`not caught within ${SEEDS_MAX} seeds`);
  });
});
