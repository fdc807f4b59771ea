// npm run sim -- --seed N --runs K [--trace]: builds what is missing, then runs that many simulated worlds.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { prepare, ROOT } from './prepare.mjs';

prepare();
const { status } = spawnSync(process.execPath, [join(ROOT, 'test/dist/sim/main.js'), ...process.argv.slice(2)], {
  stdio: 'inherit',
});
process.exit(status ?? 1);
