// What `npm start` and `npm test` need before anything else: dependencies as the lock file names them, and a build.
// Uses nothing of node_modules, because it may not be there yet.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const STAMP = join(ROOT, 'node_modules', '.tributary-lock');

/** Runs a program to its end with its output shown. Ends this process with its exit code when it fails. */
export function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: ROOT, stdio: 'inherit', ...options });
  if (error) fail(`${command} could not be run: ${error.message}`);
  if (status !== 0) process.exit(status ?? 1);
}

export function fail(message) {
  console.error(message);
  process.exit(1);
}

export function prepare() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19))
    fail(`Tributary needs Node.js 20.19 or newer; this is ${process.versions.node}.`);
  const lock = createHash('sha256')
    .update(readFileSync(join(ROOT, 'package-lock.json')))
    .digest('hex');
  const installed = existsSync(STAMP) && readFileSync(STAMP, 'utf8') === lock;
  if (!installed) {
    console.error('Installing dependencies (npm ci) …');
    run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error']);
    writeFileSync(STAMP, lock);
  }
  // Output of stdout goes to stderr: a command's stdout belongs to its result.
  run(join(ROOT, 'node_modules', '.bin', 'tsc'), ['-b'], { stdio: ['ignore', 2, 2] });
  run(process.execPath, [join(ROOT, 'scripts', 'bundle.mjs')], { stdio: ['ignore', 2, 2] });
}
