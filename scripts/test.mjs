// npm test: install and build what is missing, then every check and every test tier, in the order of their speed.
// `npm test -- unit contract` runs only those tiers. Prints one line of totals at the end.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fail, prepare, ROOT } from './prepare.mjs';

const TIERS = ['unit', 'tidy', 'contract', 'sim', 'integration', 'e2e', 'browser'];
const chosen = process.argv.slice(2);
for (const name of chosen) if (!TIERS.includes(name)) fail(`There is no tier "${name}". Tiers: ${TIERS.join(', ')}.`);

prepare();
const bin = (name) => join(ROOT, 'node_modules', '.bin', name);
let passed = 0;
let failed = 0;

function check(name, command, args) {
  console.log(`\n── ${name}`);
  const { status } = spawnSync(command, args, { cwd: ROOT, stdio: 'inherit' });
  if (status === 0) passed++;
  else failed++;
}

if (chosen.length === 0) {
  check('build, lint, format', bin('turbo'), ['run', '//#build', '//#lint', '//#format:check', '--output-logs=errors-only']);
}

/** The browser tier needs Debian's Chromium. As root it is installed; otherwise the tier says what to install, and skips. */
function obtainChromium() {
  const there = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].some((path) => existsSync(path));
  if (there || process.getuid?.() !== 0 || !existsSync('/usr/bin/apt-get')) return;
  console.log('Installing chromium for the browser tests (apt-get install chromium) …');
  const apt = (...args) =>
    spawnSync('apt-get', args, {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    });
  if (apt('install', '-y', '--no-install-recommends', 'chromium').status !== 0) {
    apt('update');
    apt('install', '-y', '--no-install-recommends', 'chromium');
  }
}

const reports = mkdtempSync(join(tmpdir(), 'tributary-test-'));
let skipped = 0;
const times = [];
for (const tier of chosen.length > 0 ? chosen : TIERS) {
  console.log(`\n── ${tier}`);
  if (tier === 'browser') obtainChromium();
  const report = join(reports, `${tier}.json`);
  const args = ['run', '--project', tier, '--maxWorkers=2', '--reporter=default', '--reporter=json', `--outputFile=${report}`];
  const began = performance.now();
  const { status } = spawnSync(bin('vitest'), args, { cwd: ROOT, stdio: 'inherit' });
  const result = existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')) : null;
  passed += result?.numPassedTests ?? 0;
  skipped += (result?.numPendingTests ?? 0) + (result?.numTodoTests ?? 0);
  const broken = result?.numFailedTests ?? 0;
  times.push(`${tier} ${Math.round((performance.now() - began) / 1_000)} s`);
  // A suite that could not even begin counts as a failure of its own.
  failed += status !== 0 && broken === 0 ? 1 : broken;
}
rmSync(reports, { recursive: true, force: true });
console.log(`\n${times.join(', ')}`);
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
process.exit(failed === 0 ? 0 : 1);
