import { defineConfig } from 'vitest/config';

/**
 * One project per tier; each tier's rule stands in CONTRIBUTING.md. Servers are shared by nobody, so `npm test` runs files side by side,
 * whatever their tier; but what measures time or memory, or chooses its own load, runs alone.
 * `timeout` only ends what hangs: what takes 10 s alone on a quiet machine takes a minute on a busy one.
 */
const tier = (name: string, include: string[], { timeout, exclude = [] }: { timeout: number; exclude?: string[] }) => ({
  test: {
    name,
    include,
    exclude: ['**/dist/**', '**/node_modules/**', ...exclude],
    testTimeout: timeout,
    hookTimeout: timeout,
    // Files share a process, one after the other: loading modules anew for each was two fifths of the CPU of the unit tier (185 s, now 108).
    isolate: false,
    fileParallelism: name !== 'alone' && name !== 'browser',
    passWithNoTests: false,
    // Those that run the program itself want it up to date.
    ...(name === 'unit' || name === 'tidy' || name === 'sim' ? {} : { globalSetup: ['scripts/bundle.mjs'] }),
  },
});

const ALONE = ['test/integration/stop.test.ts', 'test/e2e/huge-transaction.test.ts', 'test/e2e/chaos/**/*.test.ts'];

export default defineConfig({
  test: {
    projects: [
      tier('unit', ['shared/*/src/**/*.test.ts', 'services/*/src/**/*.test.ts'], { timeout: 180_000 }),
      tier('tidy', ['test/tidy/**/*.test.ts'], { timeout: 180_000 }),
      tier('contract', ['test/contract/**/*.test.ts'], { timeout: 180_000 }),
      tier('sim', ['test/sim/**/*.test.ts'], { timeout: 600_000 }),
      tier('integration', ['test/integration/**/*.test.ts'], { timeout: 180_000, exclude: ALONE }),
      tier('e2e', ['test/e2e/**/*.test.ts'], { timeout: 300_000, exclude: ALONE }),
      tier('alone', ALONE, { timeout: 300_000 }),
      tier('browser', ['test/browser/**/*.test.ts'], { timeout: 180_000 }),
    ],
  },
});
