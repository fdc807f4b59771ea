// npm run sim -- --seed N --runs K [--trace]: builds what is missing, then runs that many simulated worlds, on every core.
// A process runs a few hundred worlds and ends: promises that never settle keep what they belong to.
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { fail, prepare, ROOT } from './prepare.mjs';

const WORLDS_PER_PROCESS = 250;

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    runs: { type: 'string', default: '1' },
    trace: { type: 'boolean', default: false },
  },
});
const first = Number(values.seed);
const runs = Number(values.runs);
if (!Number.isSafeInteger(first) || !Number.isSafeInteger(runs) || runs < 1) {
  fail('usage: npm run sim -- --seed N --runs K [--trace], whole numbers');
}
prepare();

const began = performance.now();
let next = first;
let done = 0;
let failed = false;

/** Runs one share of the seeds after another until none is left. */
async function work() {
  while (next < first + runs) {
    const seed = next;
    const share = Math.min(WORLDS_PER_PROCESS, first + runs - seed);
    next += share;
    const args = ['--seed', String(seed), '--runs', String(share), ...(values.trace ? ['--trace'] : [])];
    const child = spawn(process.execPath, [join(ROOT, 'test/dist/sim/main.js'), ...args], { stdio: 'inherit' });
    const code = await new Promise((resolve) => child.once('exit', resolve));
    done += share;
    failed ||= code !== 0;
  }
}
await Promise.all(Array.from({ length: availableParallelism() }, work));
const seconds = Math.round((performance.now() - began) / 1000);
if (runs > WORLDS_PER_PROCESS)
  console.log(`${done} seeds in ${seconds} s: ${failed ? 'some broke a rule' : 'every rule held for every seed'}`);
process.exit(failed ? 1 : 0);
