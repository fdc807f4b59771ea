import { defineConfig } from 'vitest/config';

/**
 * One project per tier; each tier's rule stands in CONTRIBUTING.md. Servers are shared by nobody; `npm test` runs two files of a tier at once, and those that measure what waiting costs (e2e) one after another.
 * `timeout` only ends what hangs: what takes 10 s alone on a quiet machine takes a minute on a busy one.
 */
const tier = (name: string, include: string[], timeout: number, parallel: boolean) => ({
  test: {
    name,
    include,
    exclude: ['**/dist/**', '**/node_modules/**'],
    testTimeout: timeout,
    hookTimeout: Math.max(timeout, 60_000),
    fileParallelism: parallel,
    passWithNoTests: false,
  },
});

export default defineConfig({
  test: {
    projects: [
      tier('unit', ['shared/*/src/**/*.test.ts', 'services/*/src/**/*.test.ts'], 180_000, true),
      tier('tidy', ['test/tidy/**/*.test.ts'], 60_000, true),
      tier('contract', ['test/contract/**/*.test.ts'], 180_000, false),
      tier('sim', ['test/sim/**/*.test.ts'], 600_000, true),
      tier('integration', ['test/integration/**/*.test.ts'], 120_000, true),
      tier('e2e', ['test/e2e/**/*.test.ts'], 300_000, false),
      tier('browser', ['test/browser/**/*.test.ts'], 120_000, false),
    ],
  },
});
