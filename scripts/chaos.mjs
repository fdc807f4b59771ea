// npm run chaos -- --minutes 60 --seed N: the chaos test of tier alone, for as long as wanted. Without --seed a new one is
// chosen and printed. What fails says where the logs are; every process and folder is cleaned up in any case.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { fail, prepare, ROOT } from './prepare.mjs';

function options() {
  try {
    return parseArgs({ options: { minutes: { type: 'string', default: '60' }, seed: { type: 'string' } } }).values;
  } catch (error) {
    return fail(`${error.message}\nUsage: npm run chaos -- [--minutes 60] [--seed N]`);
  }
}

const { minutes, seed } = options();
if (!(Number(minutes) > 0)) fail(`--minutes ${minutes}: expected a number above 0`);
if (seed !== undefined && !/^\d+$/.test(seed)) fail(`--seed ${seed}: expected a whole number`);

prepare();
const { status } = spawnSync(join(ROOT, 'node_modules', '.bin', 'vitest'), ['run', '--project', 'alone', 'test/e2e/chaos'], {
  cwd: ROOT,
  stdio: 'inherit',
  env: { ...process.env, TRIBUTARY_CHAOS_MINUTES: minutes, ...(seed === undefined ? {} : { TRIBUTARY_SEED: seed }) },
});
process.exit(status ?? 1);
