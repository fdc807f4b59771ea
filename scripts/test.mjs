// npm test: install and build what is missing, then every check and every test tier, the fast ones first.
// `npm test -- unit contract` runs only those tiers. Prints one line of totals at the end.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fail, prepare, ROOT } from './prepare.mjs';

/**
 * Tiers that share one run, so that no core rests while one of them waits for its last file, and how many files
 * run at once on two cores: those that start servers wait as long as they work.
 */
const STAGES = [
  { tiers: ['unit', 'tidy', 'contract', 'sim'], atOnce: 2 },
  { tiers: ['integration', 'e2e'], atOnce: 3 },
  { tiers: ['alone'], atOnce: 1 },
  { tiers: ['browser'], atOnce: 1 },
];
const TIERS = STAGES.flatMap(({ tiers }) => tiers);
const chosen = process.argv.slice(2);
for (const name of chosen) if (!TIERS.includes(name)) fail(`There is no tier "${name}". Tiers: ${TIERS.join(', ')}.`);

prepare();
const bin = (name) => join(ROOT, 'node_modules', '.bin', name);
let passed = 0;
let failed = 0;
/** What failed, told once more at the end: the place of a failure is lost among the lines of the tiers after it. */
const failures = [];

function check(name, command, args) {
  console.log(`\n── ${name}`);
  const { status } = spawnSync(command, args, { cwd: ROOT, stdio: 'inherit' });
  if (status === 0) {
    passed++;
    return;
  }
  failed++;
  failures.push(`${name}: ended with ${status}`);
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

/** Failed files and tests of a stage, each with the first lines of what it said. */
function failuresOf(stage, files, status) {
  const told = files.flatMap((file) => {
    const name = relative(ROOT, file.name);
    const tests = file.assertionResults.filter((one) => one.status === 'failed');
    if (tests.length === 0 && file.status === 'failed') return [`${name}\n${firstLines(file.message ?? '')}`];
    return tests.map((one) => `${name} > ${one.fullName}\n${firstLines(one.failureMessages.join('\n'))}`);
  });
  return told.length > 0 ? told : [`${stage}: vitest ended with ${status}; what it said stands above`];
}

/** Files that took longest, in seconds: where to look when all of it takes too long. */
function longestOf(files) {
  const took = files.map(({ name, startTime, endTime }) => ({
    name: relative(ROOT, name),
    seconds: (endTime - startTime) / 1_000,
  }));
  const longest = took.toSorted((a, b) => b.seconds - a.seconds).slice(0, 12);
  return longest.map(({ name, seconds }) => `${name} ${Math.round(seconds)}`).join(', ');
}

const firstLines = (text) =>
  text
    .split('\n')
    .slice(0, 12)
    .map((line) => `    ${line.slice(0, 300)}`)
    .join('\n');

const reports = mkdtempSync(join(tmpdir(), 'tributary-test-'));
let skipped = 0;
const times = [];
for (const { tiers: all, atOnce } of STAGES) {
  const tiers = all.filter((tier) => chosen.length === 0 || chosen.includes(tier));
  if (tiers.length === 0) continue;
  const stage = tiers.join(', ');
  console.log(`\n── ${stage}`);
  if (tiers.includes('browser')) obtainChromium();
  const report = join(reports, `${tiers[0]}.json`);
  const projects = tiers.flatMap((tier) => ['--project', tier]);
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile=${report}`];
  const args = ['run', ...projects, `--maxWorkers=${atOnce}`, ...reporters];
  const began = performance.now();
  const { status } = spawnSync(bin('vitest'), args, { cwd: ROOT, stdio: 'inherit' });
  const result = existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')) : null;
  passed += result?.numPassedTests ?? 0;
  skipped += (result?.numPendingTests ?? 0) + (result?.numTodoTests ?? 0);
  const broken = result?.numFailedTests ?? 0;
  times.push(`${stage}: ${Math.round((performance.now() - began) / 1_000)} s (longest: ${longestOf(result?.testResults ?? [])})`);
  // A suite that could not even begin counts as a failure of its own.
  failed += status !== 0 && broken === 0 ? 1 : broken;
  if (status !== 0) failures.push(...failuresOf(stage, result?.testResults ?? [], status));
}
rmSync(reports, { recursive: true, force: true });
for (const line of failures) console.log(`\nfailed  ${line}`);
console.log(`\n${times.join('\n')}`);
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
process.exit(failed === 0 ? 0 : 1);
