// npm start: install and build what is missing, then run the demo until Ctrl-C.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { prepare, ROOT } from './prepare.mjs';

prepare();
const demo = spawn(join(ROOT, 'services/cli/bin/tributary.js'), ['demo', ...process.argv.slice(2)], {
  cwd: ROOT,
  stdio: 'inherit',
});
// Ctrl-C reaches the demo by itself, because it shares the terminal; a signal sent to this process alone is passed on.
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.stdin.isTTY || demo.kill(signal));
demo.on('exit', (code, signal) => process.exit(signal ? 130 : (code ?? 1)));
