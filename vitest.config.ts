import { defineConfig } from 'vitest/config';

/** One project per tier; each tier's rule stands in CONTRIBUTING.md. Servers are shared by nobody, so files run one after another beyond unit tests. */
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
      tier('unit', ['shared/*/src/**/*.test.ts', 'services/*/src/**/*.test.ts'], 10_000, true),
      tier('tidy', ['test/tidy/**/*.test.ts'], 60_000, true),
      tier('contract', ['test/contract/**/*.test.ts'], 60_000, false),
      tier('sim', ['test/sim/**/*.test.ts'], 600_000, true),
      tier('integration', ['test/integration/**/*.test.ts'], 120_000, false),
      tier('e2e', ['test/e2e/**/*.test.ts'], 300_000, false),
      tier('browser', ['test/browser/**/*.test.ts'], 120_000, false),
    ],
  },
});
